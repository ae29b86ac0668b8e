"""The gateway: what the last look found, and what LiteLLM's own metrics said then. No scrape asks LiteLLM."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from prometheus_client.core import Metric

from agentd.gateway import GatewayFigures, GatewayState, GatewayStatus
from agentd.metrics.families import counter, gauge, one_hot
from agentd.metrics.view import MetricsView

STATES = tuple(word.value for word in GatewayState)
APPLY = "gateway-apply"


def gateway(view: MetricsView) -> Iterable[Metric]:
    known = view.gateway
    if known is None:
        return
    name = (known.service,)
    label = ("gateway",)
    yield gauge(
        "agentd_gateway_state",
        "The one word for the gateway; 1 for the current one.",
        ("gateway", "state"),
        one_hot(name, STATES, known.state.value),
    )
    if known.at:
        yield gauge(
            "agentd_gateway_last_look_timestamp_seconds", "When it was last looked at.", label, [(name, known.at)]
        )
    yield gauge("agentd_gateway_up", "1 when it answered at the last look.", label, [(name, float(known.alive))])
    ready = "1 when it answers with exactly its models, takes our key and refuses to answer without one."
    yield gauge("agentd_gateway_ready", ready, label, [(name, float(known.ready))])
    yield from _config(known)
    yield from _keys(known)
    yield from _problems(known)
    if known.figures is not None and known.alive:
        yield from _figures(known, known.figures)
    applied = [((*name, outcome), float(n)) for (kind, outcome), n in view.totals.changes.items() if kind == APPLY]
    yield counter(
        "agentd_gateway_apply", "Applies of a configuration by how they ended.", ("gateway", "outcome"), applied
    )


def _config(known: GatewayStatus) -> Iterable[Metric]:
    name, label = (known.service,), ("gateway",)
    if known.file_digest:
        info = [((*name, known.file_digest[:16], known.version), 1.0)]
        text = "The configuration in the file, and the LiteLLM that runs."
        yield gauge("agentd_gateway_config_info", text, ("gateway", "digest", "litellm_version"), info)
    for field, value, text in (
        ("config_up_to_date", known.up_to_date, "1 when the file is what the sources give; absent if not known."),
        (
            "running_config_matches",
            known.running_matches,
            "1 when LiteLLM read the file as it is now; absent if unknown.",
        ),
        ("config_edited", known.edited, "1 when the generated file was changed by hand."),
        ("change_in_progress", bool(known.change), "1 while agentd acts on the gateway."),
    ):
        values = [(name, float(value))] if value is not None else []
        yield gauge(f"agentd_gateway_{field}", text, label, values)
    for field, models in (("expected", known.expected), ("listed", known.listed)):
        text = f"Models that are {field}, aliases included."
        yield gauge(f"agentd_gateway_models_{field}", text, label, [(name, float(len(models)))])


def _keys(known: GatewayStatus) -> Iterable[Metric]:
    for field, value, text in (
        ("key_ok", known.key_ok, "1 when it takes the key of the environment file; absent if not known."),
        ("open_without_key", known.open_without_key, "1 when it answers without a key; absent if not known."),
    ):
        values = [((known.service,), float(value))] if value is not None else []
        yield gauge(f"agentd_gateway_{field}", text, ("gateway",), values)


def _problems(known: GatewayStatus) -> Iterable[Metric]:
    found = Counter((problem.check, problem.severity) for problem in known.problems)
    samples = [((known.service, check, severity), float(n)) for (check, severity), n in sorted(found.items())]
    labels = ("gateway", "check", "severity")
    yield gauge("agentd_gateway_validation_problems", "Problems of the sources by check.", labels, samples)


def _figures(known: GatewayStatus, figures: GatewayFigures) -> Iterable[Metric]:
    labels = ("gateway", "deployment")
    states = _labelled(known, figures.deployments)
    text = "LiteLLM's word on a deployment: 0 healthy, 1 partly failing, 2 out of use."
    yield gauge("agentd_gateway_deployment_state", text, labels, states)
    cooled = _labelled(known, figures.cooldowns)
    yield counter("agentd_gateway_cooldowns", "Times that a deployment's breaker opened.", labels, cooled)
    results = (("success", figures.fallbacks), ("failure", figures.failed_fallbacks))
    samples = [((known.service, model, word), float(n)) for word, counts in results for model, n in counts.items()]
    text = "Requests that went on to another model."
    yield counter("agentd_gateway_fallbacks", text, ("gateway", "model", "result"), samples)


def _labelled(known: GatewayStatus, values: Mapping[str, int]) -> list[tuple[tuple[str, ...], float]]:
    return [((known.service, name), float(value)) for name, value in values.items()]
