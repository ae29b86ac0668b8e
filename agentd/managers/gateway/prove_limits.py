"""Rate limits, measured. LiteLLM counts by the minute of the clock: a burst has to lie within one."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from agentd.core.gateway.model import Kind
from agentd.managers.gateway.prove_lab import Job, Lab, Result, Run

_MINUTE = 60.0
_LEFT = 8.0
"""Seconds that must be left of a minute; a burst that still does not fit is done again with a spare model."""
_BEYOND = 3
"""Requests beyond the limit."""
_PARTS = 4
"""Answers that use up the tokens of a minute."""
_COUNTED = 5.0
"""Seconds that LiteLLM may take to count an answer's tokens."""


def jobs() -> list[Job]:
    requests = [Job((f"rpm-{kind}",), _requests(kind)) for kind in Kind]
    return [*requests, *(Job((f"tpm-{kind}",), _tokens(kind)) for kind in Kind)]


def _requests(kind: Kind) -> Run:
    async def run(lab: Lab) -> Sequence[Result]:
        limit = _limit(lab, kind, "rpm")
        for model in (f"rpm-{kind}", f"rpm-{kind}-2"):
            minute = await _fresh_minute(lab)
            passed = await _burst(lab, model, limit)
            if _minute(lab) == minute:
                break
        after = [await lab.ask(model) for _ in range(_BEYOND)] if passed == limit else []
        refused = [answer for answer in after if answer.status == 429]
        if _minute(lab) != minute:
            after = refused = []  # the next minute has begun, where requests pass again
        reached = len(lab.hits(model))
        measured = f"{reached} passed, {len(refused)} of {len(after)} beyond refused"
        return (Result(f"rpm-{kind}", measured, reached == limit and len(after) == len(refused)),)

    return run


async def _burst(lab: Lab, model: str, count: int) -> int:
    """How many of `count` requests were answered."""

    async def one() -> bool:
        async with lab.burst:
            return (await lab.ask(model)).ok

    return sum(await asyncio.gather(*(one() for _ in range(count))))


def _tokens(kind: Kind) -> Run:
    async def run(lab: Lab) -> Sequence[Result]:
        limit = _limit(lab, kind, "tpm")
        part = math.ceil(limit / _PARTS)
        for model in (f"tpm-{kind}", f"tpm-{kind}-2"):
            lab.behave(model, prompt_tokens=part - 1, tokens=1)
            minute = await _fresh_minute(lab)
            passed = [await lab.ask(model) for _ in range(_PARTS)]
            refused = await _until_refused(lab, model)
            if _minute(lab) == minute:
                break
        early = sum(not answer.ok for answer in passed)
        used = len(lab.hits(model)) * part
        measured = f"{'refused' if refused else 'not refused'} after {used} tokens"
        return (Result(f"tpm-{kind}", measured, refused and not early),)

    return run


async def _until_refused(lab: Lab, model: str) -> bool:
    deadline = lab.now() + _COUNTED
    while lab.now() < deadline:
        await asyncio.sleep(0.3)
        if (await lab.ask(model)).status == 429:
            return True
    return False


def _limit(lab: Lab, kind: Kind, which: str) -> int:
    return int(getattr(lab.policy.limits[kind], which) or 0)


def _minute(lab: Lab) -> int:
    return int(lab.now() // _MINUTE)


async def _fresh_minute(lab: Lab) -> int:
    """Wait until enough of a minute is left; its number."""
    left = _MINUTE - lab.now() % _MINUTE
    if left < _LEFT:
        await asyncio.sleep(left + 0.05)
    return _minute(lab)
