"""The single-instance slot: one owner task each, and the phases of a switch."""
