"""A small systemd: jobs, conflicts, ordering, main processes, restarts, scripted deaths."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from agentd.errors import AgentdError, BusError
from agentd.types import ActiveState, JobResult, UnitState

from .kernel import FakeKernel

SIGKILL, SIGTERM = 9, 15
CLD_EXITED, CLD_KILLED = 1, 2


@dataclass
class Behaviour:
    """What the unit's program does; change it at any time, it counts from the next start or stop."""

    start_seconds: float = 0.02
    """From the start job until the unit is active (activating meanwhile, with a main pid)."""
    exit_on_start: int | None = None
    """Exit status with which it fails at the end of `start_seconds`: the start job's result is "failed"."""
    start_timeout: float = 90.0
    stop_seconds: float = 0.02
    ignore_sigterm: bool = False
    """Killed after `stop_timeout`; the stop job's result is still "done", the unit ends failed (result timeout)."""
    unkillable: bool = False
    """Survives SIGKILL too: the job ends after twice `stop_timeout` and the processes stay."""
    stop_timeout: float = 90.0
    orphan: bool = False
    """A child that outlives the unit's end."""
    restart: bool = False
    """Restart=on-failure."""
    restart_seconds: float = 0.1
    start_limit: int = 5
    """Failed starts in a row until systemd gives up."""
    stop_result: JobResult | None = None
    """Force the stop job's result (TIMEOUT: JobTimeoutSec; the unit stays deactivating)."""
    start_result: JobResult | None = None
    """Force the start job's result without starting anything (DEPENDENCY, SKIPPED, ASSERT, ...)."""
    comm: str = "python3"
    children: int = 1
    """Further processes in the cgroup."""


class FakeJob:
    def __init__(self, unit: str, kind: str) -> None:
        self.unit = unit
        self.kind = kind
        self.result: JobResult | None = None
        self._done: asyncio.Future[JobResult] = asyncio.get_running_loop().create_future()

    def finish(self, result: JobResult) -> None:
        if self.result is None:
            self.result = result
            self._done.set_result(result)

    async def wait(self, timeout: float) -> JobResult:
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(self._done)
        except TimeoutError:
            raise AgentdError("job-timeout", f"cannot finish {self.kind} of {self.unit} within {timeout:g} s") from None


@dataclass
class FakeUnit:
    state: UnitState
    behaviour: Behaviour
    job: FakeJob | None = None
    pids: list[int] = field(default_factory=list)
    failures: int = 0
    timer: asyncio.TimerHandle | None = None
    starts: int = 0
    goal: FakeJob | None = None
    """The job that the running program's progress will finish."""


