"""SystemdControl against a real user manager, with each D-Bus library."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from privatebus import LIBRARIES, LagMeter
from userunits import UserUnits, eventually, kill_bus, manager_pid, systemctl, systemctl_aside

from agentd.adapters.kernel import LinuxKernel
from agentd.adapters.systemd import SystemdControl
from agentd.errors import AgentdError
from agentd.types import ActiveState, JobResult

SLEEP = "ExecStart=/bin/sleep 1000"


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def units(library: str) -> Iterator[UserUnits]:
    made = UserUnits(f"edge{os.getpid()}")
    yield made
    made.remove()


@asynccontextmanager
async def control(library: str, **options: float) -> AsyncIterator[SystemdControl]:
    made = SystemdControl(library=library, **options)
    await made.start_up()
    assert made.connected, made.problem
    try:
        yield made
    finally:
        await made.close()


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class Heard:
    """What on_change said."""

    def __init__(self, systemd: SystemdControl) -> None:
        self.all: list[str | None] = []
        self._expected: list[tuple[set[str | None], asyncio.Event]] = []
        systemd.on_change(self._hear)

    def _hear(self, unit: str | None) -> None:
        self.all.append(unit)
        for wanted, event in self._expected:
            if unit in wanted:
                event.set()

    def expect(self, *units: str | None, timeout: float = 5) -> Awaitable[bool]:
        """One of them. Await it after the act: what was said since this call counts."""
        event = asyncio.Event()
        self._expected.append((set(units), event))
        return asyncio.wait_for(event.wait(), timeout)


async def test_start_show_restart_stop(units: UserUnits, library: str) -> None:
    unit = units.service("plain", "Description=ignored here", SLEEP)
    async with control(library) as systemd:
        assert await (await systemd.start(unit)).wait(5) is JobResult.DONE
        first = await systemd.show(unit)
        assert (first.load_state, first.active_state, first.sub_state) == ("loaded", ActiveState.ACTIVE, "running")
        assert first.fragment_path == str(units.folder / unit)
        assert first.main_pid > 0
        assert len(first.invocation_id) == 32
        assert abs(first.active_since - time.time()) < 5
        assert first.exists
        assert not first.need_daemon_reload
        assert await (await systemd.restart(unit)).wait(5) is JobResult.DONE
        second = await systemd.show(unit)
        assert second.main_pid != first.main_pid
        assert second.invocation_id != first.invocation_id
        assert await (await systemd.stop(unit)).wait(5) is JobResult.DONE
        third = await systemd.show(unit)
        assert (third.active_state, third.sub_state, third.main_pid) == (ActiveState.INACTIVE, "dead", 0)


async def test_failed_job_and_reset(units: UserUnits, library: str) -> None:
    unit = units.service("fails", "Type=notify", "ExecStart=/bin/sh -c 'exit 7'")
    async with control(library) as systemd:
        assert await (await systemd.start(unit)).wait(5) is JobResult.FAILED
        state = await systemd.show(unit)
        assert (state.active_state, state.result) == (ActiveState.FAILED, "exit-code")
        assert (state.exec_code, state.exec_status) == (1, 7)
        await systemd.reset_failed(unit)
        assert (await systemd.show(unit)).active_state is ActiveState.INACTIVE


async def test_job_timeout_by_systemd(units: UserUnits, library: str) -> None:
    text = "[Unit]\nJobTimeoutSec=300ms\n[Service]\nType=notify\n" + SLEEP + "\n"
    unit = units.write("slow.service", text)
    async with control(library) as systemd:
        assert await (await systemd.start(unit)).wait(5) is JobResult.TIMEOUT


async def test_start_timeout_of_the_service(units: UserUnits, library: str) -> None:
    unit = units.service("hangs", "Type=notify", "TimeoutStartSec=300ms", SLEEP)
    async with control(library) as systemd:
        assert await (await systemd.start(unit)).wait(5) is JobResult.FAILED
        assert (await systemd.show(unit)).result == "timeout"


async def test_dependency_job(units: UserUnits, library: str) -> None:
    bad = units.service("base", "Type=oneshot", "ExecStart=/bin/false")
    unit = units.write("needs.service", f"[Unit]\nRequires={bad}\nAfter={bad}\n[Service]\n{SLEEP}\n")
    async with control(library) as systemd:
        assert await (await systemd.start(unit)).wait(5) is JobResult.DEPENDENCY


async def test_canceled_job_of_a_start_that_a_stop_replaces(units: UserUnits, library: str) -> None:
    unit = units.service("waits", "Type=notify", SLEEP)
    async with control(library) as systemd:
        start = await systemd.start(unit)
        stop = await systemd.stop(unit)
        assert await start.wait(5) is JobResult.CANCELED
        assert await stop.wait(5) is JobResult.DONE


async def test_assert_and_skipped_condition(units: UserUnits, library: str) -> None:
    wrong = units.write("asserts.service", f"[Unit]\nAssertPathExists=/no/such\n[Service]\n{SLEEP}\n")
    skips = units.write("skips.service", f"[Unit]\nConditionPathExists=/no/such\n[Service]\n{SLEEP}\n")
    async with control(library) as systemd:
        assert await (await systemd.start(wrong)).wait(5) is JobResult.ASSERT
        assert await (await systemd.start(skips)).wait(5) is JobResult.DONE
        assert (await systemd.show(skips)).active_state is ActiveState.INACTIVE


async def test_waiting_for_a_job_ends_at_its_own_deadline(units: UserUnits, library: str) -> None:
    unit = units.service("never", "Type=notify", SLEEP)
    async with control(library) as systemd:
        job = await systemd.start(unit)
        with pytest.raises(AgentdError, match="not finished within 0\\.1 s") as caught:
            await job.wait(0.1)
        assert caught.value.kind == "job-timeout"
        await systemd.kill(unit, signal.SIGKILL)
        assert await job.wait(5) is JobResult.FAILED, "the ticket must survive a timed-out wait"


async def test_job_of_an_already_active_unit_200_times(units: UserUnits, library: str) -> None:
    """systemd is done before we know the job's path: no result may be missed."""
    unit = units.service("active", SLEEP)
    async with control(library) as systemd:
        await (await systemd.start(unit)).wait(5)
        for _ in range(200):
            assert await (await systemd.start(unit)).wait(2) is JobResult.DONE
        assert systemd._jobs.idle


