"""Stored sets: numbered, bounded, brought back; and what a kill cut off, finished or undone."""

from __future__ import annotations

import json

import pytest
from fakes import FakeFiles
from unit.install_rig import DIR, STATE, A, B, Killed, Rig, Steps, at, resources, rig, security

from agentd.errors import AgentdError
from agentd.managers.hardening.history import DropInSet, SetStore, target, way_back

NNP, TMP, HOME = "NoNewPrivileges=yes", "PrivateTmp=yes", "ProtectHome=yes"
ONE, TWO, THREE = ((security(A, line), security(B, line)) for line in (NNP, TMP, HOME))


async def installed() -> Rig:
    """Three sets; the second one also has resources for A."""
    it = rig()
    await it.install(*ONE)
    await it.install(*TWO, resources(A, "MemoryMax=1G"))
    await it.install(*THREE)
    return it


def texts(*desired: object) -> dict[str, str]:
    return {f"{DIR}/{d.path}": d.text for d in desired}  # type: ignore[attr-defined]


async def test_previous_goes_one_state_back_each_time() -> None:
    it = await installed()
    result = await it.installer.rollback()
    assert it.files.texts == texts(*TWO, resources(A, "MemoryMax=1G"))
    assert (result.set_id, result.reloaded) == (4, True)
    await it.installer.rollback()
    assert it.files.texts == texts(*ONE)
    await it.installer.rollback()
    assert it.files.texts == {}
    with pytest.raises(AgentdError, match="cannot roll back further"):
        await it.installer.rollback()
    assert it.kinds() == ["dropins.installed"] * 3 + ["dropins.rolled-back"] * 3


async def test_any_set_by_its_number() -> None:
    it = await installed()
    await it.installer.rollback(1)
    assert it.files.texts == texts(*ONE)
    await it.installer.rollback("3")
    assert it.files.texts == texts(*THREE)
    await it.installer.rollback(0)
    assert it.files.texts == {}
    await it.installer.rollback(2)
    assert it.files.texts == texts(*TWO, resources(A, "MemoryMax=1G"))
    assert [item.reason for item in await it.installer.sets()][3:] == [
        "rollback to set 1", "rollback to set 3", "rollback to set 0", "rollback to set 2",
    ]  # fmt: skip


@pytest.mark.parametrize("wanted", ["9", "last", "", "-1"])
async def test_a_set_that_there_is_not(wanted: str) -> None:
    it = await installed()
    with pytest.raises(AgentdError, match="cannot roll back") as caught:
        await it.installer.rollback(wanted)
    assert caught.value.kind == "set-not-found"
    assert it.files.texts == texts(*THREE)


async def test_nothing_was_installed_yet() -> None:
    with pytest.raises(AgentdError, match="nothing was installed yet"):
        await rig().installer.rollback()


async def test_the_state_that_is_there_already() -> None:
    it = await installed()
    result = await it.installer.rollback(3)
    assert (result.set_id, it.reloads) == (None, 3)


async def test_an_edit_is_kept_and_other_files_too() -> None:
    it = await installed()
    it.files.texts[at(A)] += "# mine\n"
    it.files.texts[f"{DIR}/{A}.d/override.conf"] = "[Service]\n"
    result = await it.installer.rollback(1)
    assert result.kept == (at(A),)
    assert "# mine" in it.files.texts[at(A)]
    assert it.files.texts[at(B)] == ONE[1].text
    assert f"{DIR}/{A}.d/override.conf" in it.files.texts
    await it.installer.rollback(1, force=True)
    assert it.files.texts[at(A)] == ONE[0].text


async def test_an_edit_that_was_replaced_comes_back_also_after_a_rollback() -> None:
    it = await installed()
    await it.installer.rollback(1)
    edited = it.files.texts[at(A)] = it.files.texts[at(A)] + "# mine\n"
    await it.installer.apply(await it.installer.plan(TWO, force=True))
    await it.installer.rollback()
    assert it.files.texts == {at(A): edited, at(B): ONE[1].text}


async def test_a_rollback_that_is_not_loaded_is_taken_back() -> None:
    it = await installed()
    it.units.deaf = True
    with pytest.raises(AgentdError, match="nothing was changed"):
        await it.installer.rollback(0)
    assert it.files.texts == texts(*THREE)


async def test_a_rollback_restarts_what_it_changed() -> None:
    it = rig(running=(A,))
    await it.install(*ONE)
    await it.install(security(A, TMP), ONE[1])
    result = await it.installer.rollback(restart=True)
    assert [(o.unit, o.result.value) for o in result.units] == [(A, "restarted")]


