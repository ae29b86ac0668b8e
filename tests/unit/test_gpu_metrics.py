"""The families of GPUs, from a view alone."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agentd.gpu import THROTTLES, Gpu, GpuDetails, GpuDriver, GpuSnapshot, NvLink
from agentd.metrics.exposition import Exposition
from agentd.metrics.view import MetricsView

GIB = 1 << 30
DOCUMENT = Path(__file__).resolve().parents[2] / "docs/gpus.md"
FULL = GpuDetails(0.87, 0.4, 61.0, 250.5, 450.0, ("power-cap",), 3, 1, (NvLink(0, True), NvLink(1, False)), False)


def view(*details: GpuDetails | None) -> MetricsView:
    gpus = tuple(Gpu(n, f"GPU-{n}", "Card", 24 * GIB, 9 * GIB, 15 * GIB, details=d) for n, d in enumerate(details))
    what = GpuSnapshot("nvml", gpus, driver=GpuDriver("580.65", "13.0"))
    owners = {(0, "vllm-qwen.service"): 8 * GIB, (0, "unlisted"): GIB}
    return MetricsView("0.1.0", 1.0, True, gpus=what, gpu_owners=owners, counts={("agentd_gpu_xid", ("0", "79")): 2})


def text(what: MetricsView) -> str:
    return Exposition(lambda: what).render("")[1].decode()


def samples(what: MetricsView) -> dict[tuple[str, ...], float]:
    """(name without "agentd_gpu_", label values without the UUID) -> value."""
    return {
        (s.name.removeprefix("agentd_gpu_"), *(v for k, v in s.labels.items() if k != "uuid")): s.value
        for family in text_string_to_metric_families(text(what))
        for s in family.samples
        if s.name.startswith("agentd_gpu_")
    }


def test_everything_that_a_gpu_tells() -> None:
    found = samples(view(FULL))
    wanted: dict[tuple[str, ...], float] = {
        ("memory_used_bytes", "0"): 9 * GIB, ("memory_free_bytes", "0"): 15 * GIB,
        ("memory_total_bytes", "0"): 24 * GIB,
        ("process_memory_bytes", "0", "vllm-qwen.service"): 8 * GIB, ("process_memory_bytes", "0", "unlisted"): GIB,
        ("read_success", "nvml"): 1, ("info", "13.0", "580.65", "0", "Card"): 1, ("xid_total", "79", "0"): 2,
        ("utilization_ratio", "0"): 0.87, ("memory_utilization_ratio", "0"): 0.4, ("temperature_celsius", "0"): 61,
        ("power_watts", "0"): 250.5, ("power_limit_watts", "0"): 450, ("mig_enabled", "0"): 0,
        ("ecc_errors_total", "0", "corrected"): 3, ("ecc_errors_total", "0", "uncorrected"): 1,
        ("nvlink_up", "0", "0"): 1, ("nvlink_up", "0", "1"): 0,
        **{("throttled", "0", reason): float(reason == "power-cap") for reason in THROTTLES},
    }  # fmt: skip
    assert found == wanted


def test_what_is_not_known_has_no_sample() -> None:
    memory = {name for name, *_ in samples(view(None))}
    assert {name for name, *_ in samples(view(GpuDetails()))} == memory
    assert "temperature_celsius" not in memory
    assert "throttled" not in memory
    assert ("read_success", "none") in samples(MetricsView("0.1.0", 1.0, True))


def test_the_documentation_lists_every_family() -> None:
    told = set(re.findall(r"`(agentd_gpu_\w+)`", DOCUMENT.read_text()))
    assert told == {f"agentd_gpu_{name}" for name, *_ in samples(view(FULL))}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
def test_promtool_finds_nothing() -> None:
    what = text(view(FULL, FULL))
    done = subprocess.run(["promtool", "check", "metrics"], input=what, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
