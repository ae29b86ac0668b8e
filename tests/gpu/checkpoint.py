"""Is the checkpoint of a CUDA process a way to take the GPU from a model? Measured: it is printed, nothing is asserted.

usage: checkpoint.py [--gib 1 8 32] [--cycles 50]      needs cuda-bindings, a driver from 570 on, and mostly root

A process of its own holds so many GiB with a known content. Each cycle locks, checkpoints, restores and unlocks it; the
memory that NVML shows must go and come back, and the content must be the same. Beside it the copy from pinned memory
tells what PCIe can do: a restore within twice that time, and every cycle right, is what agentd would want of it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from typing import Any

GIB = 1024**3
PIECE = 64 * 1024**2
"""The content is written and compared in pieces, each with a value of its own."""
LOCK_MS = 10_000
STEPS = ("lock", "checkpoint", "restore", "unlock")
WANTED = 2.0
"""Times the copy over PCIe that a restore may take."""


def called(result: tuple[Any, ...]) -> Any:
    """The value of a call of the driver. Exits with the driver's own word for what went wrong."""
    code, *values = result
    if int(code) != 0:
        raise SystemExit(f"checkpoint: the driver says {code.name}")
    return values[0] if values else None


def context() -> Any:
    try:
        from cuda.bindings import driver

        called(driver.cuInit(0))
    except ImportError:
        raise SystemExit("checkpoint: cuda-bindings is not installed") from None
    except RuntimeError:
        raise SystemExit("checkpoint: no NVIDIA driver here") from None
    called(driver.cuCtxSetCurrent(called(driver.cuDevicePrimaryCtxRetain(called(driver.cuDeviceGet(0))))))
    return driver


def hold(gib: int) -> None:
    """The other process: takes the memory, says "ready", and answers each line with "right" or "wrong"."""
    driver = context()
    pieces = gib * GIB // PIECE
    start = int(called(driver.cuMemAlloc(gib * GIB)))
    for number in range(pieces):
        called(driver.cuMemsetD32(start + number * PIECE, number + 1, PIECE // 4))
    called(driver.cuCtxSynchronize())
    back = bytearray(PIECE)
    print("ready", flush=True)
    for _ in sys.stdin:
        right = True
        for number in range(pieces):
            called(driver.cuMemcpyDtoH(back, start + number * PIECE, PIECE))
            right = right and back == (number + 1).to_bytes(4, sys.byteorder) * (PIECE // 4)
        print("right" if right else "wrong", flush=True)


def bandwidth(driver: Any) -> float:
    """Bytes a second from pinned memory to the GPU; the best of five copies of 1 GiB."""
    host, device = called(driver.cuMemHostAlloc(GIB, 0)), called(driver.cuMemAlloc(GIB))
    best = 0.0
    for _ in range(5):
        begun = time.perf_counter()
        called(driver.cuMemcpyHtoD(device, host, GIB))
        called(driver.cuCtxSynchronize())
        best = max(best, GIB / (time.perf_counter() - begun))
    called(driver.cuMemFree(device))
    called(driver.cuMemFreeHost(host))
    return best


class Holder:
    def __init__(self, gib: int) -> None:
        command = [sys.executable, __file__, "--hold", str(gib)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid
        self._expect("ready")

    def _expect(self, word: str) -> bool:
        assert self._process.stdout is not None
        said = self._process.stdout.readline().strip()
        if not said:
            raise SystemExit("checkpoint: the process that holds the memory has ended")
        return said == word

    def right(self) -> bool:
        assert self._process.stdin is not None
        self._process.stdin.write("compare\n")
        self._process.stdin.flush()
        return self._expect("right")

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def cycle(driver: Any, pid: int) -> dict[str, float]:
    """Seconds of each step, and the bytes that were free while the process had none."""
    lock = driver.CUcheckpointLockArgs()
    lock.timeoutMs = LOCK_MS
    calls = {
        "lock": lambda: driver.cuCheckpointProcessLock(pid, lock),
        "checkpoint": lambda: driver.cuCheckpointProcessCheckpoint(pid, None),
        "restore": lambda: driver.cuCheckpointProcessRestore(pid, None),
        "unlock": lambda: driver.cuCheckpointProcessUnlock(pid, None),
    }
    found = {}
    for name in STEPS:
        begun = time.perf_counter()
        called(calls[name]())
        found[name] = time.perf_counter() - begun
        if name == "checkpoint":
            found["free"] = float(called(driver.cuMemGetInfo()))
    return found


def measure(driver: Any, gib: int, cycles: int, pcie: float) -> bool:
    """Prints one size; whether it is good enough."""
    holder = Holder(gib)
    try:
        held = called(driver.cuMemGetInfo())
        seconds: dict[str, list[float]] = {name: [] for name in STEPS}
        wrong, kept = 0, 0
        for _ in range(cycles):
            found = cycle(driver, holder.pid)
            for name in STEPS:
                seconds[name].append(found[name])
            kept += found["free"] - held < 0.95 * gib * GIB
            wrong += not holder.right()
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        times = medians["restore"] / (gib * GIB / pcie)
        print(f"{gib:3d} GiB: " + ", ".join(f"{name} {medians[name]:.2f} s" for name in STEPS))
        print(f"         restore {times:.2f} times the copy; of {cycles} cycles {wrong} wrong, {kept} kept memory")
        return times <= WANTED and not wrong and not kept
    finally:
        holder.end()


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/gpu/checkpoint.py")
    parser.add_argument("--gib", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--cycles", type=int, default=50)
    parser.add_argument("--hold", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.hold:
        hold(options.hold)
        return 0
    driver = context()
    pcie = bandwidth(driver)
    print(f"driver {called(driver.cuDriverGetVersion())}, PCIe {pcie / GIB:.1f} GiB/s, uid {os.getuid()}")
    good = [measure(driver, gib, options.cycles, pcie) for gib in options.gib]
    print("good enough" if all(good) else "not good enough")
    return 0


if __name__ == "__main__":
    sys.exit(main())
