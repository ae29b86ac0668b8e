"""Drop-ins as transactions, on fakes: planned, loaded once, kept when edited, taken back when anything fails."""

from __future__ import annotations

import pytest
from unit.install_rig import DIR, STATE, A, B, at, resources, rig, security

from agentd.core.dropin import Purpose
from agentd.errors import AgentdError, BusError

NNP, TMP = "NoNewPrivileges=yes", "PrivateTmp=yes"


async def test_installed_as_one_set_with_one_reload() -> None:
    it = rig()
    desired = [security(A, NNP), resources(A, "MemoryMax=1G"), security(B, NNP)]
    plan = await it.installer.plan(desired)
    assert [(f.action.value, f.path) for f in plan.files] == [
        ("new", at(A, Purpose.RESOURCES)), ("new", at(A)), ("new", at(B)),
    ]  # fmt: skip
    result = await it.installer.apply(plan)
    assert it.files.texts == {f"{DIR}/{d.path}": d.text for d in desired}
    assert (it.files.writes, it.reloads, it.restarts) == (1, 1, [])
    assert (result.set_id, result.reloaded, result.ok) == (1, True, True)
    assert it.kinds() == ["dropins.installed"]
    assert set(it.stored()) == {"000001.json"}


async def test_a_second_time_nothing_is_done() -> None:
    it = rig()
    await it.install(security(A, NNP))
    plan = await it.installer.plan([security(A, NNP)])
    assert plan.empty
    assert str(plan) == ""
    result = await it.installer.apply(plan, restart=True)
    assert (result.set_id, result.reloaded, result.units) == (None, False, ())
    assert (it.files.writes, it.reloads, it.restarts) == (1, 1, [])


async def test_the_plan_is_readable() -> None:
    it = rig()
    await it.install(security(A, NNP, "ReadWritePaths=-/srv", "ProtectHome=yes"), security(B, NNP))
    it.files.texts[at(B)] += "UMask=0077\n"
    it.files.texts[f"{DIR}/{A}.d/override.conf"] = "[Service]\nProtectHome=read-only\nNoNewPrivileges=yes\n"
    it.files.texts[f"{DIR}/{A}.d/10-early.conf"] = "[Service]\nProtectHome=no\nReadWritePaths=/data\n"
    plan = await it.installer.plan(
        [security(A, NNP, "ReadWritePaths=-/srv -/mnt", "ProtectHome=yes"), security(B, NNP)]
    )
    assert str(plan).splitlines() == [
        "a.service",
        "  changed  90-agentd-security.conf",
        "    -ReadWritePaths=-/srv",
        "    +ReadWritePaths=-/srv -/mnt",
        "",
        "b.service",
        "  kept     90-agentd-security.conf (edited by hand and kept; take the edit over with: "
        "agentctl dropins adopt b.service)",
        "    +UMask=0077",
        "",
        f"{DIR}/a.service.d/10-early.conf:2: ProtectHome=no has no effect: 90-agentd-security.conf is read later and "
        "says ProtectHome=yes",
        f"{DIR}/a.service.d/10-early.conf:3: ReadWritePaths=/data and ReadWritePaths=-/srv -/mnt of "
        "90-agentd-security.conf add up",
        f"{DIR}/a.service.d/override.conf:2: ProtectHome=read-only wins over ProtectHome=yes of "
        "90-agentd-security.conf: its file is read later",
        f"{DIR}/a.service.d/override.conf:3: NoNewPrivileges=yes says the same as 90-agentd-security.conf",
    ]


async def test_comments_alone_restart_nothing() -> None:
    it = rig()
    await it.install(security(A, NNP))
    plan = await it.installer.plan([security(A, "# another comment", NNP)])
    assert [file.note for file in plan.files] == ["only comments differ"]
    result = await it.installer.apply(plan, restart=True)
    assert (result.set_id, result.units, it.restarts) == (2, (), [])


