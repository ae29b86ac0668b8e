"""Drop-ins brought into running services: one at a time, and back where a service does not come up."""

from __future__ import annotations

import asyncio

import pytest
from fakes import Behaviour
from unit.install_rig import DIR, STATE, A, B, Killed, Rig, Steps, at, resources, rig, security

from agentd.core.dropin import DropIn, Purpose
from agentd.errors import AgentdError, BusError
from agentd.managers.hardening.install import InstallResult
from agentd.managers.hardening.restart import Ready
from agentd.types import ActiveState

NNP, DEVICES, PATHS = "NoNewPrivileges=yes", "PrivateDevices=yes", "ReadWritePaths=/missing /srv"
DENIED = "a.service: Failed to drop capabilities: Operation not permitted"
MISSING = "a.service: Failed to set up mount namespacing: /run/systemd/unit-root/missing: No such file or directory"


async def apply(it: Rig, *desired: DropIn, ready: Ready | None = None) -> InstallResult:
    plan = await it.installer.plan(desired)
    return await it.installer.apply(plan, restart=True, ready=ready, progress=it.note)


async def test_only_what_runs_and_changed_is_restarted_one_at_a_time() -> None:
    it = rig()
    it.units.add("c.service")
    await it.install(security(B, NNP))
    result = await apply(it, security(A, NNP), security(B, NNP), security("c.service", NNP))
    assert [(o.unit, o.result.value) for o in result.units] == [(A, "restarted"), ("c.service", "not-running")]
    assert it.restarts == [A]
    assert result.ok
    assert it.progress == [(A, "restarting")]
    result = await apply(it, security(A, DEVICES), security(B, DEVICES))
    assert [outcome.unit for outcome in result.units] == [A, B, "c.service"]
    starts = [(unit, state) for _, unit, state in it.units.history][-8:]
    first = [state for unit, state in starts if unit == A]
    assert starts[: len(first)] == [(A, state) for state in first], "one has come up before the next one goes down"


async def test_the_hook_says_when_it_is_ready() -> None:
    it = rig()
    asked = []

    async def ready(unit: str, seconds: float) -> None:
        assert it.units.state(unit).active_state is ActiveState.ACTIVE
        asked.append((unit, seconds))
        await asyncio.sleep(12)

    result = await apply(it, security(A, NNP), ready=ready)
    assert asked == [(A, 30.0)]
    assert result.units[0].seconds >= 12


@pytest.mark.parametrize(
    ("line", "status", "said", "exact"),
    [
        (DEVICES, 218, DENIED, "the cause is PrivateDevices=yes"),
        (PATHS, 226, MISSING, "the cause is ReadWritePaths=/missing /srv"),
        ("RestrictAddressFamilies=AF_UNIX", 1, "OSError: Address family not supported by protocol", ""),
    ],
)
async def test_one_that_does_not_come_up_goes_back(line: str, status: int, said: str, exact: str) -> None:
    it = rig()
    await it.install(security(A, NNP), security(B, NNP))
    it.units.deadly[line] = (status, said)
    result = await apply(it, security(A, NNP, line), security(B, NNP, "UMask=0077"))
    first, second = result.units
    assert (first.unit, first.result.value) == (A, "rolled-back")
    assert (second.unit, second.result.value) == (B, "restarted"), "the next ones are still handled"
    assert not result.ok
    assert it.files.texts == {at(A): security(A, NNP).text, at(B): security(B, NNP, "UMask=0077").text}
    assert it.units.active() == [A, B]
    assert [d.key for d in first.diagnosis.directives] == [line.partition("=")[0]]
    assert exact in first.message
    if exact:
        assert f"{status}/" in first.message
        assert f"{at(A)}:7" in first.message, "where it stands"
    assert "it has its old drop-ins and runs" in first.message
    assert it.kinds()[-2:] == ["dropins.rolled-back", "dropins.restarted"]
    assert [item.reason for item in await it.installer.sets()] == ["apply", "apply", f"{A} did not come up"]
    await it.installer.rollback()
    assert it.files.texts == {at(A): security(A, NNP).text, at(B): security(B, NNP).text}


async def test_what_is_new_is_suspected_first() -> None:
    it = rig()
    await it.install(security(A, "ProtectClock=yes"))
    it.units.deadly[DEVICES] = (218, DENIED)
    result = await apply(it, security(A, "ProtectClock=yes", DEVICES))
    assert [d.key for d in result.units[0].diagnosis.directives] == ["PrivateDevices"]
    it.units.deadly["ProtectClock=yes"] = (218, DENIED)
    result = await apply(it, security(A, "ProtectClock=yes", "UMask=0077"))
    assert [d.key for d in result.units[0].diagnosis.directives] == ["ProtectClock"], "then what was there before"


async def test_several_possible_causes_are_all_named() -> None:
    it = rig()
    it.units.deadly[DEVICES] = (218, DENIED)
    result = await apply(it, security(A, DEVICES, "ProtectKernelLogs=yes", NNP))
    diagnosis = result.units[0].diagnosis
    assert [d.key for d in diagnosis.directives] == ["PrivateDevices", "ProtectKernelLogs"]
    assert not diagnosis.exact
    assert "possible causes are PrivateDevices=yes" in result.units[0].message
    assert "PrivateUsers=yes" in diagnosis.fix


async def test_one_that_is_never_ready_goes_back() -> None:
    it = rig()

    async def ready(unit: str, seconds: float) -> None:
        if at(unit) in it.files.texts:
            await asyncio.sleep(seconds)
            raise AgentdError("not-ready", f"{unit} did not answer within {seconds:g} s")

    result = await apply(it, security(A, NNP), ready=ready)
    assert result.units[0].result.value == "rolled-back"
    assert "did not answer within 30 s" in result.units[0].message
    assert it.files.texts == {}


