"""What is told of GPUs: from a view alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentd.core.gpu_findings import GpuView, gpu_findings
from agentd.core.schema import Slot
from agentd.core.xids import DAY, HOUR, XIDS, meaning
from agentd.findings import Finding, Severity
from agentd.gpu import Gpu, GpuDetails, GpuFault, GpuSnapshot, MigInstance, NvLink, Xid

NOW = 1_000_000.0
GIB = 1024**3
A, B = "00000000:01:00.0", "00000000:02:00.0"
ONE, TWO = {"gpu0": Slot()}, {"gpu0": Slot(gpus=(0, 1))}


def gpu(index: int, bus: str = A, uuid: str = "", **details: object) -> Gpu:
    more = GpuDetails(**details)  # type: ignore[arg-type]
    return Gpu(index, uuid or f"GPU-{index}", "Card", 24 * GIB, GIB, 23 * GIB, bus, more)


def snapshot(*gpus: Gpu, **more: object) -> GpuSnapshot:
    return GpuSnapshot("nvml", gpus, observed=NOW, **more)  # type: ignore[arg-type]


def found(what: GpuSnapshot, slots: dict[str, Slot] = ONE, **more: object) -> tuple[Finding, ...]:
    return gpu_findings(GpuView(what, NOW, **more), slots)  # type: ignore[arg-type]


def brief(findings: tuple[Finding, ...]) -> list[tuple[str, str, str]]:
    assert all(f.cause and f.fix and "\n" not in f.cause + f.fix for f in findings)
    return [(f.subject, f.aspect, f.severity.value) for f in findings]


def test_a_healthy_gpu_and_a_machine_without_one_say_nothing() -> None:
    busy = gpu(
        0, utilization=1.0, throttle=("power-cap", "clock-setting"), ecc_corrected=5, ecc_uncorrected=0, mig=False
    )
    assert found(snapshot(busy)) == ()
    assert found(snapshot(replace(busy, details=None))) == ()
    absent = GpuSnapshot(observed=NOW, faults=(GpuFault("absent", "driver Not Loaded"),))
    assert found(absent) == ()
    assert found(absent, {"gpu0": Slot(vram_probe="none")}) == ()
    (wrong,) = found(absent, {"gpu0": Slot(vram_probe="nvml"), "other": Slot()})
    assert brief((wrong,)) == [("slot:gpu0", "vram_probe", "error")]
    assert wrong.cause == "GPU memory cannot be measured: driver Not Loaded"


def test_a_gpu_of_a_slot_is_missing() -> None:
    (wrong,) = found(snapshot(gpu(0)), TWO)
    assert brief((wrong,)) == [("slot:gpu0", "gpus", "error")]
    assert (wrong.declared, wrong.effective) == ("0, 1", "0")
    assert found(snapshot(gpu(0)), {"gpu0": Slot(gpus=(0, 1), vram_probe="none")}) == ()
    assert brief(found(snapshot())) == [("slot:gpu0", "gpus", "error")]


@pytest.mark.parametrize(
    ("kind", "aspect", "says"),
    [
        ("mismatch", "nvidia-driver", "another version"),
        ("driver", "nvidia-driver", "gone for 42 s"),
        ("hang", "nvml", "has not answered for 42 s"),
        ("error", "nvml", "not been readable for 42 s: what it said"),
    ],
)
def test_what_concerns_all_gpus_is_told_once(kind: str, aspect: str, says: str) -> None:
    what = GpuSnapshot("nvml", error="cannot", faults=(GpuFault(kind, "what it said"),), xids=(Xid(0, 79, NOW, 1),))
    (wrong,) = found(what, TWO, failing=NOW - 42)
    assert brief((wrong,)) == [("host", aspect, "error")]
    assert says in wrong.cause
    assert brief(found(what, {})) == [("host", aspect, "warning")]


def test_a_lost_gpu() -> None:
    fault = GpuFault("lost", "GPU 1: GPU is lost", 1, "GPU-1")
    what = snapshot(gpu(0), error=fault.text, faults=(fault,))
    assert brief(found(what)) == [("gpu:1", "lost", "warning")]
    assert brief(found(what, TWO)) == [("gpu:1", "lost", "error"), ("slot:gpu0", "gpus", "error")]
    gone = GpuFault("lost", "GPU GPU-9 is not there any more", uuid="GPU-9")
    assert brief(found(snapshot(gpu(0), faults=(gone,)))) == [("gpu:GPU-9", "lost", "warning")]
    homes = {"GPU-9": 1, "GPU-0": 0}
    assert brief(found(snapshot(gpu(0), faults=(gone,)), TWO, homes=homes))[0] == ("gpu:1", "lost", "error")
    silent = GpuFault("error", "GPU 0: not Supported", 0)
    assert brief(found(snapshot(faults=(silent,))))[0] == ("gpu:0", "nvml", "error")


def test_an_index_that_moved() -> None:
    what = snapshot(gpu(0, uuid="GPU-b"))
    (wrong,) = found(what, homes={"GPU-a": 0, "GPU-b": 1})
    assert brief((wrong,)) == [("slot:gpu0", "gpus", "warning")]
    assert wrong.cause.endswith("GPU-b, which was number 1")
    assert found(what, homes={"GPU-b": 0}) == ()


def test_errors_heat_and_parts() -> None:
    parts = (MigInstance("MIG-1", "1g", GIB, 0, GIB),)
    hot = gpu(0, ecc_uncorrected=2, throttle=("power-cap", "hw-thermal", "power-brake"), temperature=97.0, mig=True,
              instances=parts)  # fmt: skip
    wrong = found(snapshot(hot))
    assert brief(wrong) == [
        ("gpu:0", "ecc", "error"),
        ("gpu:0", "throttle-hw-thermal", "warning"),
        ("gpu:0", "throttle-power-brake", "warning"),
        ("gpu:0", "mig", "warning"),
    ]
    assert wrong[1].cause.startswith("GPU 0 (97 °C) is held back")
    assert {f.severity for f in found(snapshot(hot), {})} == {Severity.WARNING, Severity.INFO}


def test_links_between_gpus_of_a_slot() -> None:
    up, down = NvLink(0, True, B), NvLink(1, False, B)
    first, second = gpu(0, A, nvlinks=(up, down)), gpu(1, B, nvlinks=(NvLink(0, True, A),))
    (wrong,) = found(snapshot(first, second), TWO)
    assert brief((wrong,)) == [("gpu:0", "nvlink", "warning")]
    assert "NVLink 1 of GPU 0 is down" in wrong.cause
    assert found(snapshot(first, second), {"a": Slot(), "b": Slot(gpus=(1,))}) == ()
    # Without a bridge every link is down and leads nowhere; one that was up before is missed.
    bare = replace(first, details=GpuDetails(nvlinks=(NvLink(0, False), NvLink(1, False))))
    assert found(snapshot(bare, second), TWO) == ()
    assert "NVLink 1 of" in found(snapshot(bare, second), TWO, links={("GPU-0", 1): B})[0].cause
    # Of a switch the peer is no GPU; of a link to a third card it is one that the slot does not need.
    assert len(found(snapshot(bare, second), TWO, links={("GPU-0", 1): ""})) == 1
    third = gpu(2, "00000000:03:00.0")
    assert found(snapshot(bare, second, third), TWO, links={("GPU-0", 1): third.bus_id}) == ()


def test_xids_are_told_while_they_matter() -> None:
    xids = (Xid(0, 31, NOW - 10, 1), Xid(0, 79, NOW - HOUR * 3, 2), Xid(0, 31, NOW - 5, 3), Xid(-1, 119, NOW, 4))
    wrong = found(snapshot(gpu(0), xids=xids))
    assert brief(wrong) == [("gpu:0", "xid-31", "info"), ("gpu:0", "xid-79", "error"), ("host", "xid-119", "error")]
    assert "5 s ago, 2 times: a program used memory" in wrong[0].cause
    assert "3 h ago: the GPU has fallen off the bus" in wrong[1].cause
    late = gpu_findings(GpuView(snapshot(gpu(0), xids=xids), NOW + HOUR + 1), ONE)
    assert [f.aspect for f in late] == ["xid-79", "xid-119"]
    assert gpu_findings(GpuView(snapshot(gpu(0), xids=xids), NOW + DAY + 1), ONE) == ()


@pytest.mark.parametrize("code", [13, 31, 43, 45, 48, 62, 63, 64, 74, 79, 92, 94, 95, 119])
def test_the_well_known_codes_have_a_meaning(code: int) -> None:
    assert code in XIDS
    text = " ".join(f.fix for f in found(snapshot(gpu(3), xids=(Xid(3, code, NOW, 1),))))
    assert text
    assert "INDEX" not in text


def test_an_unknown_code_is_told_too() -> None:
    assert meaning(9999).severity is Severity.WARNING
