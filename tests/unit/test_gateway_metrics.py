"""The families about the gateway: names, labels and values, from the snapshot alone."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from fakes.gateways import DIGEST, NOW, gateway_status, stale_status
from prometheus_client.parser import text_string_to_metric_families

from agentd.gateway import GatewayFigures, GatewayState, GatewayStatus
from agentd.metrics.exposition import Exposition
from agentd.metrics.gateway import STATES
from agentd.metrics.view import ChangeTotals, MetricsView

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
TOTALS = ChangeTotals(
    changes={("gateway-apply", "done"): 3, ("gateway-apply", "rolled-back"): 1, ("switch", "done"): 9}
)


def text_of(status: GatewayStatus | None) -> str:
    view = MetricsView("0.1.0", NOW, True, gateway=status, totals=TOTALS, now=NOW)
    return Exposition(lambda: view).render("")[1].decode()


def scrape(status: GatewayStatus | None) -> Samples:
    return {
        (
            s.name.removeprefix("agentd_gateway_"),
            tuple(sorted((k, v) for k, v in s.labels.items() if k != "gateway")),
        ): (s.value)
        for family in text_string_to_metric_families(text_of(status))
        for s in family.samples
        if family.name.startswith("agentd_gateway_")
    }


def of(found: Samples, name: str, **labels: str) -> float | None:
    return found.get((name, tuple(sorted(labels.items()))))


def test_figures_of_one_that_serves() -> None:
    found = scrape(gateway_status())
    expected = {
        "last_look_timestamp_seconds": NOW - 4,
        "up": 1,
        "ready": 1,
        "config_up_to_date": 1,
        "running_config_matches": 1,
        "config_edited": 0,
        "change_in_progress": 0,
        "models_expected": 2,
        "models_listed": 2,
        "key_ok": 1,
        "open_without_key": 0,
    }
    assert {name: of(found, name) for name in expected} == expected
    assert of(found, "config_info", digest=DIGEST[:16], litellm_version="1.106.2") == 1
    assert {word: of(found, "state", state=word) for word in STATES} == {word: word == "ready" for word in STATES}
    assert of(found, "deployment_state", deployment="qwen/vllm/0") == 0
    assert of(found, "cooldowns_total", deployment="qwen/vllm/0") == 2
    assert of(found, "fallbacks_total", model="qwen", result="success") == 5
    assert of(found, "apply_total", outcome="done") == 3
    assert of(found, "apply_total", outcome="rolled-back") == 1


def test_problems_by_check() -> None:
    found = scrape(stale_status())
    assert of(found, "validation_problems", check="fallback-cycle", severity="error") == 1
    assert of(found, "validation_problems", check="no-limit", severity="warning") == 1
    assert of(found, "config_up_to_date") is None, "it is not known while the sources are refused"


def test_what_is_not_known_is_absent() -> None:
    away = gateway_status(
        state=GatewayState.DOWN, alive=False, ready=False, key_ok=None, open_without_key=None, running_matches=None,
        listed=(), running_digest="",
    )  # fmt: skip
    found = scrape(away)
    assert (of(found, "up"), of(found, "ready")) == (0, 0)
    for name in ("key_ok", "open_without_key", "running_config_matches"):
        assert of(found, name) is None
    assert of(found, "cooldowns_total", deployment="qwen/vllm/0") is None, "old figures would look like new ones"
    assert of(scrape(GatewayStatus("litellm", "litellm.service")), "last_look_timestamp_seconds") is None


def test_without_a_gateway_there_are_no_families() -> None:
    assert scrape(None) == {}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
def test_promtool_finds_nothing() -> None:
    text = text_of(stale_status())
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("status", [gateway_status(), stale_status(), gateway_status(figures=GatewayFigures())])
def test_no_secret_and_no_pid(status: GatewayStatus) -> None:
    text = text_of(status)
    assert "sk-" not in text
    assert "pid" not in text