async def test_edited_files_are_kept_unless_forced() -> None:
    it = rig()
    await it.install(security(A, NNP))
    it.files.texts[at(A)] += "UMask=0077\n"
    plan = await it.installer.plan([security(A, TMP)])
    assert plan.kept == (at(A),)
    result = await it.installer.apply(plan)
    assert result.kept == (at(A),)
    assert "UMask=0077" in it.files.texts[at(A)]
    forced = await it.installer.plan([security(A, TMP)], force=True)
    assert "kept in the history" in forced.files[0].note
    await it.installer.apply(forced)
    assert it.files.texts[at(A)] == security(A, TMP).text
    await it.installer.rollback()
    assert "UMask=0077" in it.files.texts[at(A)]


async def test_what_is_not_wanted_any_more_goes() -> None:
    it = rig()
    await it.install(security(A, NNP), resources(A, "MemoryMax=1G"))
    result = await it.installer.apply(await it.installer.plan([resources(A, "MemoryMax=1G")]))
    assert result.removed == (at(A),)
    assert set(it.files.texts) == {at(A, Purpose.RESOURCES)}
    assert it.units.state(A).dropin_paths == (at(A, Purpose.RESOURCES),)


async def test_only_the_units_asked_for() -> None:
    it = rig()
    await it.install(security(A, NNP), security(B, NNP))
    plan = await it.installer.plan([security(A, TMP), security(B, TMP)], units=[B])
    assert [file.unit for file in plan.files] == [B]
    assert (await it.installer.plan([], units=[B])).after == {at(B): None}


@pytest.mark.parametrize("name", ["90-agentd-exclusive.conf", "90-agentd-readiness.conf", "90-agentd-custom.conf"])
async def test_other_purposes_are_somebody_elses(name: str) -> None:
    it = rig()
    path = f"{DIR}/{A}.d/{name}"
    it.files.texts[path] = security(A, NNP).text
    assert (await it.installer.plan([])).empty
    await it.install(security(A, NNP))
    assert path in it.files.texts


async def test_a_foreign_file_at_our_place_is_kept() -> None:
    it = rig()
    it.files.texts[at(A)] = "[Service]\nMine=1\n"
    plan = await it.installer.plan([security(A, NNP)], force=True)
    assert [(f.action.value, f.note) for f in plan.files] == [("kept", "written by somebody else, kept")]
    await it.installer.apply(plan)
    assert it.files.texts[at(A)] == "[Service]\nMine=1\n"


async def test_a_link_at_our_place_is_kept() -> None:
    it = rig()
    it.files.texts[at(A)] = "the target's"
    read = it.files.read

    async def refuse(path: str) -> str | None:
        if path == at(A):
            raise AgentdError("file-read", f"cannot read {path}: it is a symbolic link, not a file of ours")
        return await read(path)

    it.files.read = refuse  # type: ignore[method-assign]
    plan = await it.installer.plan([security(A, NNP)], force=True)
    assert "link" in plan.files[0].note
    assert not plan.after


# -- failures ---------------------------------------------------------------------------------------------------------
async def test_a_directory_that_cannot_be_written() -> None:
    it = rig()
    it.files.refuse = {at(B)}
    with pytest.raises(AgentdError, match="permission denied"):
        await it.install(security(A, NNP), security(B, NNP))
    assert (it.files.texts, it.state.texts, it.reloads) == ({}, {}, 0)


async def test_a_state_directory_that_cannot_be_written() -> None:
    """Without a written intent nothing is begun."""
    it = rig()

    async def full(desired: object) -> object:
        raise AgentdError("file-write", "cannot write pending.json: no space left on device")

    it.state.apply = full  # type: ignore[method-assign, assignment]
    with pytest.raises(AgentdError, match="no space left"):
        await it.install(security(A, NNP))
    assert (it.files.texts, it.reloads) == ({}, 0)


async def test_a_set_that_cannot_be_stored_is_taken_back() -> None:
    it = rig()
    it.state.refuse = {f"{STATE}/000001.json"}
    with pytest.raises(AgentdError, match="permission denied"):
        await it.install(security(A, NNP))
    assert (it.files.texts, it.state.texts, it.reloads) == ({}, {}, 2)


async def test_what_systemd_does_not_load_is_taken_back() -> None:
    it = rig()
    await it.install(security(A, NNP))
    it.units.deaf = True
    with pytest.raises(AgentdError, match=f"systemd does not load {at(B)}; nothing was changed") as caught:
        await it.install(security(A, NNP), security(B, NNP))
    assert caught.value.kind == "dropin-not-loaded"
    assert set(it.files.texts) == {at(A)}
    assert it.reloads == 3
    assert set(it.stored()) == {"000001.json"}


