"""Timeouts, retries, streams and whole answers, measured: most of it at the backend, which sees when LiteLLM leaves."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from agentd.core.gateway.proof_catalog import CHAIN, allowance, chain_time, fitting_retries, start_limit
from agentd.managers.gateway.prove_lab import EARLY, SLACK, Job, Lab, Result, between

_ENDLESS = 1_000_000
_CUT = ("504",)


def jobs() -> list[Job]:
    return [
        Job(("answer-stream",), _answer_stream),
        Job(("answer-chain",), _answer_chain),
        Job(("slow-stream",), _slow_stream),
        Job(("stream-silence",), _silence),
        Job(("stream-start",), _start),
        Job(("stream-try",), _stream_try),
        Job(("stream-chain",), _stream_chain),
        Job(("try-timeout",), _try_timeout),
        Job(("retries", "back-off"), _retries),
    ]


async def _try_timeout(lab: Lab) -> Sequence[Result]:
    lab.behave("try-timeout", hang="answer")
    answer = await lab.ask("try-timeout")
    return (_left(lab, "try-timeout", lab.policy.try_timeout, answer.words),)


def _left(lab: Lab, name: str, wanted: float, words: str) -> Result:
    """When LiteLLM gave up the first request to the model `name`, from its arrival."""
    hits = lab.hits(name)
    if not hits or not hits[0].left:
        return Result(name, "not given up" if hits else "never asked", False, words)
    seconds = hits[0].left - hits[0].at
    return Result(name, f"{seconds:.2f} s", between(wanted - EARLY, seconds, wanted + SLACK), words)


async def _retries(lab: Lab) -> Sequence[Result]:
    lab.behave("retries", fail=500)
    await lab.ask("retries", retries=None)
    times = [hit.at for hit in lab.hits("retries")]
    wanted = lab.policy.retries
    found = [Result("retries", f"{len(times)} tries", len(times) == wanted + 1)]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    if wanted:
        measured = " + ".join(f"{pause:.1f}" for pause in pauses) or "none"
        high = allowance(wanted) + SLACK
        found.append(Result("back-off", f"{measured} s", bool(pauses) and min(pauses) > 0.3 and sum(pauses) < high))
    return found


async def _silence(lab: Lab) -> Sequence[Result]:
    name, wanted = "stream-silence", lab.policy.silence_timeout
    lab.behave(name, stall_after=2, tokens=5)
    answer = await lab.ask(name, stream=True)
    hits = lab.hits(name)
    if not hits or not hits[0].left:
        return (Result(name, "not cut", False, answer.words),)
    seconds = hits[0].left - hits[0].said
    ok = between(wanted - EARLY, seconds, wanted + SLACK) and bool(answer.error) and len(answer.events) == 2
    return (Result(name, f"cut after {seconds:.2f} s", ok, answer.words),)


async def _start(lab: Lab) -> Sequence[Result]:
    name = "stream-start"
    lab.behave(name, hang="chunk")
    tag = lab.tag()
    answer = await lab.ask(name, tag=tag, stream=True)
    left = _left(lab, name, lab.policy.silence_timeout, answer.words)
    rescued = answer.ok and lab.way(tag) == [name, "well"]
    measured = f"{left.measured}, then {'the fallback' if rescued else 'no answer'}"
    return (Result(name, measured, left.ok and rescued, answer.words),)


async def _stream_try(lab: Lab) -> Sequence[Result]:
    """Every try is given up at its limit, and the last one is followed by the fallback."""
    name, wanted = "stream-try", start_limit(lab.policy)
    lab.behave(name, hang="answer")
    tag = lab.tag()
    retries = fitting_retries(lab.policy, 1) or 0
    answer = await lab.ask(name, tag=tag, stream=True, retries=retries)
    times = [hit.left - hit.at if hit.left else 0.0 for hit in lab.hits(name, tag)]
    usual = median(times) if times else 0.0  # the moment at which a busy backend takes one request can be late
    cut = len(times) == retries + 1 and between(wanted - EARLY, usual, wanted + SLACK)
    rescued = answer.ok and answer.done and lab.way(tag) == [name, "well"]
    measured = " + ".join(f"{seconds:.2f}" for seconds in times) or "never asked"
    measured += f" s, then {'the fallback' if rescued else 'no answer'}"
    return (Result(name, measured, cut and rescued, answer.words),)


async def _stream_chain(lab: Lab) -> Sequence[Result]:
    name, policy = "stream-chain", lab.policy
    models = (name, f"{name}-2")
    for model in models:
        lab.behave(model, hang="answer")
    retries = fitting_retries(policy, len(models)) or 0
    tag = lab.tag()
    answer = await lab.ask(name, tag=tag, stream=True, retries=retries)
    tries = [len(lab.hits(model, tag)) for model in models]
    most = chain_time(policy, len(models), retries)
    cut = answer.broken or "504" in (str(answer.status), answer.error)  # by the limit of the whole answer
    ended = not answer.ok and not cut and answer.seconds <= most + SLACK * len(models)
    measured = f"{answer.seconds:.1f} s of {most:g} s, tries {' + '.join(map(str, tries))}"
    return (Result(name, measured, ended and tries == [retries + 1] * 2, answer.words),)


async def _slow_stream(lab: Lab) -> Sequence[Result]:
    name, pause = "slow-stream", lab.policy.silence_timeout * 0.6
    count = max(2, min(3, int(lab.policy.answer_timeout * 0.9 / pause)))
    lab.behave(name, every=pause, tokens=count)
    answer = await lab.ask(name, stream=True)
    measured = f"{len(answer.events)} of {count} chunks in {answer.seconds:.1f} s"
    return (Result(name, measured, answer.ok and answer.done and len(answer.events) == count, answer.words),)


async def _answer_stream(lab: Lab) -> Sequence[Result]:
    name, wanted = "answer-stream", lab.policy.answer_timeout
    lab.behave(name, every=min(lab.policy.silence_timeout / 2, max(0.5, wanted / 30)), tokens=_ENDLESS)
    answer = await lab.ask(name, stream=True)
    ok = between(wanted - EARLY, answer.seconds, wanted + SLACK) and answer.error in _CUT
    return (Result(name, f"{answer.seconds:.1f} s", ok, answer.words),)


async def _answer_chain(lab: Lab) -> Sequence[Result]:
    for index in range(1, CHAIN + 1):
        lab.behave(f"hang-{index}", hang="answer")
    tag = lab.tag()
    answer = await lab.ask("hang-1", tag=tag, retries=None)
    ok = not answer.broken and answer.seconds <= lab.policy.answer_timeout + SLACK
    tries = [len(lab.hits(f"hang-{index}", tag)) for index in range(1, CHAIN + 1)]
    measured = f"{answer.seconds:.1f} s, tries {' + '.join(map(str, tries))}"
    return (Result("answer-chain", measured, ok, answer.words),)
