"""Supervision of services: what systemd says, what the pidfd says, what the probes say, and why."""