async def test_shared_job(units: UserUnits, library: str) -> None:
    """Many requests while one job runs get the same job: each must hear of its end."""
    unit = units.service("shared", "Type=notify", "ExecStart=/bin/sh -c 'sleep 0.3; exec /bin/systemd-notify --ready'")
    async with control(library) as systemd:
        jobs = await asyncio.gather(*(systemd.start(unit) for _ in range(10)))
        assert len({job.path for job in jobs}) == 1
        results = await asyncio.gather(*(job.wait(5) for job in jobs), jobs[0].wait(5))
        assert len(set(results)) == 1
        assert systemd._jobs.idle


async def test_units_that_cannot_be_started(units: UserUnits, library: str) -> None:
    masked = units.mask("masked")
    broken = units.service("broken", "ExecStart=relative/path")
    refuses = units.write("refuses.service", f"[Unit]\nRefuseManualStart=yes\n[Service]\n{SLEEP}\n")
    missing = f"{units.prefix}-missing.service"
    async with control(library) as systemd:
        await systemd.reload()
        for unit, kind in [
            (masked, "unit-masked"),
            (broken, "unit-not-loadable"),
            (refuses, "unit-refused"),
            (missing, "unit-not-found"),
            ("no-suffix", "unit-invalid"),
        ]:
            with pytest.raises(AgentdError) as caught:
                await systemd.start(unit)
            assert caught.value.kind == kind
            assert unit in caught.value.message
            assert caught.value.message.startswith("cannot ")
        assert (await systemd.show(masked)).load_state == "masked"
        state = await systemd.show(missing)
        assert (state.load_state, state.exists) == ("not-found", False)
        brief = await systemd.list([missing, masked])
        assert [brief[name].load_state for name in (missing, masked)] == ["not-found", "masked"]


async def test_list_and_changes_of_an_alias(units: UserUnits, library: str) -> None:
    """systemd signals on the path of the unit behind the alias, and lists it by that name."""
    unit = units.service("behind", SLEEP)
    alias = units.alias("front", unit)
    async with control(library) as systemd:
        await systemd.reload()
        await systemd.watch([alias])
        changed = Heard(systemd).expect(alias)
        await (await systemd.start(alias)).wait(5)
        await changed
        assert (await systemd.list([alias]))[alias].active_state is ActiveState.ACTIVE
        assert (await systemd.show(alias)).main_pid > 0


