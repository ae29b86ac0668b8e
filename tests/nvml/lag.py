"""How late an event loop runs its timers while the GPUs are read; a program of its own, which prints one JSON object.

python -m nvml.lag control SECONDS      nothing else in the loop: what the machine itself adds
python -m nvml.lag scenarios SECONDS    one state of the driver after the other, each read as a switch reads
python -m nvml.lag hang SECONDS         one call of the driver hangs for that long
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from agentd.adapters.gpus import GpuReader
from nvml import shim

PERIOD = 0.005
"""Seconds between two samples."""
POLL = 0.1
"""As WAIT_VRAM asks."""
GIB = shim.GIB

Seen = dict[str, Any]


async def sample(lags: list[float]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + PERIOD
        await asyncio.sleep(PERIOD)
        lags.append(loop.time() - due)


async def control(driver: shim.Shim, seconds: float) -> Seen:
    await asyncio.sleep(seconds)
    return {}


async def scenarios(driver: shim.Shim, seconds: float) -> Seen:
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    reader = GpuReader(timeout=0.3)
    stuck = driver.path.with_name("stuck")
    seen: Seen = {}
    while loop.time() < end:
        for name, lines in _states(stuck).items():
            if name == "released":
                stuck.unlink(missing_ok=True)
            elif name == "hang":
                stuck.touch()
            driver.put(*lines, gpus=int(name) if name.isdigit() else 8)
            for turn in range(4):
                found = await reader.read(details=turn % 2 == 0)
                await asyncio.sleep(POLL / 4)
            seen[name] = [found.source, len(found.gpus), found.error]
    await reader.close()
    return seen


def _states(stuck: Path) -> dict[str, list[str]]:
    """Name -> lines; a number is a machine with so many GPUs, everything else has eight."""
    links = [f"link {gpu} {link} active=1" for gpu in range(8) for link in range(18)]
    held = [f"proc {gpu} pid={100 + n} used={GIB}" for gpu in range(8) for n in range(20)]
    unsupported = [
        f"error nvmlDeviceGet{name} 3" for name in ("UtilizationRates", "Temperature", "PowerUsage", "MigMode")
    ]
    return {
        **{str(count): [] for count in (0, 1, 2, 8)},
        "busy": links + held,
        "unsupported": [*unsupported, "proc 0 pid=100 used=na"],
        "lost": ["error * 15 0"],
        "unloaded": ["error * 9"],
        "mismatch": ["error * 18", "error nvmlInitWithFlags 18"],
        "xids": [f"xid 0 {code}" for code in range(200)],
        "hang": [f"hang nvmlDeviceGetUUID {stuck}"],
        "released": [],
    }


async def hang(driver: shim.Shim, seconds: float) -> Seen:
    loop = asyncio.get_running_loop()
    reader = GpuReader(timeout=1.0)
    driver.put(gpus=2)
    before = await reader.read(details=True)
    driver.put(f"sleep nvmlDeviceGetTemperature {seconds}", gpus=2)
    began, errors, slowest, waiting = loop.time(), 0, 0.0, 0
    while True:
        asked = loop.time()
        found = await reader.read(details=errors % 2 == 0)
        slowest = max(slowest, loop.time() - asked)
        waiting = max(waiting, reader._requests.qsize())
        if not found.error:
            break
        errors += 1
        driver.put(gpus=2)
        await asyncio.sleep(POLL)
    hung = loop.time() - began
    after = await reader.read(details=True)
    await reader.close()
    return {"errors": errors, "hung": hung, "slowest": slowest, "waiting": waiting,
            "same": [g.uuid for g in before.gpus] == [g.uuid for g in after.gpus], "after": after.error}  # fmt: skip


async def measure(work: Callable[[shim.Shim, float], Awaitable[Seen]], seconds: float) -> Seen:
    lags: list[float] = []
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "driver"
        os.environ[shim.ENVIRONMENT] = str(path)
        driver = shim.Shim(path)
        task = asyncio.ensure_future(sample(lags))
        seen = await work(driver, seconds)
        task.cancel()
    lags.sort()
    return {"samples": len(lags), "p99": lags[int(len(lags) * 0.99)], "max": lags[-1], "seen": seen}


def main() -> None:
    shim.load()
    work = {"control": control, "scenarios": scenarios, "hang": hang}[sys.argv[1]]
    print(json.dumps(asyncio.run(measure(work, float(sys.argv[2])))))


if __name__ == "__main__":
    main()
