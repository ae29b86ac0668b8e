"""Fallbacks, chains, and what the gateway shows to whom, measured."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from agentd.core.gateway.asking import Question
from agentd.core.gateway.proof_catalog import PREFIX, Rig, backend_name
from agentd.managers.gateway.prove_breaker import in_window
from agentd.managers.gateway.prove_lab import Job, Lab, Result, Run

FAILING: Mapping[str, Mapping[str, Any]] = {
    "500": {"fail": 500},
    "429": {"fail": 429},
    "timeout": {"hang": "answer"},
    "refused": {},
}
_REFUSAL: Mapping[str, Any] = {"fail": 400}
"""A failure that no breaker counts: models that stand in many chains would open theirs."""
_TOO_LONG: Mapping[str, Any] = {"fail": 400, "code": "context_length_exceeded"}
_ASKED = 20
"""Disabled names that are asked for, at most."""
_WRONG = "sk-agentd-proof-wrong-key-0123456789"


def jobs(rig: Rig) -> list[Job]:
    return [
        *(Job((f"fallback-{kind}",), _fallback(kind)) for kind in FAILING),
        Job(("fallback-limit",), _limit),
        Job(("fallback-open",), _open),
        *(_chain("chain", name, chain, _REFUSAL) for name, chain in rig.chains.items()),
        *(_chain("context", name, chain, _TOO_LONG) for name, chain in rig.context_chains.items()),
        Job(("disabled",), _disabled),
        Job(("models",), _models),
        Job(("key",), _key),
    ]


def _fallback(kind: str) -> Run:
    async def run(lab: Lab) -> Sequence[Result]:
        name, tag = f"fallback-{kind}", lab.tag()
        lab.behave(name, **FAILING[kind])
        answer = await lab.ask(name, tag=tag)
        way = lab.way(tag)
        wanted = ["well"] if kind == "refused" else [name, "well"]
        return (Result(name, _answered(way), answer.ok and way == wanted, answer.words),)

    return run


async def _limit(lab: Lab) -> Sequence[Result]:
    """Three requests more than two minutes allow: where the minute changes between them, some pass again."""
    ways = []
    for _ in range(5):
        tag = lab.tag()
        answer = await lab.ask("fallback-limit", tag=tag)
        ways.append(lab.way(tag) if answer.ok else ["refused"])
    own = sum("fallback-limit" in way for way in ways)
    rescued = sum(way == ["well"] for way in ways)
    ok = rescued >= 1 and own + rescued == len(ways)
    return (Result("fallback-limit", f"{own} answered by itself, {rescued} by the fallback", ok),)


async def _open(lab: Lab) -> Sequence[Result]:
    lab.behave("fallback-open", fail=500)

    async def once() -> Result:
        await asyncio.gather(*(lab.ask("fallback-open") for _ in range(lab.policy.failures)))
        tag = lab.tag()
        answer = await lab.ask("fallback-open", tag=tag)
        way = lab.way(tag)
        return Result("fallback-open", _answered(way), answer.ok and way == ["well"], answer.words)

    async with lab.few:
        return (await in_window(lab, once),)


def _answered(way: Sequence[str]) -> str:
    return " -> ".join("the fallback" if name == "well" else "the model" for name in way) or "no server was asked"


def _chain(which: str, asked: str, chain: Sequence[str], failing: Mapping[str, Any]) -> Job:
    name = f"{which}:{asked}"

    async def run(lab: Lab) -> Sequence[Result]:
        tag = lab.tag()
        for model in chain[:-1]:
            lab.backend.behave(backend_name(model), tag=tag, **failing)
        async with lab.few:
            answer = await lab.asker.ask(Question(asked, tag, retries=0), timeout=lab.patience)
        way = lab.way(tag)
        ok = answer.ok and way == [backend_name(model) for model in chain]
        return (Result(name, " -> ".join(way) or "no server was asked", ok, answer.words),)

    return Job((name,), run)


async def _disabled(lab: Lab) -> Sequence[Result]:
    listed = sorted(set(lab.rig.disabled) & set(await _listed(lab)))
    reached = []
    for name in lab.rig.disabled[:_ASKED]:
        tag = lab.tag()
        answer = await lab.asker.ask(Question(name, tag, retries=0), timeout=lab.patience)
        if answer.ok or lab.way(tag):
            reached.append(name)
    lab.behave("past-off", fail=500)
    tag = lab.tag()
    await lab.ask("past-off", tag=tag)
    past = lab.way(tag) == ["past-off", "well"]
    detail = "; ".join(f"{name} is there" for name in dict.fromkeys([*listed, *reached]))
    measured = f"{len(lab.rig.disabled)} names, {len(listed)} listed, {len(reached)} answered"
    return (Result("disabled", measured, past and not listed and not reached, detail),)


async def _listed(lab: Lab) -> list[str]:
    answer = await lab.asker.models()
    try:
        return sorted(str(row["id"]) for row in json.loads(answer.text)["data"])
    except (ValueError, KeyError, TypeError):
        return []


async def _models(lab: Lab) -> Sequence[Result]:
    found, wanted = await _listed(lab), sorted(lab.expected)
    missing, more = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    words = [f"missing: {', '.join(missing)}"] * bool(missing) + [f"too many: {', '.join(more)}"] * bool(more)
    own = sum(not name.startswith(PREFIX) for name in found)
    measured = f"{own} of the sources, {len(found) - own} of the proof"
    return (Result("models", measured, found == wanted, "; ".join(words)),)


async def _key(lab: Lab) -> Sequence[Result]:
    right, none, wrong = [(await lab.asker.models(key)).status for key in (None, "", _WRONG)]
    ok = right == 200 and none == 401 and wrong in (400, 401)
    return (Result("key", f"right {right}, none {none}, wrong {wrong}", ok),)
