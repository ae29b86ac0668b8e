"""The sandbox's pynvml is read as the real one is: the same fields, absences and failures, from gpu.json."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentd.adapters.gpus import GpuReader
from agentd.gpu import GpuDetails, GpuProcess, NvLink
from agentd.sandbox.gpu import GIB, Memory
from agentd.sandbox.home import NVML

Put = Callable[..., None]
FULL = {
    "uuid": "GPU-full", "bus": "00000000:01:00.0", "total": 8 * GIB, "utilization": 87, "memory_utilization": 40,
    "temperature": 61, "power": 250500, "power_limit": 450000, "throttle": 0x44, "ecc": [3, 1],
    "links": [{"active": True, "peer": "00000000:02:00.0"}, {"active": False}],
}  # fmt: skip


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Put:
    spec = importlib.util.spec_from_file_location("pynvml", NVML / "pynvml.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.setenv("AGENTD_STANDIN_GPU", str(tmp_path))

    def write(**state: Any) -> None:
        fresh = tmp_path / "gpu.json.new"
        fresh.write_text(json.dumps(state))
        fresh.replace(tmp_path / "gpu.json")

    write(gpus=[FULL, {"total": 4 * GIB}])
    return write


async def test_details_and_memory(put: Put, tmp_path: Path) -> None:
    Memory(tmp_path).claim(os.getpid(), GIB, gpu=1)
    reader = GpuReader()
    found = await reader.read(details=True)
    full, bare = found.gpus
    assert (found.error, full.uuid, full.bus_id, bare.bus_id) == ("", "GPU-full", "00000000:01:00.0", "")
    links = (NvLink(0, True, "00000000:02:00.0"), NvLink(1, False))
    held = ("power-cap", "hw-thermal")
    assert full.details == GpuDetails(0.87, 0.4, 61.0, 250.5, 450.0, held, 3, 1, links)
    assert bare.details == GpuDetails()
    assert found.processes == (GpuProcess(os.getpid(), 1, GIB),)
    assert found.driver is not None
    assert found.driver.cuda == "13.0"
    await reader.close()


async def test_a_lost_gpu_and_a_lost_driver(put: Put) -> None:
    reader = GpuReader()
    await reader.read()
    put(gpus=[FULL, {"lost": True}])
    found = await reader.read(details=True)
    assert ([g.index for g in found.gpus], found.error) == ([0], "GPU 1: GPU is lost")
    put(nvml_error=18, init_error=18)
    for _ in range(2):
        found = await reader.read()
        assert (found.gpus, [f.kind for f in found.faults]) == ((), ["mismatch"])
    put(gpus=[FULL])
    found = await reader.read()
    assert ([g.index for g in found.gpus], found.error) == ([0], "")
    await reader.close()


async def test_xids_and_a_call_that_hangs(put: Put, tmp_path: Path) -> None:
    reader = GpuReader(timeout=0.2)
    await reader.read()
    put(gpus=[FULL], xids=[[0, 13], [0, 79]])
    found = await reader.read(details=True)
    assert [(x.gpu, x.code) for x in found.xids] == [(0, 13), (0, 79)]
    stuck = tmp_path / "stuck"
    stuck.touch()
    put(gpus=[FULL], hang_file=str(stuck))
    assert [f.kind for f in (await reader.read()).faults] == ["hang"]
    waiting = [request.answer for request in reader._pending.values()]
    stuck.unlink()
    for answer in waiting:
        assert (await answer).error == ""
    await reader.close()
