"""The policy of model-mappings.yaml; what it does not say keeps its default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from agentd.core.gateway.model import Kind, Limits, Policy
from agentd.core.gateway.read_base import Problems
from agentd.core.gateway.read_fields import Fields
from agentd.core.gateway.read_models import limits_of
from agentd.core.gateway.tree import Node

POLICY_FIELDS = (
    "breaker", "timeouts", "retries", "pre_call_checks", "routing", "limits", "master_key", "metrics", "litellm"
)  # fmt: skip
ROUTING = (
    "simple-shuffle", "least-busy", "latency-based-routing", "cost-based-routing", "usage-based-routing-v2",
    "usage-based-routing",
)  # fmt: skip
Value = TypeVar("Value")
SECTIONS = ("litellm_settings", "router_settings", "general_settings", "environment_variables")


def read_policy(problems: Problems, node: Node) -> Policy:
    """`node`: what stands below `policy:`."""
    fields = Fields(problems, node, "the policy", POLICY_FIELDS)
    breaker = fields.sub("breaker", ("failures", "cooldown"))
    timeouts = fields.sub("timeouts", ("try", "silence", "answer", "wait"))
    default = Policy()
    return Policy(
        failures=_or(breaker.whole("failures", 1, 1_000_000), default.failures),
        cooldown=_or(breaker.seconds("cooldown"), default.cooldown),
        try_timeout=_or(timeouts.seconds("try"), default.try_timeout),
        silence_timeout=_or(timeouts.seconds("silence"), default.silence_timeout),
        answer_timeout=_or(timeouts.seconds("answer"), default.answer_timeout),
        absent_wait=_or(timeouts.seconds("wait", zero=True), default.absent_wait),
        retries=_or(fields.whole("retries", 0, 1_000), default.retries),
        pre_call_checks=fields.boolean("pre_call_checks", default.pre_call_checks),
        routing=fields.choice("routing", ROUTING, default.routing),
        limits=_limits(fields, default.limits),
        master_key=fields.variable("master_key", default.master_key),
        metrics=fields.boolean("metrics", default.metrics),
        litellm=_sections(fields), places=fields.places,
    )  # fmt: skip


def _or(value: Value | None, default: Value) -> Value:
    return default if value is None else value


def _limits(fields: Fields, defaults: Mapping[Kind, Limits]) -> Mapping[Kind, Limits]:
    inner = fields.sub("limits", [kind.value for kind in Kind])
    found = {}
    for kind in Kind:
        own, default = limits_of(inner, kind.value), defaults[kind]
        found[kind] = Limits(_or(own.rpm, default.rpm), _or(own.tpm, default.tpm))
    return found


def _sections(fields: Fields) -> Mapping[str, Mapping[str, Any]]:
    inner = fields.sub("litellm", SECTIONS)
    return {name: inner.free(name) for name in SECTIONS if inner.node_of(name) is not None}
