"""The breaker, measured: at which failure it opens, for which failures, and when it closes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from agentd.core.gateway.asking import Answer
from agentd.core.gateway.promises import breakers
from agentd.core.gateway.proof_catalog import PREFIX, Rig
from agentd.managers.gateway.prove_lab import EARLY, SLACK, Job, Lab, Result, between

FAILING: Mapping[str, Mapping[str, Any]] = {
    "500": {"fail": 500},
    "503": {"fail": 503},
    "401": {"fail": 401},
    "timeout": {"hang": "answer"},
    "refused": {},
    "stream": {"hang": "answer"},
}
_OPEN = "No deployments available"
_MORE = 1
"""Further failures before it counts as never open: few, so that slow ones leave time for another attempt."""
_ATTEMPTS = 3
_TOO_SLOW = 4.0
"""Windows after which no busy machine is to blame, but the config."""


def jobs(rig: Rig) -> list[Job]:
    lone = [Job((f"breaker-{kind}",), _lone(kind)) for kind in breakers(rig) if kind != "500"]
    return [
        Job(("breaker-500", "breaker-recovery"), _with_recovery),
        *lone,
        Job(("breaker-group",), _group),
        Job(("breaker-retries",), _retries),
    ]


def is_open(answer: Answer) -> bool:
    return answer.status == 429 and _OPEN in answer.text


def _lone(kind: str) -> Any:
    async def run(lab: Lab) -> Sequence[Result]:
        async with lab.few:
            return (await _opening(lab, kind),)

    return run


async def _with_recovery(lab: Lab) -> Sequence[Result]:
    async with lab.few:
        found = await _opening(lab, "500")
    return found, await _recovery(lab, found.ok)


async def in_window(lab: Lab, once: Callable[[], Awaitable[Result]]) -> Result:
    """Failures have to come within one window, as long as the cooldown. Where it was not as promised and the machine
    was a little too slow for that, once more after it."""
    cooldown = lab.policy.cooldown
    for _ in range(_ATTEMPTS - 1):
        began = time.monotonic()
        found = await once()
        if found.ok or not 0.8 < (time.monotonic() - began) / cooldown < _TOO_SLOW:
            return found
        await asyncio.sleep(cooldown + 1.0)
    return await once()


async def _opening(lab: Lab, kind: str) -> Result:
    name, failure = f"breaker-{kind}", kind.partition(":")[0]
    lab.behave(name, **FAILING[failure])

    async def once() -> Result:
        reached, opened = await _count(lab, name, stream=failure == "stream")
        measured = f"opened at failure {reached}" if opened else f"not open after {reached} failures"
        ok = opened and reached == lab.policy.failures
        return Result(name, measured, ok, "" if ok else _pace(lab, name))

    return await in_window(lab, once)


def _pace(lab: Lab, model: str) -> str:
    """When the failures were over, from the first request on: what tells a slow machine from a wrong config."""
    hits = lab.hits(model)
    ends = ", ".join(f"{max(hit.left, hit.said) - hits[0].at:.1f}" for hit in hits)
    return f"failed after {ends} s" if ends else ""


async def _count(lab: Lab, model: str, *, stream: bool) -> tuple[int, bool]:
    """Failures that reached the server, and whether it opened. All but the last wanted one come at once."""
    began = time.monotonic()
    first = (lab.ask(model, stream=stream) for _ in range(lab.policy.failures - 1))
    answers = list(await asyncio.gather(*first))
    answers.append(await lab.ask(model, stream=stream))
    for _ in range(1 + _MORE):
        answers.append(await lab.ask(model, stream=stream))
        if is_open(answers[-1]) or time.monotonic() - began > _TOO_SLOW * lab.policy.cooldown:
            break
    return sum(not is_open(answer) for answer in answers), is_open(answers[-1])


async def _recovery(lab: Lab, was_open: bool) -> Result:
    """From the last failure that the server told: nothing on a busy machine makes that time shorter."""
    name, wanted = "breaker-recovery", lab.policy.cooldown
    if not was_open:
        return Result(name, "not measured: it did not open as promised", False)
    opened = lab.hits("breaker-500")[-1].said
    lab.behave("breaker-500")
    pause = max(0.1, wanted / 40)
    while not (answer := await lab.ask("breaker-500")).ok:
        if time.monotonic() - opened > wanted * 1.5 + 10:
            return Result(name, f"still open after {time.monotonic() - opened:.1f} s", False, answer.words)
        await asyncio.sleep(pause)
    seconds = lab.hits("breaker-500")[-1].at - opened
    high = wanted * 1.05 + pause + SLACK
    return Result(name, f"first request after {seconds:.1f} s", between(wanted - EARLY, seconds, high))


async def _group(lab: Lab) -> Sequence[Result]:
    """The first deployment has nearly all the weight, so that it gets every request until it is left out."""
    lab.behave("group-a", fail=500)
    count = lab.policy.failures

    async def once() -> Result:
        before = len(lab.hits("group-a")), len(lab.hits("group-b"))
        await asyncio.gather(*(lab.ask("breaker-group") for _ in range(count - 1)))
        await lab.ask("breaker-group")
        after = [await lab.ask("breaker-group") for _ in range(3)]
        reached, other = len(lab.hits("group-a")) - before[0], len(lab.hits("group-b")) - before[1]
        measured = f"{reached} failures, then {other} of {len(after)} requests at the other"
        return Result("breaker-group", measured, reached == count and all(answer.ok for answer in after))

    async with lab.few:
        return (await in_window(lab, once),)


async def _retries(lab: Lab) -> Sequence[Result]:
    """One failure short of opening, the retries of the first request still get through."""
    lab.behave("breaker-retries", fail=500)
    tag = lab.tag()
    async with lab.few:
        first = asyncio.ensure_future(lab.ask("breaker-retries", tag=tag, retries=None))
        try:
            async with asyncio.timeout(lab.patience):
                await lab.backend.wait_hits(1, PREFIX + "breaker-retries", tag=tag)
            others = await asyncio.gather(*(lab.ask("breaker-retries") for _ in range(lab.policy.failures - 2)))
            last = await first
        finally:
            first.cancel()
    tries = len(lab.hits("breaker-retries", tag))
    failures = 1 + sum(not is_open(answer) for answer in others)
    ok = tries == lab.policy.retries + 1 and failures == lab.policy.failures - 1 and not is_open(last)
    return (Result("breaker-retries", f"{tries} tries of one request beside {failures - 1} failures: not open", ok),)
