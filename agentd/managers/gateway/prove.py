"""The proof of a policy: the installed LiteLLM, with the config that its sources give, in front of a stand-in backend
that fails in every way. Each promise is measured by requests; nothing of the user's is asked or touched."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass

from agentd.core.gateway.asking import Question
from agentd.core.gateway.document import render
from agentd.core.gateway.generated import Rendered
from agentd.core.gateway.install import Install
from agentd.core.gateway.model import Catalog
from agentd.core.gateway.promises import Measured, Promise, has_breaker, matching, promises
from agentd.core.gateway.proof_catalog import PREFIX, Rig, rig
from agentd.errors import AgentdError
from agentd.managers.gateway import prove_breaker, prove_limits, prove_routing, prove_times
from agentd.managers.gateway.prove_lab import Bench, Job, Lab, Result
from agentd.ports_gateway import ScratchProxy

FIRST = 30.0
"""Seconds for the first answer, at which LiteLLM imports half of itself."""


@dataclass(frozen=True, slots=True)
class Proof:
    version: str
    """Of LiteLLM."""
    measured: tuple[Measured, ...]
    factor: float
    notes: tuple[str, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        return bool(self.measured) and all(one.ok for one in self.measured)


Tell = Callable[[str], None]


async def prove(
    catalog: Catalog,
    install: Install,
    bench: Bench,
    *,
    full: bool = False,
    only: str = "",
    start_timeout: float = 180.0,
    tell: Tell = lambda _: None,
    now: Callable[[], float] = time.time,
    change: Callable[[str], str] = lambda text: text,
) -> Proof:
    """`only`: a promise, a pattern or the beginning of names. `change`: what to make of the generated config before it
    is used. Raises AgentdError: nothing to prove, no LiteLLM, it does not start."""
    began = time.monotonic()
    made = rig(catalog, url=bench.url, refused=bench.refused, full=full)
    known = promises(made)
    wanted = matching(known, only)
    if not wanted:
        raise AgentdError("usage", f'no promise "{only}"', hint=f"there are: {', '.join(known)}")
    chosen = {name: known[name] for name in wanted}
    rendered = render(made.catalog, install, {}, {})
    path = await bench.write(change(rendered.text))
    tell(f"starting LiteLLM {install.version} with the generated config")
    proxy = await bench.proxies.start(path, bench.environment(made.policy), timeout=start_timeout)
    try:
        measured = await _measure(made, rendered, chosen, bench, proxy, tell, now)
    finally:
        await proxy.stop()
    return Proof(install.version, measured, made.factor, made.notes, time.monotonic() - began)


async def _measure(
    made: Rig,
    rendered: Rendered,
    chosen: Mapping[str, Promise],
    bench: Bench,
    proxy: ScratchProxy,
    tell: Tell,
    now: Callable[[], float],
) -> tuple[Measured, ...]:
    lab = Lab(made, bench.backend, bench.asker(proxy.endpoint.url), rendered.expected, now)
    first = await lab.asker.ask(Question(f"{PREFIX}well", "first"), timeout=FIRST)
    tell(
        f"measuring {len(chosen)} promise{'' if len(chosen) == 1 else 's'}; the first answer took {first.seconds:.1f} s"
    )
    wanted = [job for job in jobs(made) if chosen.keys() & set(job.names)]
    found: dict[str, Measured] = {}

    async def done(job: Job) -> None:
        for result in await _run(job, lab):
            if result.name in chosen:
                found[result.name] = Measured(chosen[result.name], result.measured, result.ok, result.detail)
                tell(f"{result.name}: {result.measured}{'' if result.ok else '  NOT AS PROMISED'}")

    await _all(done(job) for job in wanted)
    return tuple(found[name] for name in chosen if name in found)


def jobs(made: Rig) -> list[Job]:
    """The longest ones first: all run beside each other."""
    breaker = prove_breaker.jobs(made) if has_breaker(made.policy) else []
    return [*prove_times.jobs(), *breaker, *prove_limits.jobs(), *prove_routing.jobs(made)]


async def _all(runs: Iterable[Coroutine[None, None, None]]) -> None:
    """All of them, or none: where one raises or we are cancelled, the others end before this does."""
    tasks = [asyncio.ensure_future(run) for run in runs]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _run(job: Job, lab: Lab) -> Sequence[Result]:
    limit = 4 * lab.patience + 2 * lab.policy.cooldown
    try:
        async with asyncio.timeout(limit):
            return await job.run(lab)
    except TimeoutError:
        return [Result(name, f"not measured within {limit:.0f} s", False) for name in job.names]