async def test_one_that_dies_while_it_is_waited_for_is_not_waited_for_longer() -> None:
    it = rig()
    start = it.world.clock.monotonic()

    async def ready(unit: str, seconds: float) -> None:
        if at(unit) in it.files.texts:
            it.units.die(unit, status=1)
            await asyncio.sleep(3600)

    result = await apply(it, security(A, NNP), ready=ready)
    assert result.units[0].result.value == "rolled-back"
    assert it.world.clock.monotonic() - start < 30


async def test_a_crash_loop_is_seen() -> None:
    it = rig()
    it.units.units[A].behaviour = Behaviour(restart=True, restart_seconds=0.1)
    it.units.deadly[DEVICES] = (218, DENIED)
    result = await apply(it, security(A, DEVICES))
    assert result.units[0].result.value == "rolled-back"
    assert result.units[0].diagnosis.status == 218
    assert it.units.active() == [A, B]


async def test_one_that_dies_a_moment_after_its_start() -> None:
    it = rig()

    def soon(unit: str, _: int) -> None:
        asyncio.get_running_loop().call_later(0.5, dies, unit)

    it.units.on_start.append(soon)

    def dies(unit: str) -> None:
        if at(unit) in it.files.texts:
            it.world.journal.say(unit, "open: Read-only file system", invocation=it.units.state(unit).invocation_id)
            it.units.die(unit, status=1)

    result = await apply(it, security(A, "ProtectSystem=strict", NNP))
    assert result.units[0].result.value == "rolled-back"
    assert [d.key for d in result.units[0].diagnosis.directives] == ["ProtectSystem"]
    assert "Read-only file system" in result.units[0].message


async def test_one_that_does_not_come_back_either() -> None:
    it = rig()
    real = it.units.load

    def broken() -> None:
        real()
        it.units.units[A].behaviour.exit_on_start = 1

    it.units.load = broken  # type: ignore[method-assign]
    result = await apply(it, security(A, NNP), security(B, NNP))
    assert [(o.unit, o.result.value) for o in result.units] == [(A, "failed"), (B, "restarted")]
    assert "does not come up either" in result.units[0].message
    assert set(it.files.texts) == {at(B)}
    assert it.kinds()[-2:] == ["dropins.failed", "dropins.restarted"]


async def test_another_owner_restarts_its_units() -> None:
    it = rig()
    restarted = []

    async def restart(unit: str) -> None:
        restarted.append(unit)
        await (await it.units.restart(unit)).wait(10)

    other = rig(old=it, restart=restart)
    result = await apply(other, security(A, NNP))
    assert (restarted, result.ok) == ([A], True)


async def test_units_that_only_need_a_restart() -> None:
    it = rig()
    await it.install(security(A, NNP))
    it.units.deadly[NNP] = (227, "a.service: Failed at step NO_NEW_PRIVILEGES spawning /bin/x: Operation not permitted")
    it.units.load()
    plan = await it.installer.plan([security(A, NNP)])
    result = await it.installer.apply(plan, also=[A, B])
    assert [(o.unit, o.result.value) for o in result.units] == [(A, "rolled-back"), (B, "restarted")]
    assert it.files.texts == {}, "it goes back to what was before its last set"


async def test_a_bus_that_goes_away_leaves_it_to_the_recovery() -> None:
    it = rig()
    it.units.on_start.append(lambda unit, _: it.units.drop_bus())
    with pytest.raises(BusError):
        await apply(it, security(A, NNP))
    it.units.on_start.clear()
    it.units.restore_bus()
    again = rig(old=it)
    assert await again.installer.recover() == f"{A} was being restarted, and runs"
    assert at(A) in again.files.texts
    await it.world.clock.advance(1)
    assert again.units.active() == [A, B]


async def test_cut_off_at_every_step_of_a_restart() -> None:
    """The unit runs afterwards, with its old drop-ins or with new ones under which it can live."""
    for deadly in (False, True):
        for number in range(4, 20):
            it = rig()
            if deadly:
                it.units.deadly[DEVICES] = (218, DENIED)
            with Steps(it, number) as steps:
                try:
                    await apply(it, security(A, DEVICES), resources(B, "MemoryMax=1G"))
                except Killed:
                    pass
                else:
                    assert steps.done < number
                    break
            again = rig(old=it)
            await again.installer.recover()
            assert again.units.active() == [A, B], f"step {number}"
            assert (at(A) in again.files.texts) in ((False,) if deadly and number > 6 else (False, True))
            assert f"{STATE}/pending.json" not in again.state.texts
            if at(A) in again.files.texts and deadly:
                assert again.units.state(A).restarts == 0, "it was not restarted into them yet"
        assert number > 6


async def test_a_cancelled_caller_stops_nothing() -> None:
    it = rig()
    it.units.deadly[DEVICES] = (218, DENIED)
    task = asyncio.ensure_future(apply(it, security(A, DEVICES)))

    def cancel(unit: str, _: int) -> None:
        task.cancel()

    it.units.on_start.append(cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    await it.world.clock.advance(60)
    assert it.units.active() == [A, B]
    assert it.files.texts == {}


async def test_resources_only() -> None:
    it = rig()
    result = await apply(it, resources(A, "MemoryMax=1G"))
    assert result.written == (at(A, Purpose.RESOURCES),)
    assert result.written[0].startswith(DIR)
    assert it.restarts == [A]
