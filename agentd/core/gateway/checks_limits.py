"""Checks of numbers: what is possible, and still hardly what is meant."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from agentd.core.gateway.checks_context import ERROR, WARNING, Context, place_of
from agentd.core.gateway.model import Absent, Kind, Limits, Model
from agentd.core.gateway.problems import Problem
from agentd.core.gateway.tree import Place
from agentd.findings import Severity

_MOST_RETRIES = 10
_SHORTEST_TPM = 1000


def limits_implausible(context: Context) -> Iterator[Problem]:
    yield from _policy(context)
    for kind, limits in context.policy.limits.items():
        at = partial(_policy_place, context, kind)
        yield from _limits(limits, at, f"{kind} providers")
    for model in context.catalog.models:
        yield from _model(context, model)
        for number, deployment in enumerate(model.deployments):
            yield from _limits(deployment.limits, partial(_model_place, model, number), f'"{model.name}"')


def _policy_place(context: Context, kind: Kind, name: str) -> Place:
    return context.policy_place(f"limits.{kind}.{name}", f"limits.{kind}", "limits")


def _model_place(model: Model, number: int, name: str) -> Place:
    own = f"deployments.{number}.limits"
    return place_of(model, f"{own}.{name}", own, f"limits.{name}", "limits")


def _policy(context: Context) -> Iterator[Problem]:
    policy = context.policy

    def said(keys: tuple[str, ...], value: object, text: str, fix: str, severity: Severity = WARNING) -> Problem:
        return _problem(context.policy_place(*keys), value, text, fix, severity)

    if policy.failures < 1:
        text = f"the breaker cannot open at failure {policy.failures}"
        yield said(("breaker.failures", "breaker"), policy.failures, text, "write 5", ERROR)
    elif policy.failures == 1:
        text = "the breaker opens at the first failure, so one lost connection takes a model away"
        yield said(("breaker.failures", "breaker"), 1, text, "write 3 or more")
    cooldown = ("breaker.cooldown", "breaker")
    if policy.cooldown < 1:
        text = f"a cooldown of {policy.cooldown:g} s is over before failures can be counted in it"
        yield said(cooldown, f"{policy.cooldown:g}", text, "write 60s", ERROR)
    elif policy.cooldown > policy.answer_timeout:
        text = f"a deployment stays out for {policy.cooldown:g} s, longer than any answer may take"
        yield said(cooldown, f"{policy.cooldown:g}", text, "write 60s")
    if policy.retries > _MOST_RETRIES:
        text = f"{policy.retries} retries: a server that is down gets {policy.retries + 1} requests for each"
        yield said(("retries",), policy.retries, text, "write 2, and use fallbacks")
    most = policy.answer_timeout
    for name, value in (("silence", policy.silence_timeout), ("wait", policy.absent_wait), ("try", policy.try_timeout)):
        if value > most:
            text = f"timeouts.{name} ({value:g} s) is never reached: a whole answer may take {most:g} s"
            fix = f"lower timeouts.{name}, or raise timeouts.answer"
            yield said((f"timeouts.{name}", "timeouts"), f"{value:g}", text, fix)


def _model(context: Context, model: Model) -> Iterator[Problem]:
    most = context.policy.answer_timeout
    for name, value in (("try", model.try_timeout), ("silence", model.silence_timeout)):
        if value is not None and value > most:
            text = f'timeouts.{name} of "{model.name}" is never reached: a whole answer may take {most:g} s'
            place = place_of(model, f"timeouts.{name}", "timeouts")
            yield _problem(place, f"{value:g}", text, "lower it, or raise timeouts.answer of the policy")
    if model.when_absent is Absent.WAIT and context.policy.absent_wait <= 0:
        text = f'"{model.name}" has when_absent: wait, and timeouts.wait of the policy is 0'
        fix = "raise timeouts.wait, or write when_absent: refuse"
        yield _problem(place_of(model, "when_absent"), "wait", text, fix)


def _limits(limits: Limits, at: Callable[[str], Place], whose: str) -> Iterator[Problem]:
    rpm, tpm = limits.rpm, limits.tpm
    for name, value in (("rpm", rpm), ("tpm", tpm)):
        if value is not None and value < 0:
            text = f"{name} {value} of {whose} is less than 0"
            yield _problem(at(name), value, text, "write 0 for no limit", ERROR)
    if rpm and tpm and 0 < tpm < rpm:
        text = f"{whose}: {tpm} tokens a minute are less than one for each of {rpm} requests"
        yield _problem(at("tpm"), tpm, text, "raise tpm; perhaps the two are swapped")
    elif tpm is not None and 0 < tpm < _SHORTEST_TPM:
        text = f"{whose}: {tpm} tokens a minute are used up by one prompt"
        yield _problem(at("tpm"), tpm, text, "raise tpm, or write 0 for no limit")


def _problem(place: Place, value: object, text: str, fix: str, severity: Severity = WARNING) -> Problem:
    return Problem("limits-implausible", severity, place, str(value), text, fix)