class FakeUnits:
    """The UnitControl port. `add` makes units; `die`, `drop_bus` and `restore_bus` are the accidents."""

    def __init__(self, kernel: FakeKernel | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self.kernel = kernel or FakeKernel()
        self.units: dict[str, FakeUnit] = {}
        self.calls: list[tuple[str, str]] = []
        """Every call that changes something: ("start", unit), ("reload", "")..."""
        self.history: list[tuple[float, str, ActiveState]] = []
        """Every change of an active state, with its time."""
        self.on_start: list[Callable[[str, int], None]] = []
        """Called with (unit, main pid) as soon as the main process runs."""
        self.on_death: list[Callable[[str], None]] = []
        self.refuse: dict[str, AgentdError] = {}
        """Method name -> the error that every call of it raises."""
        self.guard: Callable[[str], frozenset[str]] = lambda unit: frozenset()
        """Units that this one's ExecStartPre= stops."""
        self.lost_wakeups = False
        """True: nothing is announced, as when signals are lost."""
        self._clock = clock
        self._connected = True
        self._watched: frozenset[str] = frozenset()
        self._callbacks: list[Callable[[str | None], None]] = []
        self._invocations = 0
        self.kernel.immune = self._immune
        self.kernel.exit_listeners.append(self._exited)

    # -- the world ------------------------------------------------------------------------------------------------
    def add(
        self,
        name: str,
        behaviour: Behaviour | None = None,
        *,
        conflicts: Sequence[str] = (),
        after: Sequence[str] = (),
        active: bool = False,
    ) -> FakeUnit:
        state = UnitState(
            name=name,
            load_state="loaded",
            description=name.removesuffix(".service"),
            unit_file_state="disabled",
            fragment_path=f"/home/user/.config/systemd/user/{name}",
            control_group="",
            conflicts=frozenset(conflicts),
            after=frozenset(after),
        )
        unit = self.units[name] = FakeUnit(state, behaviour or Behaviour())
        if active:
            self._spawn(unit)
            self._set(unit, active_state=ActiveState.ACTIVE, sub_state="running", active_since=self._clock())
        return unit

    def remove(self, name: str) -> None:
        """The unit file is gone (after a daemon-reload)."""
        self.units.pop(name, None)

    def change(self, name: str, **fields: object) -> None:
        """Set fields of the unit's state, such as load_state, conflicts or need_daemon_reload."""
        self._set(self.units[name], **fields)

    def state(self, name: str) -> UnitState:
        return self.units[name].state if name in self.units else UnitState(name)

    def active(self) -> list[str]:
        return sorted(n for n, u in self.units.items() if u.state.active_state is ActiveState.ACTIVE)

    def die(
        self, name: str, *, status: int = 1, code: int = CLD_EXITED, result: str = "", orphan: bool | None = None
    ) -> None:
        """The main process ends by itself. `code` 2: killed by signal `status`; `result` e.g. "oom-kill"."""
        unit = self.units[name]
        if not unit.pids:
            return
        natural = "success" if code == CLD_EXITED and status == 0 else "exit-code" if code == CLD_EXITED else "signal"
        self._end(unit, result or natural, code, status, orphan=orphan)

    def drop_bus(self) -> None:
        """The bus goes away: pending job waits answer LOST, calls raise BusError("bus-down")."""
        self._connected = False
        for unit in self.units.values():
            if unit.job is not None:
                unit.job.finish(JobResult.LOST)

    def restore_bus(self) -> None:
        self._connected = True
        self._announce(None)

    def announce(self, unit: str | None) -> None:
        """Wake the watchers without any reason."""
        self._announce(unit)

    # -- the port -------------------------------------------------------------------------------------------------
    @property
    def connected(self) -> bool:
        return self._connected

    async def start(self, unit: str) -> FakeJob:
        await self._enter("start", unit)
        return self._start(self._find(unit, "start"))

    async def stop(self, unit: str) -> FakeJob:
        await self._enter("stop", unit)
        return self._stop(self._find(unit, "stop"))

    async def restart(self, unit: str) -> FakeJob:
        await self._enter("restart", unit)
        found = self._find(unit, "restart")
        self._stop(found)
        return self._start(found)

    async def show(self, unit: str) -> UnitState:
        await self._enter("show", unit, record=False)
        return self.state(unit)

    async def list(self, units: Sequence[str]) -> Mapping[str, UnitState]:
        await self._enter("list", "", record=False)
        states = {name: self.state(name) for name in units}
        return {n: UnitState(n, s.load_state, s.active_state, s.sub_state, s.description) for n, s in states.items()}

    async def reset_failed(self, unit: str) -> None:
        await self._enter("reset_failed", unit)
        found = self._find(unit, "reset")
        found.failures = 0
        changed: dict[str, object] = {"result": "success", "restarts": 0}
        if found.state.active_state is ActiveState.FAILED:
            changed |= {"active_state": ActiveState.INACTIVE, "sub_state": "dead"}
        self._set(found, **changed)

    async def kill(self, unit: str, signal: int) -> None:
        await self._enter("kill", unit)
        found = self._find(unit, "kill")
        how = found.behaviour
        deaf = how.unkillable or (how.ignore_sigterm and signal != SIGKILL)
        if deaf or not self._pids_of(found):
            return
        if found.pids:
            self._end(found, "signal", CLD_KILLED, signal, orphan=False)
        self.kernel.kill_cgroup(self._group(found))

    async def reload(self) -> None:
        await self._enter("reload", "")
        await asyncio.sleep(0.01)
        for unit in self.units.values():
            unit.state = dataclasses.replace(unit.state, need_daemon_reload=False)
        self._announce(None)

    async def watch(self, units: Sequence[str]) -> None:
        await self._enter("watch", ",".join(units), record=False)
        self._watched = frozenset(units)

    def on_change(self, callback: Callable[[str | None], None]) -> None:
        self._callbacks.append(callback)

    # -- how systemd goes about it --------------------------------------------------------------------------------
    async def _enter(self, method: str, unit: str, *, record: bool = True) -> None:
        await asyncio.sleep(0)
        if not self._connected:
            raise BusError("bus-down", "cannot reach systemd: the bus is gone")
        if record:
            self.calls.append((method, unit))
        if method in self.refuse:
            raise self.refuse[method]

    def _find(self, name: str, verb: str) -> FakeUnit:
        unit = self.units.get(name)
        if unit is None or not unit.state.exists:
            error = "org.freedesktop.systemd1.NoSuchUnit"
            raise BusError("unit-not-found", f"cannot {verb} {name}: no such unit", name=error)
        return unit

    def _install(self, unit: FakeUnit, kind: str) -> FakeJob:
        """Mode "replace": a pending job of the same kind is joined by the caller, any other is cancelled."""
        if unit.job is not None:
            unit.job.finish(JobResult.CANCELED)
        unit.job = FakeJob(unit.state.name, kind)
        return unit.job

    def _finish(self, unit: FakeUnit, job: FakeJob | None, result: JobResult) -> None:
        if job is not None:
            job.finish(result)
        if unit.job is job:
            unit.job = None

    def _start(self, unit: FakeUnit) -> FakeJob:
        if unit.job is not None and unit.job.kind == "start":
            return unit.job
        forced = unit.behaviour.start_result
        if forced is not None:
            job = self._install(unit, "start")
            asyncio.get_running_loop().call_later(0.001, self._finish, unit, job, forced)
            return job
        rivals = [
            other
            for name, other in self.units.items()
            if other is not unit and (name in unit.state.conflicts or unit.state.name in other.state.conflicts)
        ] + [self.units[name] for name in sorted(self.guard(unit.state.name))]
        for other in rivals:
            if other.state.active_state.up or other.job is not None:
                self._stop(other)
        job = self._install(unit, "start")
        self._run_start(unit, job)
        return job

    def _blockers(self, unit: FakeUnit) -> list[FakeUnit]:
        """Stop jobs that a start must wait for: of units ordered against it in either direction."""
        ordered = [
            other
            for name, other in self.units.items()
            if other is not unit and (name in unit.state.after or unit.state.name in other.state.after)
        ]
        return [other for other in ordered if other.job is not None and other.job.kind == "stop"]

    def _run_start(self, unit: FakeUnit, job: FakeJob) -> None:
        """Called whenever something that may have held the start back has ended."""
        if unit.job is not job or unit.goal is job:
            return
        state = unit.state.active_state
        if state is ActiveState.ACTIVE:
            asyncio.get_running_loop().call_soon(self._finish, unit, job, JobResult.DONE)
        elif state is ActiveState.ACTIVATING:
            unit.goal = job
            if unit.state.sub_state == "auto-restart":
                self._launch(unit, job)
        elif state is not ActiveState.DEACTIVATING and not self._blockers(unit):
            if unit.failures >= unit.behaviour.start_limit and not unit.behaviour.restart:
                self._give_up(unit, job)
            else:
                self._launch(unit, job)

    def _launch(self, unit: FakeUnit, job: FakeJob | None) -> None:
        unit.goal = job
        unit.starts += 1
        self._cancel_timer(unit)
        self._invocations += 1
        self._spawn(unit)
        self._set(
            unit,
            active_state=ActiveState.ACTIVATING,
            sub_state="start",
            invocation_id=f"{self._invocations:032x}",
            result="success",
            exec_code=0,
            exec_status=0,
        )
        how = unit.behaviour
        late = how.start_seconds > how.start_timeout
        delay = how.start_timeout if late else how.start_seconds
        after = self._start_timed_out if late else self._started
        unit.timer = asyncio.get_running_loop().call_later(delay, after, unit)

    def _started(self, unit: FakeUnit) -> None:
        status = unit.behaviour.exit_on_start
        if status is not None:
            self._end(unit, "exit-code" if status else "protocol", CLD_EXITED, status)
            return
        self._set(unit, active_state=ActiveState.ACTIVE, sub_state="running", active_since=self._clock())
        job, unit.goal = unit.goal, None
        self._finish(unit, job, JobResult.DONE)

    def _start_timed_out(self, unit: FakeUnit) -> None:
        self._end(unit, "timeout", CLD_KILLED, SIGTERM)

    def _stop(self, unit: FakeUnit) -> FakeJob:
        if unit.job is not None and unit.job.kind == "stop":
            return unit.job
        job = self._install(unit, "stop")
        unit.goal = None
        how = unit.behaviour
        loop = asyncio.get_running_loop()
        if unit.state.active_state is ActiveState.DEACTIVATING:
            return job
        self._cancel_timer(unit)
        if not unit.pids:
            loop.call_soon(self._stopped_idle, unit, job)
            return job
        self._set(unit, active_state=ActiveState.DEACTIVATING, sub_state="stop-sigterm")
        if how.stop_result is not None:
            loop.call_later(how.stop_seconds, self._finish, unit, job, how.stop_result)
            return job
        if how.unkillable:
            unit.timer = loop.call_later(2 * how.stop_timeout, self._stopped, unit, "timeout", CLD_KILLED, SIGKILL)
        elif how.ignore_sigterm or how.stop_seconds > how.stop_timeout:
            unit.timer = loop.call_later(how.stop_timeout, self._stopped, unit, "timeout", CLD_KILLED, SIGKILL)
        else:
            unit.timer = loop.call_later(how.stop_seconds, self._stopped, unit, "success", CLD_EXITED, 0)
        return job

    def _stopped_idle(self, unit: FakeUnit, job: FakeJob) -> None:
        if unit.job is job:
            if unit.state.active_state.up:
                self._set(unit, active_state=ActiveState.INACTIVE, sub_state="dead")
            self._finish(unit, job, JobResult.DONE)
            self._wake_waiting()

    def _stopped(self, unit: FakeUnit, result: str, code: int, status: int) -> None:
        self._end(unit, result, code, status)

    def _end(self, unit: FakeUnit, result: str, code: int, status: int, *, orphan: bool | None = None) -> None:
        """The main process is gone (or given up on): settle state, jobs, restarts, waiting rivals."""
        self._cancel_timer(unit)
        how = unit.behaviour
        leave = how.orphan if orphan is None else orphan
        stopping = unit.state.active_state is ActiveState.DEACTIVATING
        pids, unit.pids = unit.pids, []
        if not how.unkillable:
            for pid in pids[:-1] if leave else pids:
                self.kernel.exit(pid)
        ok = result == "success"
        job, unit.goal = unit.goal, None
        self._set(
            unit,
            active_state=ActiveState.INACTIVE if ok else ActiveState.FAILED,
            sub_state="dead" if ok else "failed",
            main_pid=0,
            result=result,
            exec_code=code,
            exec_status=status,
        )
        for listener in self.on_death:
            listener(unit.state.name)
        unit.failures = 0 if ok or stopping else unit.failures + 1
        if job is not None and job.kind == "start":
            self._finish(unit, job, JobResult.FAILED)
        if unit.job is not None and unit.job.kind == "stop":
            self._finish(unit, unit.job, JobResult.DONE)
        if not ok and not stopping and how.restart and unit.job is None:
            self._restart_later(unit)
        self._wake_waiting()

    def _restart_later(self, unit: FakeUnit) -> None:
        if unit.failures >= unit.behaviour.start_limit:
            self._give_up(unit, None)
            return
        self._set(unit, active_state=ActiveState.ACTIVATING, sub_state="auto-restart")
        unit.timer = asyncio.get_running_loop().call_later(unit.behaviour.restart_seconds, self._auto_restart, unit)

    def _auto_restart(self, unit: FakeUnit) -> None:
        self._set(unit, restarts=unit.state.restarts + 1)
        self._launch(unit, unit.goal)

    def _give_up(self, unit: FakeUnit, job: FakeJob | None) -> None:
        """The limit at a start by hand is a result of its own; after automatic restarts the last crash's one stays."""
        result = "start-limit-hit" if job is not None else unit.state.result
        self._set(unit, active_state=ActiveState.FAILED, sub_state="failed", result=result)
        self._finish(unit, job, JobResult.FAILED)

    def _wake_waiting(self) -> None:
        for unit in list(self.units.values()):
            if unit.job is not None and unit.job.kind == "start" and unit.goal is not unit.job:
                self._run_start(unit, unit.job)

    def _immune(self, name: str) -> bool:
        return name in self.units and self.units[name].behaviour.unkillable

    def _exited(self, pid: int) -> None:
        """A main process that was killed behind systemd's back (SIGKILL to its cgroup, the OOM killer)."""
        for unit in self.units.values():
            if unit.pids and unit.pids[0] == pid:
                unit.pids = unit.pids[1:]
                asyncio.get_running_loop().call_soon(self._end, unit, "signal", CLD_KILLED, SIGKILL)

    # -- small parts ----------------------------------------------------------------------------------------------
    def _group(self, unit: FakeUnit) -> str:
        return f"/user.slice/user-1000.slice/user@1000.service/app.slice/{unit.state.name}"

    def _pids_of(self, unit: FakeUnit) -> frozenset[int]:
        return self.kernel.cgroup_pids(self._group(unit))

    def _spawn(self, unit: FakeUnit) -> None:
        name, group = unit.state.name, self._group(unit)
        count = 1 + unit.behaviour.children
        unit.pids = [self.kernel.spawn(unit.behaviour.comm, unit=name, control_group=group) for _ in range(count)]
        self._set(unit, main_pid=unit.pids[0], control_group=group)
        for listener in self.on_start:
            listener(name, unit.pids[0])

    def _cancel_timer(self, unit: FakeUnit) -> None:
        if unit.timer is not None:
            unit.timer.cancel()
            unit.timer = None

    def _set(self, unit: FakeUnit, **fields: object) -> None:
        before = unit.state
        unit.state = dataclasses.replace(before, **fields)  # type: ignore[arg-type]
        if unit.state.active_state is not before.active_state:
            self.history.append((self._clock(), before.name, unit.state.active_state))
        if unit.state != before:
            self._announce(before.name)

    def _announce(self, unit: str | None) -> None:
        if self.lost_wakeups or not self._connected or (unit is not None and unit not in self._watched):
            return
        for callback in self._callbacks:
            asyncio.get_running_loop().call_soon(callback, unit)
