"""Rename this process as setproctitle does, without it: in `ps`, in /proc/PID/comm and in /proc/PID/cmdline."""

from __future__ import annotations

import os
from pathlib import Path


def set_title(title: str) -> None:
    data = title.encode()
    Path("/proc/self/comm").write_bytes(data[:15])
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    room = end - start
    memory = os.open("/proc/self/mem", os.O_WRONLY)
    try:
        os.pwrite(memory, data[: room - 1].ljust(room, b"\0"), start)
    finally:
        os.close(memory)