async def test_only_the_newest_are_kept() -> None:
    it = rig()
    store = SetStore(FakeFiles(), STATE, keep=3)
    for number in range(1, 6):
        item = await store.draft({at(A): str(number - 1)}, {at(A): str(number)}, "apply", it.world.clock.time())
        await store.commit(item)
    sets = await store.sets()
    assert [item.id for item in sets] == [3, 4, 5]
    assert way_back(sets, target(sets, "3"))[1] == {at(A): "3"}
    assert target(sets, "previous") == 4
    for gone in ("2", "0"):
        with pytest.raises(AgentdError, match="kept are 3 to 5"):
            target(sets, gone)


async def test_a_damaged_set_is_passed_over() -> None:
    it = await installed()
    it.state.texts[f"{STATE}/000002.json"] = '{"id": 2, "time"'
    assert [item.id for item in await it.installer.sets()] == [1, 3]
    it.state.texts[f"{STATE}/000003.json"] = json.dumps({"id": "3", "time": 1})
    assert [item.id for item in await it.installer.sets()] == [1]


# -- cut off ----------------------------------------------------------------------------------------------------------
async def steps_of_an_installation() -> int:
    it = rig()
    await it.install(*ONE)
    with Steps(it, 0) as steps:
        await it.install(*TWO)
    return steps.done


@pytest.mark.parametrize("after", [False, True])
async def test_cut_off_at_every_step(after: bool) -> None:
    ends = []
    for number in range(1, await steps_of_an_installation() + 1):
        it = rig()
        await it.install(*ONE)
        with Steps(it, number, after=after), pytest.raises(Killed):
            await it.install(*TWO)
        again = rig(old=it)
        said = await again.installer.recover()
        new = again.files.texts == texts(*TWO)
        assert new or again.files.texts == texts(*ONE)
        assert {unit: again.units.loaded[unit][at(unit)] for unit in (A, B)} == {
            unit: again.files.texts[at(unit)] for unit in (A, B)
        }, "systemd has what lies on the disk"
        assert [item.id for item in await again.installer.sets()] == ([1, 2] if new else [1])
        assert f"{STATE}/pending.json" not in again.state.texts
        assert ("set 2" in said) == ("dropins.recovered" in again.kinds())
        assert await again.installer.recover() == "", "once is enough"
        await again.install(*THREE)
        assert again.files.texts == texts(*THREE)
        ends.append(new)
    assert ends == sorted(ends)
    assert set(ends) == {False, True}


async def test_what_was_cut_off_and_is_not_loadable_is_undone() -> None:
    it = rig()
    await it.install(*ONE)
    with Steps(it, 4), pytest.raises(Killed):
        await it.install(*TWO)
    assert it.files.texts == texts(*TWO)
    again = rig(old=it)
    again.problems[A] = ["PrivateTmp is not loaded"]
    assert "is undone" in await again.installer.recover()
    assert again.files.texts == texts(*ONE)


async def test_what_somebody_changed_meanwhile_is_kept() -> None:
    it = rig()
    await it.install(*ONE)
    with Steps(it, 4), pytest.raises(Killed):
        await it.install(*TWO)
    mine = it.files.texts[at(A)] + "# mine\n"
    it.files.texts[at(A)] = mine
    again = rig(old=it)
    assert "is undone" in await again.installer.recover()
    assert again.files.texts == {at(A): mine, at(B): ONE[1].text}


async def test_the_next_change_recovers_first() -> None:
    it = rig()
    with Steps(it, 4), pytest.raises(Killed):
        await it.install(*ONE)
    again = rig(old=it)
    await again.install(*TWO)
    assert again.files.texts == texts(*TWO)
    assert [item.id for item in await again.installer.sets()] == [1, 2]


async def test_a_damaged_intent_is_told() -> None:
    it = rig()
    it.state.texts[f"{STATE}/pending.json"] = "{"
    with pytest.raises(AgentdError, match="it is damaged") as caught:
        await it.installer.recover()
    assert "remove" in caught.value.hint


async def test_states_of_sets_are_told_apart() -> None:
    sets = (
        DropInSet(1, 1.0, "apply", {"x": None}, {"x": "1"}, 0, 1),
        DropInSet(2, 2.0, "apply", {"x": "1", "y": None}, {"x": "2", "y": "2"}, 1, 2),
        DropInSet(3, 3.0, "a unit did not come up", {"y": "2"}, {"y": None}, 1, 3),
    )
    assert target(sets, "previous") == 1, "what a unit went back from is not gone back to"
    assert way_back(sets, 1) == ({"x": "2"}, {"x": "1"})
    assert way_back(sets, 2) == ({"y": None}, {"y": "2"})
    assert way_back(sets, 0) == ({"x": "2"}, {"x": None})