async def test_watch_replaces_the_set(units: UserUnits, library: str) -> None:
    one, two = units.service("one", SLEEP), units.service("two", SLEEP)
    async with control(library) as systemd:
        await systemd.watch([one])
        await systemd.watch([two])
        heard = Heard(systemd)
        changed = heard.expect(two)
        await (await systemd.start(one)).wait(5)
        await (await systemd.start(two)).wait(5)
        await changed
        assert one not in heard.all
        await systemd.watch([])
        heard.all.clear()
        await (await systemd.stop(two)).wait(5)
        await systemd.list([one])
        assert heard.all == []


async def test_killed_process_is_noticed_by_pidfd_and_by_signal(units: UserUnits, library: str) -> None:
    unit = units.service("victim", SLEEP)
    kernel = LinuxKernel()
    async with control(library) as systemd:
        await systemd.watch([unit])
        await (await systemd.start(unit)).wait(5)
        state = await systemd.show(unit)
        assert kernel.cgroup_pids(state.control_group) == {state.main_pid}
        assert kernel.unit_of(state.main_pid) == unit
        changed, died = Heard(systemd).expect(unit), asyncio.Event()
        assert kernel.watch_exit(state.main_pid, died.set) is not None
        start = time.perf_counter()
        os.kill(state.main_pid, signal.SIGKILL)
        await asyncio.wait_for(died.wait(), 1)
        assert time.perf_counter() - start < 0.1
        await changed

        async def failed() -> bool:
            return (await systemd.show(unit)).active_state is ActiveState.FAILED

        await eventually(failed)
        assert kernel.cgroup_pids(state.control_group) == frozenset()


async def test_kill_cgroup_takes_the_children_too(units: UserUnits, library: str) -> None:
    unit = units.service("family", "ExecStart=/bin/sh -c 'sleep 1000 & sleep 1000 & wait'")
    kernel = LinuxKernel()
    async with control(library) as systemd:
        await (await systemd.start(unit)).wait(5)
        group = (await systemd.show(unit)).control_group
        await eventually(lambda: len(kernel.cgroup_pids(group)) == 3)
        assert kernel.kill_cgroup(group) == 3
        await eventually(lambda: not kernel.cgroup_pids(group))
        assert kernel.kill_cgroup(group) == 0


async def test_reload_is_seen_and_finished_when_it_returns(units: UserUnits, library: str) -> None:
    unit = units.service("edited", SLEEP)
    async with control(library) as systemd:
        await systemd.watch([unit])
        await (await systemd.start(unit)).wait(5)
        heard = Heard(systemd)
        units.service("edited", "Environment=A=1", SLEEP)
        resynced = heard.expect(None)
        await asyncio.gather(*(systemd.reload() for _ in range(3)))
        await resynced
        assert not (await systemd.show(unit)).need_daemon_reload
        changed = heard.expect(unit)
        assert await (await systemd.stop(unit)).wait(5) is JobResult.DONE
        await changed


async def test_reload_under_load(units: UserUnits, library: str) -> None:
    """Jobs that are queued before and during reloads all get their result."""
    names = [units.service(f"load{n}", "Type=oneshot", "ExecStart=/bin/true") for n in range(20)]
    async with control(library) as systemd:
        await systemd.watch(names)

        async def run(unit: str) -> list[JobResult]:
            return [await (await systemd.start(unit)).wait(20) for _ in range(3)]

        async with LagMeter() as lag:
            *_, results = await asyncio.gather(
                systemd.reload(), systemd.reload(), asyncio.gather(*(run(name) for name in names))
            )
        assert {result for row in results for result in row} == {JobResult.DONE}
        assert lag.p99 < 0.5, "a starved loop stands still for as long as the flood lasts, a busy machine for tenths"
        assert systemd.reconnects == 0


