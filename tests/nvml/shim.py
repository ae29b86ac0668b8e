"""The simulated libnvidia-ml.so.1 (shim.c): built once, loaded below the real pynvml, and told by a file what it is."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

ENVIRONMENT = "AGENTD_NVML_SHIM"
ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).with_name("shim.c")
LIBRARY = ROOT / ".cache" / "nvml" / "libnvidia-ml.so.1"
GIB = 1024**3
DRIVER = ("driver 580.65.06", "nvml 13.580.65.06", "cuda 13000")


def build() -> Path:
    """The library, newer than its source. Two who build at once each put a whole one in place."""
    if LIBRARY.exists() and LIBRARY.stat().st_mtime >= SOURCE.stat().st_mtime:
        return LIBRARY
    LIBRARY.parent.mkdir(parents=True, exist_ok=True)
    made = LIBRARY.with_name(f".{LIBRARY.name}.{os.getpid()}")
    command = [shutil.which("gcc") or "cc", "-Wall", "-Wextra", "-Werror", "-O1", "-fPIC", "-shared"]
    subprocess.run([*command, f"-Wl,-soname,{LIBRARY.name}", "-o", made, SOURCE], check=True, timeout=60)
    made.replace(LIBRARY)
    return LIBRARY


def load() -> None:
    """pynvml asks for the library by its bare name: the loader then gives it the one that is there already."""
    ctypes.CDLL(str(build()))


def gpu(index: int, **fields: object) -> str:
    """A line of the scenario. A GPU that supports everything; a field set to None is not supported."""
    usual: dict[str, object] = {
        "uuid": f"GPU-{index}", "name": "NVIDIA-Shim", "total": 24 * GIB, "used": 9 * GIB, "reserved": GIB,
        "bus": f"00000000:0{index + 1}:00.0", "temp": 61, "power": 250500, "limit": 450000, "util": 87, "memutil": 40,
        "reasons": 0, "ecc": 3, "ecc2": 0, "mig": 0,
    }  # fmt: skip
    usual |= fields
    return " ".join([f"gpu {index}", *(f"{k}={v}" for k, v in usual.items() if v is not None)])


def write(path: Path, lines: Iterable[str]) -> None:
    """Whole at any moment: a call may be reading it."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text("".join(f"{line}\n" for line in lines))
    fresh.replace(path)


class Shim:
    """A machine with `driver`, `gpus` (index -> line) and more `lines`; `put` makes it so."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.driver: tuple[str, ...] = DRIVER
        self.gpus: dict[int, str] = {}
        self.lines: list[str] = []
        self.put()

    def put(self, *lines: str, gpus: int | None = None) -> None:
        """Replace the lines beside the driver's and the GPUs', and with `gpus` those by so many usual ones."""
        if gpus is not None:
            self.gpus = {index: gpu(index) for index in range(gpus)}
        self.lines = list(lines)
        write(self.path, (*self.driver, *self.gpus.values(), *self.lines))
