"""The scrape: names, labels and values, from a view alone."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
from fakes.operations import NOW, FakeOperations
from prometheus_client.parser import text_string_to_metric_families

from agentd.findings import Finding, Severity, Verdict
from agentd.gpu import GpuProcess
from agentd.metrics import collectors
from agentd.metrics.exposition import Exposition
from agentd.metrics.recorder import ChangeRecorder, Histogram, lag_histogram
from agentd.metrics.view import HardeningView, MetricsView
from agentd.model_facts import ModelFacts, ModelNow, SleepFacts
from agentd.types import Change, Outcome, PhaseRecord, ProbeKind, ProbeStatus, SlotStatus

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def change(outcome: Outcome | None = Outcome.DONE, **more: object) -> Change:
    phases = (PhaseRecord("drain", NOW, 0.2), PhaseRecord("start", NOW, 4.0), PhaseRecord("verify", NOW))
    finished = None if outcome is None else NOW + 42.0
    values: dict[str, object] = {
        "id": "s1", "kind": "switch", "slot": "gpu0", "target": "dolphin", "previous": "qwen", "created": NOW,
        "phase": "start", "finished": finished, "outcome": outcome, "phases": phases,
    }  # fmt: skip
    return Change(**(values | more))  # type: ignore[arg-type]


SLEEP = (SleepFacts(1, sleep_seconds=1.5, wake_seconds=0.5, residual=1 << 30), SleepFacts(2, broken="garbage"))
QWEN = ModelNow("qwen", "gpu0", "asleep", 1, ModelFacts("qwen", vram=14 << 30, load_seconds=42.0, sleep=SLEEP))


def full_view() -> MetricsView:
    ops, recorder, lag = FakeOperations(), ChangeRecorder(), lag_histogram()
    recorder.record(change(way="cold"))
    recorder.record(change(Outcome.ROLLED_BACK, way="cold"))
    recorder.record(change(way="wake", phases=()))
    recorder.record(change(Outcome.ROLLED_BACK, phases=()))
    recorder.record(change(Outcome.REFUSED, previous=None))
    recorder.record(change(kind="lease", target=None))
    lag.observe(0.0004)
    pid = 987654
    gpus = dataclasses.replace(ops.gpu, processes=(GpuProcess(pid, 0, 8 << 30),))
    first = dataclasses.replace(ops.service_list[0], main_pid=pid, restarts=3)
    unknown = dataclasses.replace(ops.service_list[1], probes=(ProbeStatus(ProbeKind.STARTUP),))
    return MetricsView(
        "0.1.0", NOW, True, (first, unknown, ops.service_list[2]), (ops.slot,), gpus,
        {(0, "vllm-qwen.service"): 8 << 30}, (change(None),), recorder.totals(), True, NOW, True, 2,
        {"units": 0.5}, lag.snapshot(), models=(QWEN, ModelNow("dolphin", "gpu0", "stopped", off="by profile cpu")),
    )  # fmt: skip


def scrape(view: MetricsView, accept: str = "") -> str:
    return Exposition(lambda: view).render(accept)[1].decode()


def samples(text: str) -> Samples:
    return {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for f in text_string_to_metric_families(text)
        for s in f.samples
    }


def of(found: Samples, name: str, **labels: str) -> float | None:
    return found.get((name, tuple(sorted(labels.items()))))


@pytest.fixture(scope="module")
def text() -> str:
    return scrape(full_view())


@pytest.fixture(scope="module")
def found(text: str) -> Samples:
    return samples(text)


def test_unit_state_is_one_hot(found: Samples) -> None:
    for unit, state in (("vllm-qwen.service", "active"), ("vllm-dolphin.service", "inactive")):
        values = {s: of(found, "agentd_unit_state", unit=unit, state=s) for s in collectors.STATES}
        assert [s for s, value in values.items() if value] == [state]
        assert None not in values.values()


def test_services_and_probes(found: Samples) -> None:
    assert of(found, "agentd_service_ready", service="qwen") == 1
    assert of(found, "agentd_service_ready", service="dolphin") == 0
    assert of(found, "agentd_service_restarts_total", service="qwen") == 3
    assert of(found, "agentd_probe_success", service="qwen", probe="readiness") == 1
    assert of(found, "agentd_probe_duration_seconds", service="qwen", probe="readiness") == 0.004
    assert of(found, "agentd_probe_last_timestamp_seconds", service="qwen", probe="readiness") == NOW - 1
    # A probe that has no verdict yet has no value: 0 would be a lie.
    assert of(found, "agentd_probe_success", service="dolphin", probe="startup") is None
    assert of(found, "agentd_probe_duration_seconds", service="dolphin", probe="startup") is None


def test_switches(found: Samples) -> None:
    pair = {"from": "qwen", "to": "dolphin"}
    assert of(found, "agentd_switch_total", result="done", **pair) == 2
    assert of(found, "agentd_switch_total", result="rolled-back", **pair) == 2
    assert of(found, "agentd_switch_total", result="refused", **{"from": "none", "to": "dolphin"}) == 1
    cold = pair | {"way": "cold"}
    assert of(found, "agentd_switch_duration_seconds_count", **cold) == 2
    assert of(found, "agentd_switch_duration_seconds_sum", **cold) == 84
    assert of(found, "agentd_switch_duration_seconds_bucket", le="30.0", **cold) == 0
    assert of(found, "agentd_switch_duration_seconds_bucket", le="45.0", **cold) == 2
    assert of(found, "agentd_switch_duration_seconds_bucket", le="+Inf", **cold) == 2
    assert of(found, "agentd_switch_duration_seconds_count", way="wake", **pair) == 1
    assert of(found, "agentd_switch_duration_seconds_count", way="unknown", **pair) == 1
    # A refusal takes no time that tells what a switch costs.
    none = {"from": "none", "to": "dolphin", "way": "unknown"}
    assert of(found, "agentd_switch_duration_seconds_count", **none) is None
    assert of(found, "agentd_switch_phase_duration_seconds_count", phase="start", to="dolphin") == 3
    assert of(found, "agentd_switch_phase_duration_seconds_count", phase="verify", to="dolphin") is None
    assert of(found, "agentd_change_total", kind="lease", outcome="done") == 1
    assert of(found, "agentd_change_last_timestamp_seconds", kind="switch") == NOW + 42
    assert of(found, "agentd_change_in_progress") == 1
    assert of(found, "agentd_switch_in_progress", slot="gpu0") == 1
    assert of(found, "agentd_switch_phase", slot="gpu0", phase="start") == 1


def test_slots_gpus_and_daemon(found: Samples) -> None:
    assert of(found, "agentd_model_active", slot="gpu0", model="qwen") == 1
    assert of(found, "agentd_model_active", slot="gpu0", model="dolphin") == 0
    assert of(found, "agentd_slot_wedged", slot="gpu0") == 0
    assert of(found, "agentd_gpu_memory_free_bytes", gpu="0", uuid="GPU-1") == 16 << 30
    assert of(found, "agentd_gpu_process_memory_bytes", gpu="0", owner="vllm-qwen.service") == 8 << 30
    assert of(found, "agentd_bus_connected") == 1
    assert of(found, "agentd_bus_reconnects_total") == 2
    assert of(found, "agentd_snapshot_age_seconds", source="units") == 0.5
    assert of(found, "agentd_config_valid") == 1
    assert of(found, "agentd_event_loop_lag_seconds_bucket", le="0.001") == 1
    assert of(found, "agentd_ready") == 1
    assert any(name == "process_open_fds" for name, _ in found)
    for collector in collectors.COLLECTORS:
        assert of(found, "agentd_collector_success", collector=collector) == 1


def test_models(found: Samples) -> None:
    assert of(found, "agentd_model_state", model="qwen", state="asleep") == 1
    assert of(found, "agentd_model_state", model="qwen", state="resident") == 0
    assert of(found, "agentd_model_state", model="dolphin", state="stopped") == 1
    assert of(found, "agentd_model_enabled", model="qwen") == 1
    assert of(found, "agentd_model_enabled", model="dolphin") == 0
    assert of(found, "agentd_model_load_seconds", model="qwen") == 42
    assert of(found, "agentd_model_vram_bytes", model="qwen") == 14 << 30
    assert of(found, "agentd_model_sleep_seconds", model="qwen", level="1") == 1.5
    assert of(found, "agentd_model_wake_seconds", model="qwen", level="1") == 0.5
    assert of(found, "agentd_model_sleep_residual_bytes", model="qwen", level="1") == 1 << 30
    assert of(found, "agentd_model_sleep_broken", model="qwen", level="1") == 0
    assert of(found, "agentd_model_sleep_broken", model="qwen", level="2") == 1
    # What was never measured is not 0.
    assert of(found, "agentd_model_load_seconds", model="dolphin") is None
    assert of(found, "agentd_model_wake_seconds", model="qwen", level="2") is None


def test_states_of_a_slot_that_went_wrong() -> None:
    view = dataclasses.replace(full_view(), slots=(SlotStatus("gpu0", "wedged", ("qwen",), None),), running=())
    found = samples(scrape(view))
    assert of(found, "agentd_slot_wedged", slot="gpu0") == 1
    assert of(found, "agentd_model_active", slot="gpu0", model="qwen") == 0
    assert of(found, "agentd_switch_in_progress", slot="gpu0") == 0


def test_no_pid_anywhere(text: str) -> None:
    assert "987654" not in text


def test_every_family_once_and_described(text: str) -> None:
    types = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)
    names = [name for name, _ in types]
    assert len(names) == len(set(names))
    assert set(re.findall(r"^# HELP (\S+) \S", text, re.MULTILINE)) == set(names)
    assert all(name.endswith("_total") == (kind == "counter") for name, kind in types)


def test_number_of_series_does_not_grow_with_history() -> None:
    recorder = ChangeRecorder()
    for n in range(1000):
        recorder.record(change(id=f"s{n}"))
    view = dataclasses.replace(full_view(), totals=recorder.totals())
    assert len(samples(scrape(view))) <= len(samples(scrape(full_view())))


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
@pytest.mark.parametrize("make", [full_view, lambda: MetricsView("0.1.0", NOW, False)], ids=["full", "empty"])
def test_promtool_finds_nothing(make: object) -> None:
    text = scrape(make())  # type: ignore[operator]
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_broken_collector_costs_only_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(view: MetricsView) -> Iterator[object]:
        raise KeyError("x")
        yield

    monkeypatch.setitem(collectors.COLLECTORS, "gpus", broken)  # type: ignore[misc]
    found = samples(scrape(full_view()))
    assert of(found, "agentd_collector_success", collector="gpus") == 0
    assert of(found, "agentd_collector_success", collector="slots") == 1
    assert of(found, "agentd_gpu_memory_free_bytes", gpu="0", uuid="GPU-1") is None
    assert of(found, "agentd_model_active", slot="gpu0", model="qwen") == 1


def test_format_follows_the_accept_header() -> None:
    exposition = Exposition(full_view)
    content_type, plain = exposition.render()
    assert content_type.startswith("text/plain; version=0.0.4")
    assert b"# EOF" not in plain
    content_type, modern = exposition.render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert modern.endswith(b"# EOF\n")


def test_registering_asks_for_no_view() -> None:
    def view() -> MetricsView:
        raise AssertionError("asked too early")

    Exposition(view)


def test_recording_needs_no_library() -> None:
    code = "import sys, agentd.metrics.recorder; print('prometheus_client' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_unfinished_change_is_not_counted() -> None:
    recorder = ChangeRecorder()
    recorder.record(change(None))
    assert recorder.totals().changes == {}


def test_histogram_bounds_are_inclusive() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (-1.0, 1.0, 1.5, 2.0, 3.0):
        histogram.observe(value)
    assert histogram.snapshot().counts == (2, 2, 1)
    assert histogram.snapshot().total == 7.5


def test_hardening() -> None:
    effective = Finding("a.service", "NoNewPrivileges", Verdict.EFFECTIVE, Severity.OK)
    void = Finding("a.service", "ProtectSystem", Verdict.NOT_EFFECTIVE, Severity.ERROR)
    both = (
        Finding("a.service", "ReadWritePaths", Verdict.EFFECTIVE, Severity.OK),
        Finding("a.service", "ReadWritePaths", Verdict.NOT_EFFECTIVE, Severity.ERROR),
    )
    unknown = Finding("a.service", "KeyringMode", Verdict.NOT_PROVABLE, Severity.INFO)
    drift = Finding("a.service", "/x/90-agentd-security.conf", Verdict.DRIFT, Severity.WARNING)
    unit = HardeningView("a.service", (effective, void, *both, unknown, drift), True, 5.0, 0.002, 3.5, 1.9)
    host = (Finding("host", "lingering", Verdict.NOT_EFFECTIVE, Severity.WARNING),)
    found = samples(scrape(MetricsView("1", 0.0, True, hardening=(unit,), host_findings=host)))
    series = {
        dict(labels)["directive"]: v for (name, labels), v in found.items() if name.startswith("agentd_directive")
    }
    assert series == {
        "NoNewPrivileges": 1.0,
        "ProtectSystem": 0.0,
        "ReadWritePaths": 0.0,
    }, "one series per directive, the worst path counts, and what is unknown is absent"
    assert of(found, "agentd_dropin_drift", unit="a.service") == 1.0
    assert of(found, "agentd_host_findings", severity="warning") == 1.0
    assert of(found, "agentd_exposure_score", unit="a.service", source="agentd") == 3.5
    assert of(found, "agentd_exposure_score", unit="a.service", source="systemd") == 1.9
