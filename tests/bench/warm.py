"""Reading a model's weights: from the disk, and after agentd has read them ahead; what that costs agentd's loop."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pagecache
from figures import Row, Section
from rig import load_average, say

from agentd.adapters.weights import WeightFiles

MIB = 1024**2
SHARDS = 4
SAMPLE = 0.002


def measure(folder: Path, rounds: int, size: int) -> list[Section]:
    """`size` bytes of weights are written below `folder`, which must be on the disk that is meant."""
    model = folder / "warm-model"
    try:
        say(f"bench: {size // MIB} MiB of weights in {model}")
        _make(model, size)
        return [_section(model, rounds, size)]
    finally:
        shutil.rmtree(model, ignore_errors=True)


def _section(model: Path, rounds: int, size: int) -> Section:
    cold: list[float] = []
    ahead: list[float] = []
    warmed: list[float] = []
    again: list[float] = []
    lags: list[float] = []
    idle: list[float] = []
    notes: list[str] = []
    for _ in range(rounds):
        left = _drop(model)
        if left > size // 20:
            notes = [f"{left // MIB} MiB stayed in the page cache: the cold figures are too good"]
        cold.append(_timed(lambda: _read(model)))
        _drop(model)
        took, lag = asyncio.run(_warm(model))
        ahead.append(took)
        lags.append(lag)
        idle.append(asyncio.run(_lag(asyncio.sleep(took / 1000)))[1])
        warmed.append(_timed(lambda: _read(model)))
        again.append(asyncio.run(_warm(model))[0])
    rows = [
        Row("read from the disk", tuple(cold)),
        Row("read after agentd has read it ahead", tuple(warmed)),
        Row("agentd reads ahead", tuple(ahead)),
        Row("agentd, when all of it is cached", tuple(again)),
        Row("longest delay of agentd's loop meanwhile", tuple(lags), compare=False),
        Row("longest delay of a loop that does nothing for as long", tuple(idle), compare=False),
    ]
    return Section(f"Weights of {size // MIB} MiB, cold and read ahead", rows, (), notes, load_average())


def _make(model: Path, size: int) -> None:
    shutil.rmtree(model, ignore_errors=True)
    model.mkdir(parents=True)
    for shard in range(SHARDS):
        with (model / f"model-{shard}.safetensors").open("wb") as file:
            for _ in range(size // SHARDS // MIB):
                file.write(os.urandom(MIB))
            file.flush()
            os.fsync(file.fileno())


def _drop(model: Path) -> int:
    """Take the files out of the page cache; the bytes that stay all the same."""
    left = 0
    for path in model.iterdir():
        pagecache.drop(path)
        left += pagecache.cached(path) or 0
    return left


def _read(model: Path) -> None:
    """As a loader does: file after file, from the beginning to the end."""
    buffer = bytearray(MIB)
    for path in sorted(model.iterdir()):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def _timed(work: Callable[[], object]) -> float:
    begun = time.monotonic()
    work()
    return (time.monotonic() - begun) * 1000


async def _warm(model: Path) -> tuple[float, float]:
    return await _lag(WeightFiles().warm(str(model), 1 << 50, lambda *_: None))


async def _lag(work: Coroutine[Any, Any, object]) -> tuple[float, float]:
    """Milliseconds that it took, and the longest that the loop was held up."""
    worst = 0.0

    async def watch() -> None:
        nonlocal worst
        while True:
            begun = time.monotonic()
            await asyncio.sleep(SAMPLE)
            worst = max(worst, time.monotonic() - begun - SAMPLE)

    watcher = asyncio.ensure_future(watch())
    begun = time.monotonic()
    await work
    took = time.monotonic() - begun
    watcher.cancel()
    return took * 1000, worst * 1000
