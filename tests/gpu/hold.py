"""Holds GPU memory until it is ended; the standard library and the driver's libcuda.so.1 alone.

hold.py MIB [ORDINAL] [READY]      READY: a file that is made once the memory is held
"""

from __future__ import annotations

import ctypes
import signal
import sys
import time
from pathlib import Path


def check(cuda: ctypes.CDLL, name: str, *arguments: object) -> None:
    code = getattr(cuda, name)(*arguments)
    if code:
        sys.exit(f"hold.py: {name} failed with CUDA error {code}")


def main() -> None:
    size, ordinal = int(sys.argv[1]) << 20, int(sys.argv[2]) if len(sys.argv) > 2 else 0
    cuda = ctypes.CDLL("libcuda.so.1")
    device, context, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
    check(cuda, "cuInit", 0)
    check(cuda, "cuDeviceGet", ctypes.byref(device), ordinal)
    # The primary context: cuCtxCreate has other parameters in CUDA 13.
    check(cuda, "cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    check(cuda, "cuCtxSetCurrent", context)
    check(cuda, "cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(size))
    check(cuda, "cuMemsetD8_v2", memory, ctypes.c_ubyte(1), ctypes.c_size_t(size))
    check(cuda, "cuCtxSynchronize")
    if len(sys.argv) > 3:
        Path(sys.argv[3]).touch()
    print("ready", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    time.sleep(600)


if __name__ == "__main__":
    main()
