"""A load as it is seen from outside while somebody waits for it: its phases, what is left, whether it stands still."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager

from agentd.core.loading import Life, Loading, LoadPhase, average, averaged
from agentd.errors import AgentdError
from agentd.managers.models.context import ModelUnit, SlotContext, wait_any
from agentd.managers.models.fingerprint import fingerprint
from agentd.managers.models.start import Started
from agentd.types import UnitState

log = logging.getLogger(__name__)

QUIET = 1.5
"""Seconds of a load before it is looked at: what is loaded by then is not worth a journalctl."""
TICK, SPACING = 1.0, 0.5
"""Seconds between two texts: at most, so that the time that is left counts down, and at least."""
OFTEN, SELDOM = 1.0, 10.0
"""Seconds between two looks for a sign of life; a tenth of what counts as a stall, within these bounds."""
LAST_STRETCH = 10.0
"""Seconds after its last phase of loading has begun, in which a server may answer any moment."""
CHANGED = 0.1
"""Share by which a duration must differ from the known one to be worth a write."""


class LoadWatch:
    """One load of one model. `tell` gets a text at most twice a second."""

    def __init__(
        self, ctx: SlotContext, model: ModelUnit, started: Started, tell: Callable[[str], None] | None = None
    ) -> None:
        self._ctx = ctx
        self._model = model
        self._started = started
        self._tell = tell
        self._news = asyncio.Event()
        self._lines = 0
        self._stalled = ""
        self._task: asyncio.Task[None] | None = None
        self._loading = Loading(ctx.ports.clock.monotonic(), usual=ctx.facts.of(model.name).load_seconds)
        self._fingerprint = ""

    @contextmanager
    def open(self, wake: asyncio.Event) -> Iterator[None]:
        """Look at the load meanwhile; `wake` is set when `check` has something to say."""
        timer = asyncio.get_running_loop().call_later(QUIET, self._begin, wake)
        try:
            yield
        finally:
            timer.cancel()
            if self._task is not None:
                # Its end is not waited for: the model answers, and the next phase has better things to do.
                self._task.cancel()

    def check(self) -> None:
        """Raises AgentdError("load-stalled")."""
        if self._stalled:
            raise AgentdError("load-stalled", self._stalled)

    def answers_soon(self) -> bool:
        """Its log says that the server itself is being started. journald tells of a line up to a quarter of a second
        late, so that the line of a server that is up comes too late to wait for."""
        since = self._ctx.ports.clock.monotonic() - self._loading.since
        return self._loading.phase is LoadPhase.SERVER and since < LAST_STRETCH

    def took(self, seconds: float) -> str:
        """ "answers after 41.20 s (loading weights 12 s, compiling 20 s)"; the load is over."""
        phases = self._loading.ended(self._ctx.ports.clock.monotonic()) if self._loading.marks else {}
        named = [f"{name} {spent:.0f} s" for name, spent in phases.items() if spent >= 1]
        return f"answers after {seconds:.2f} s" + (f" ({', '.join(named)})" if named else "")

    def learn(self, seconds: float) -> None:
        """This was a whole cold start, and a good one; call it after `took`."""
        self._ctx.facts.aside(self._learn(seconds))

    # -- while it loads ---------------------------------------------------------------------------------------

    def _begin(self, wake: asyncio.Event) -> None:
        self._task = asyncio.ensure_future(self._observe(wake))

    async def _observe(self, wake: asyncio.Event) -> None:
        try:
            state = await self._identify()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow(state, wake))
                if self._tell is not None:
                    group.create_task(self._show(self._tell))
                if self._model.spec.stall_timeout > 0:
                    group.create_task(self._watch_life(wake))
        except Exception:  # Whoever only looks must not make a load fail.
            log.exception("load.watch", extra={"data": {"model": self._model.name}})

    async def _identify(self) -> UnitState:
        """Read which run it is, and what is known of earlier ones with the same command line."""
        try:
            state = await self._ctx.ports.control.show(self._model.unit)
        except AgentdError:
            return UnitState(self._model.unit)
        self._fingerprint = fingerprint(self._model, state)
        facts = self._ctx.facts.of(self._model.name, self._fingerprint)
        self._loading.learned, self._loading.usual = facts.phases, facts.load_seconds
        if self._ctx.facts.of(self._model.name).fingerprint != self._fingerprint:
            await self._ctx.facts.learn(self._model.name, self._fingerprint)
        return state

    async def _follow(self, state: UnitState, wake: asyncio.Event) -> None:
        clock = self._ctx.ports.clock
        lines = self._ctx.ports.journal.follow(self._model.unit, invocation=state.invocation_id, pid=self._started.pid)
        async with aclosing(lines):
            async for line in lines:
                self._lines += 1
                if self._loading.feed(line, clock.monotonic()):
                    self._news.set()
                    if self.answers_soon():
                        wake.set()

    async def _show(self, tell: Callable[[str], None]) -> None:
        while True:
            tell(self._loading.told(self._ctx.ports.clock.monotonic()))
            await asyncio.sleep(SPACING)
            await wait_any(self._news, TICK - SPACING)

    async def _watch_life(self, wake: asyncio.Event) -> None:
        limit = self._model.spec.stall_timeout
        clock, kernel = self._ctx.ports.clock, self._ctx.ports.kernel
        life = Life(clock.monotonic())
        while True:
            cpu, gpu = kernel.cpu_seconds(self._started.cgroup) if self._started.cgroup else 0.0, await self._gpu()
            still = life.still(clock.monotonic(), lines=self._lines, cpu=cpu, gpu=gpu)
            if still >= limit:
                self._ctx.counters.add("agentd_load_stalled", self._model.name)
                self._stalled = (
                    f"loading stands still since {still:.0f} s in phase '{self._loading.phase}': no line in its log, "
                    "no CPU time, no change of GPU memory"
                )
                wake.set()
                return
            await asyncio.sleep(min(SELDOM, max(OFTEN, limit / 10)))

    async def _gpu(self) -> int | None:
        """Bytes that it holds on the slot's GPUs, or all that is held there where the driver does not say who."""
        if self._ctx.slot.vram_probe == "none":
            return None
        snapshot = await self._ctx.ports.gpus.read()
        if snapshot.source == "none" or snapshot.trouble(self._ctx.slot.gpus):
            return None
        ours = self._ctx.slot.gpus
        pids = self._ctx.ports.kernel.cgroup_pids(self._started.cgroup)
        own = sum(p.used for p in snapshot.processes if p.pid in pids and p.gpu in ours)
        return own or sum(g.used for g in snapshot.gpus if g.index in ours)

    # -- afterwards -------------------------------------------------------------------------------------------

    async def _learn(self, seconds: float) -> None:
        if not self._fingerprint:
            await self._identify()
        if not self._fingerprint:
            return
        name, book = self._model.name, self._ctx.facts
        known = book.of(name, self._fingerprint)
        usual = average(known.load_seconds, seconds) if known.load_seconds else seconds
        if self._loading.marks:
            phases = averaged(known.phases, self._loading.seconds)
            await book.learn(name, self._fingerprint, phases=phases, load_seconds=usual)
        elif abs(usual - known.load_seconds) > CHANGED * usual:
            await book.learn(name, self._fingerprint, load_seconds=usual)
