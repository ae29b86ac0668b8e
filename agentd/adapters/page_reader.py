"""Asks the kernel to have files in memory. A program of its own, so that it can be in another cgroup than agentd.

    python -I -S page_reader.py LIMIT FILE...

Writes the bytes that are in memory by now, a line per piece. Nothing is copied: what is there already costs next to
nothing. Imports nothing of ours. Files that cannot be read are left out.
"""

import os
import sys

PIECE = 8 * 1024 * 1024
STEP = 128 * 1024
"""Bytes that the kernel reads ahead on request, whatever the device: more would be cut off silently."""


def warm(path: str, limit: int, done: int) -> int:
    """Up to `limit` bytes in all; `done` and what of this file is in memory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # A FIFO would hold us.
    try:
        size, asked = min(os.fstat(descriptor).st_size, limit - done), 0
        for begin in range(0, size, PIECE):
            end = min(size, begin + PIECE)
            # One piece ahead of what is waited for: the device is never idle, and ends soon when we are killed.
            while asked < min(size, end + PIECE):
                os.posix_fadvise(descriptor, asked, STEP, os.POSIX_FADV_WILLNEED)
                asked += STEP
            for at in range(begin, end, STEP):
                os.pread(descriptor, 1, min(at + STEP, end) - 1)
            done += end - begin
            os.write(1, b"%d\n" % done)
        return done
    finally:
        os.close(descriptor)


def main(limit: int, paths: list[str]) -> None:
    done = 0
    for path in paths:
        try:
            done = warm(path, limit, done)
        except OSError:
            continue


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
