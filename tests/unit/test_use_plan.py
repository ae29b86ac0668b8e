"""What a change of the profile would do, from configurations and what runs now alone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.test_profile_use import PROFILES, configured

from agentd.core.use_plan import Running, in_order, plan_use, setting_changes
from agentd.managers.use_profiles.noted import noted, read_back
from agentd.types import Change, PhaseRecord

NAMES = tuple(configured("").settings.services)
GOOD = ("", *(name for name in PROFILES if name != "bad"))
NOW = st.builds(
    Running,
    st.frozensets(st.sampled_from(NAMES)),
    st.fixed_dictionaries({"gpu0": st.sampled_from((None, "qwen", "dolphin"))}),
    st.sampled_from((frozenset(), frozenset({"gpu0"}))),
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(GOOD), st.sampled_from(GOOD), NOW)
def test_a_plan_never_contradicts_the_profile(old: str, new: str, now: Running) -> None:
    before, after = configured(old), configured(new)
    plan = plan_use(before, after, now)
    services = after.settings.services
    assert not set(plan.start) & now.up
    assert all(services[name].enabled for name in (*plan.start, *plan.switch))
    assert all(not services[name].enabled for name in (*plan.stop, *plan.unload))
    assert all(services[name].model is None for name in plan.start)
    assert set(plan.stop) <= now.up
    assert not set(plan.stop) & set(plan.unload), "one owner acts on it"
    assert len(plan.switch) + len(plan.unload) <= 1, "there is one slot"
    if "gpu0" in now.held:
        assert not plan.switch
        assert not plan.unload
    if old == new:
        assert not plan.settings
        assert not plan.unload or now.residents["gpu0"] in plan.unload


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(GOOD), st.sampled_from(GOOD), NOW)
def test_what_is_noted_for_the_journal_is_read_back(old: str, new: str, now: Running) -> None:
    plan = plan_use(configured(old), configured(new), now)
    phases = (PhaseRecord("select", 0.0, detail=noted(plan, now)),)
    change = Change("p1", "profile", "", "x", "none", 0.0, "select", phases=phases)
    found = read_back(change, "select")
    assert found is not None
    assert (found.stops, found.starts, found.brings) == (plan.stop, plan.start, plan.switch)
    assert set(found.served) == {name for name in now.residents.values() if name}
    assert read_back(change, "reload") is None


def test_changes_are_shown_both_ways() -> None:
    there = setting_changes(configured(""), configured("limits"))
    back = setting_changes(configured("limits"), configured(""))
    assert [(c.key, c.after) for c in there] == [("services.litellm.hardening.memory_max", '"2G"')]
    assert [(c.key, c.before, c.after) for c in back] == [(c.key, c.after, c.before) for c in there]


@pytest.mark.parametrize("names", [("litellm", "redis"), ("redis", "litellm"), ("litellm",), ()])
def test_what_others_depend_on_comes_first(names: tuple[str, ...]) -> None:
    ordered = in_order(configured("").settings, names)
    assert sorted(ordered) == sorted(names)
    if len(names) == 2:
        assert ordered == ("redis", "litellm")