async def test_a_removed_file_that_stays_loaded_is_told() -> None:
    it = rig()
    await it.install(security(A, NNP))
    it.units.deaf = True
    with pytest.raises(AgentdError, match="systemd still has"):
        await it.install()
    assert set(it.files.texts) == {at(A)}


async def test_a_unit_that_cannot_be_loaded_any_more() -> None:
    it = rig()
    real = it.units.load

    def broken() -> None:
        real()
        if it.files.texts:
            it.units.change(A, load_state="bad-setting", load_error="a.service: Service has no ExecStart=")
        else:
            it.units.change(A, load_state="loaded", load_error="")

    it.units.load = broken  # type: ignore[method-assign]
    with pytest.raises(AgentdError, match=r"cannot be loaded any more: a\.service: Service has no ExecStart="):
        await it.install(security(A, NNP))
    assert it.files.texts == {}
    assert it.units.state(A).load_state == "loaded"


async def test_a_value_that_systemd_did_not_take() -> None:
    it = rig()
    real = it.units.properties

    async def stubborn(unit: str) -> dict[str, object]:
        return {**await real(unit), "PrivateTmp": False}

    it.units.properties = stubborn  # type: ignore[method-assign]
    with pytest.raises(
        AgentdError, match=r"a.service has PrivateTmp no and not yes, as .*90-agentd-security.conf:6 says"
    ):
        await it.install(security(A, TMP))
    assert it.files.texts == {}
    # Where another file says it, too, that is no failure of the installation.
    it.files.texts[f"{DIR}/{A}.d/override.conf"] = "[Service]\nPrivateTmp=no\n"
    await it.install(security(A, TMP))
    assert at(A) in it.files.texts


async def test_what_the_check_finds_is_taken_back() -> None:
    it = rig()
    it.problems[A] = ["a.service: MemoryMax is not loaded"]
    with pytest.raises(AgentdError, match="MemoryMax is not loaded; nothing was changed"):
        await it.install(security(A, NNP))
    assert (it.files.texts, it.reloads) == ({}, 2)


async def test_a_lost_bus_restores_the_files_and_the_reload_is_made_up_for() -> None:
    it = rig()
    it.units.refuse["reload"] = BusError("bus-down", "cannot reload the unit files: the bus is gone")
    with pytest.raises(BusError):
        await it.install(security(A, NNP))
    assert it.files.texts == {}
    assert set(it.stored()) == {"pending.json"}, "systemd may have loaded it"
    with pytest.raises(BusError):
        await it.installer.recover()
    del it.units.refuse["reload"]
    assert "is undone" in await it.installer.recover()
    assert it.state.texts == {}
    assert await it.installer.recover() == ""


async def test_a_file_that_changed_after_the_plan() -> None:
    it = rig()
    await it.install(security(A, NNP))
    plan = await it.installer.plan([security(A, TMP)])
    mine = it.files.texts[at(A)] + "# mine\n"
    it.files.texts[at(A)] = mine
    with pytest.raises(AgentdError, match="was changed meanwhile") as caught:
        await it.installer.apply(plan)
    assert caught.value.kind == "install-changed"
    assert it.files.texts[at(A)] == mine
    assert it.reloads == 1


async def test_files_that_were_never_loaded_are_loaded_by_one_reload() -> None:
    it = rig()
    it.files.texts[at(A)] = security(A, NNP).text
    plan = await it.installer.plan([security(A, NNP)])
    assert plan.unloaded == (at(A),)
    assert "not loaded yet" in str(plan)
    result = await it.installer.apply(plan)
    assert (result.reloaded, result.set_id, it.reloads) == (True, None, 1)


async def test_units_that_do_not_exist_or_are_masked_are_no_failure() -> None:
    it = rig(running=(B,))
    it.units.remove(A)
    await it.install(security(A, NNP), security(B, NNP))
    assert at(A) in it.files.texts
    it.units.change(B, load_state="masked", dropin_paths=())
    assert (await it.installer.plan([security(A, NNP), security(B, NNP)])).empty