async def test_daemon_reexec(units: UserUnits, library: str) -> None:
    unit = units.service("survivor", SLEEP)
    slow = units.service("starting", "Type=notify", SLEEP)
    async with control(library) as systemd:
        await systemd.watch([unit, slow])
        await (await systemd.start(unit)).wait(5)
        starting = await systemd.start(slow)
        before = await systemd.show(unit)
        heard = Heard(systemd)
        resynced = heard.expect(None, timeout=15)
        await systemctl_aside("daemon-reexec")
        await resynced

        async def answers() -> bool:
            try:
                return systemd.connected and (await systemd.show(unit)).main_pid == before.main_pid
            except AgentdError:
                return False

        await eventually(answers, 10)
        await systemd.kill(slow, signal.SIGKILL)
        assert await starting.wait(5) is JobResult.FAILED, "a job goes on across a re-exec"
        # It answers a moment before it is subscribed to again; what falls between the two is said of all units.
        changed = heard.expect(unit, None)
        assert await (await systemd.stop(unit)).wait(5) is JobResult.DONE
        await changed


async def test_killed_bus(units: UserUnits, library: str) -> None:
    """Waiters are told "lost", the services live on, and within a second everything works again."""
    unit = units.service("keeps", SLEEP)
    slow = units.service("slowly", "Type=notify", SLEEP)
    async with control(library) as systemd:
        await systemd.watch([unit, slow])
        await (await systemd.start(unit)).wait(5)
        pid = (await systemd.show(unit)).main_pid
        job = await systemd.start(slow)
        heard = Heard(systemd)
        resynced = heard.expect(None, timeout=10)
        waiting = asyncio.create_task(job.wait(30))
        await kill_bus()
        killed = time.perf_counter()
        assert await asyncio.wait_for(waiting, 1) is JobResult.LOST
        await resynced
        assert systemd.connected
        assert systemd.reconnects == 1
        assert (await systemd.show(unit)).main_pid == pid
        assert time.perf_counter() - killed < 1
        changed = heard.expect(unit)
        assert await (await systemd.stop(unit)).wait(5) is JobResult.DONE
        await changed


async def test_bus_killed_ten_times_leaks_nothing(units: UserUnits, library: str) -> None:
    unit = units.service("ten", SLEEP)
    async with control(library) as systemd:
        await systemd.watch([unit])
        before = open_fds()
        for _ in range(10):
            done = systemd.reconnects
            await kill_bus()
            await eventually(lambda done=done: systemd.reconnects > done and systemd.connected)
        assert open_fds() == before
        assert await (await systemd.start(unit)).wait(5) is JobResult.DONE


async def test_no_bus_at_start_and_later_there_is_one(library: str, tmp_path: Path) -> None:
    bus = os.environ["XDG_RUNTIME_DIR"] + "/bus"
    link = tmp_path / "bus"
    systemd = SystemdControl(address=f"unix:path={link}", library=library)
    await systemd.start_up(patience=0.2)
    assert not systemd.connected
    assert "no such file or directory" in systemd.problem
    with pytest.raises(AgentdError, match=r"no connection to org\.freedesktop\.systemd1") as caught:
        await systemd.show("x.service")
    assert caught.value.kind == "bus-down"
    await systemd.watch(["basic.target"])
    link.symlink_to(bus)
    await eventually(lambda: systemd.connected)
    assert systemd.problem == ""
    assert (await systemd.show("basic.target")).active_state is ActiveState.ACTIVE
    await systemd.close()


async def test_stopped_manager_times_out_without_blocking(units: UserUnits, library: str) -> None:
    unit = units.service("frozen", SLEEP)
    async with control(library, call_timeout=0.3) as systemd:
        await systemd.watch([unit])
        pid = manager_pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            async with LagMeter() as lag:
                for operation in (systemd.show, systemd.start, systemd.stop):
                    with pytest.raises(AgentdError, match=r"within 0\.3 s") as caught:
                        await operation(unit)
                    assert caught.value.kind == "bus-timeout"
        finally:
            os.kill(pid, signal.SIGCONT)
        assert lag.worst < 0.15

        async def answers() -> bool:
            try:
                return (await systemd.show(unit)).exists
            except AgentdError:
                return False

        await eventually(answers)
        assert systemd.reconnects == 0


async def test_close_ends_everything(units: UserUnits, library: str) -> None:
    unit = units.service("open", "Type=notify", SLEEP)
    before = open_fds()
    async with control(library) as systemd:
        job = await systemd.start(unit)
    assert await job.wait(1) is JobResult.LOST
    assert not systemd.connected
    assert open_fds() == before
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


def test_systemctl_agrees_that_nothing_is_left() -> None:
    """Runs last: every test above must have taken its units away."""
    assert systemctl("list-units", "--all", "--plain", "--no-legend", f"edge{os.getpid()}-*") == ""
