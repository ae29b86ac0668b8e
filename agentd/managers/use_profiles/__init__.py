"""The profile of use: chosen as one change, taken back as one."""
