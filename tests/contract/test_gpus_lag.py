"""The event loop stays quick whatever the driver does, a call that hangs for half a minute too."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from nvml import shim

TESTS = Path(__file__).resolve().parents[1]
HANG = 30.0
LIMIT = 0.05


async def measured(what: str, seconds: float) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    command = (sys.executable, "-m", "nvml.lag", what, str(seconds))
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(seconds + 25):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.mark.soak
@pytest.mark.timeout(90)
async def test_the_loop_is_never_held() -> None:
    shim.build()
    machine, states, hung = await asyncio.gather(
        measured("control", HANG), measured("scenarios", HANG - 5), measured("hang", HANG)
    )
    # An idle loop beside them says how late this machine is by itself.
    limit = max(LIMIT, 2 * machine["p99"])
    assert states["p99"] < limit, machine
    assert hung["p99"] < limit, machine
    assert min(states["samples"], hung["samples"]) > 1000

    seen = states["seen"]
    for name in ("1", "2", "8"):
        assert seen[name] == ["nvml", int(name), ""]
    assert seen["0"][:2] == ["nvml", 0]
    assert "GPU GPU-7, which was number 7, is not there any more" in seen["0"][2]
    for name in ("busy", "unsupported", "xids", "released"):
        assert seen[name] == ["nvml", 8, ""], name
    assert seen["lost"] == ["nvml", 7, "GPU 0: GPU is lost"]
    for name in ("unloaded", "mismatch", "hang"):
        assert seen[name][1] == 0
        assert seen[name][2]

    found = hung["seen"]
    assert found["hung"] >= HANG - 1
    assert found["errors"] > 50
    assert found["waiting"] <= 1
    assert (found["same"], found["after"]) == (True, "")
