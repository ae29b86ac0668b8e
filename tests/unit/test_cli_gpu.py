"""agentctl gpu, and what agentctl status says of GPUs."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import pytest
from fakes.cli import Run
from fakes.serving import Served

from agentd.findings import Finding, Severity, Verdict
from agentd.gpu import Gpu, GpuDetails, GpuDriver, GpuFault, GpuHolder, GpuProcess, GpuSnapshot
from agentd.types import ExitCode

GIB = 1 << 30
FULL = GpuDetails(0.87, 0.4, 61.0, 250.5, 450.0, ("power-cap", "thermal"))


def card(index: int, details: GpuDetails | None = None) -> Gpu:
    return Gpu(index, f"GPU-{index}", "Card", 24 * GIB, 9 * GIB, 15 * GIB, details=details)


def show(server: Served, what: GpuSnapshot) -> None:
    server.call(lambda ops: setattr(ops, "gpu", what))


def test_the_table(server: Served, run: Run) -> None:
    holders = (
        GpuHolder(0, 70, "vllm-qwen.service", "python3", 8 * GIB, False),
        GpuHolder(0, 71, "", "\x1b[31mtrain", 0, True),
    )
    processes = tuple(GpuProcess(h.pid, 0, h.used) for h in holders)
    driver = GpuDriver("580.65", "13.0")
    gpus = (card(0, FULL), card(1, GpuDetails(throttle=())))
    show(server, GpuSnapshot("nvml", gpus, processes, driver=driver, holders=holders))
    lines = run("gpu").out.splitlines()
    assert lines[0] == "NVIDIA driver 580.65, CUDA 13.0"
    assert re.split("  +", lines[2])[-4:] == ["87%", "61 °C", "250 of 450 W", "power-cap, thermal"]
    assert re.split("  +", lines[3]) == ["1", "Card", "9.0 GiB", "15.0 GiB", "24.0 GiB", "-", "-", "-", "no"]
    assert [line.split() for line in lines[6:]] == [
        ["0", "vllm-qwen.service", "70", "8192", "MiB"],
        ["0", "[31mtrain", "71", "not", "told", "foreign"],
        ["0", "(no", "process", "is", "listed)", "1024", "MiB"],
        ["1", "(no", "process", "is", "listed)", "9216", "MiB"],
    ]


def test_an_old_look_says_so(server: Served, run: Run) -> None:
    show(server, GpuSnapshot("nvml", (card(0),), observed=time.time() - 12))
    assert re.fullmatch("as of 1[2-9] s ago", run("gpu").out.splitlines()[-1])
    show(server, GpuSnapshot("nvml", (card(0),), observed=time.time() + 3600))
    assert "as of" not in run("gpu").out


def test_what_can_be_read_is_shown_beside_what_cannot(server: Served, run: Run) -> None:
    show(server, GpuSnapshot("nvml", (card(1),), error="GPU 0: GPU is lost"))
    result = run("gpu")
    assert result.code == ExitCode.FAILED
    assert "Card" in result.out
    assert "cannot read every GPU: GPU 0: GPU is lost" in result.out


LOST = GpuFault("lost", "GPU GPU-0, which was number 0, is not there any more", -1, "GPU-0")
ABSENT = GpuFault("absent", "NVML Shared Library Not Found")


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        (GpuSnapshot(faults=(ABSENT,)), ExitCode.OK, "no NVIDIA GPU is seen; slots work without"),
        (GpuSnapshot("nvml", faults=(LOST,)), ExitCode.FAILED, "cannot read the GPUs: GPU GPU-0, which was number 0,"),
        (GpuSnapshot("nvml"), ExitCode.FAILED, "cannot read the GPUs: the NVIDIA driver lists none"),
        (GpuSnapshot("nvml", error="NVML hangs"), ExitCode.FAILED, "cannot read the GPUs: NVML hangs"),
        (GpuSnapshot("nvml", (card(1),), error="GPU 0: GPU is lost"), ExitCode.FAILED, "cannot read every GPU: GPU 0"),
    ],
)
def test_only_a_machine_without_a_driver_has_no_gpu_and_json_ends_alike(
    server: Served, run: Run, what: GpuSnapshot, code: int, said: str
) -> None:
    show(server, what)
    plain, data = run("gpu"), run("gpu", "--json")
    assert (plain.code, data.code) == (code, code)
    assert said in plain.out
    assert ("no NVIDIA GPU is seen" in plain.out) is (code == ExitCode.OK)


def test_status_tells_warnings_and_errors(server: Served, run: Run) -> None:
    wrong = Finding("gpu:0", "xid-79", Verdict.NOT_EFFECTIVE, Severity.ERROR, cause="it fell off the bus", fix="reboot")
    less = replace(wrong, severity=Severity.INFO, cause="a program failed")
    server.call(lambda ops: setattr(ops, "gpu_finding_list", [wrong, less]))
    result = run("status")
    assert "! gpu:0: it fell off the bus; reboot\n" in result.out
    assert "a program failed" not in result.out
    assert run("status", "--check").code == ExitCode.FAILED
