"""Rename this process as setproctitle does, without it: in `ps`, in /proc/PID/comm and in /proc/PID/cmdline."""

from __future__ import annotations

import os


def set_title(title: str) -> None:
    data = title.encode()
    with open("/proc/self/comm", "wb") as comm:
        comm.write(data[:15])
    with open("/proc/self/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    room = end - start
    memory = os.open("/proc/self/mem", os.O_WRONLY)
    try:
        os.pwrite(memory, data[: room - 1].ljust(room, b"\0"), start)
    finally:
        os.close(memory)
