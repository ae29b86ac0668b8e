"""agentctl models and status: who is resident, who sleeps, who may not run, and what was learned."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from fakes.cli import Run
from fakes.operations import NOW
from fakes.serving import Served


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentd.cli.context.Context.now", lambda self: NOW)


def have(server: Served, **fields_of: dict[str, Any]) -> None:
    server.call(lambda ops: ops.model_fields.update(fields_of))


def test_what_was_learned_is_shown(server: Served, run: Run) -> None:
    gib = 1 << 30
    have(
        server,
        qwen={"state": "resident", "learned_vram": 14 * gib, "load_seconds": 42.0},
        dolphin={"state": "asleep", "level": 1, "vram": 16 * gib, "wake_seconds": 1.5, "cooldown_until": NOW + 20},
    )
    lines = run("models").out.splitlines()
    assert "14.0 GiB" in lines[1]
    assert " 42.0 s " in lines[1]
    assert "16.0 GiB (as told)" in lines[2]
    assert lines[2].endswith("asleep (level 1); refused for 20.0 s")


def test_the_slot_names_its_sleepers(server: Served, run: Run) -> None:
    have(server, qwen={"load_seconds": 42.0}, dolphin={"state": "asleep", "level": 2})
    server.call(lambda ops: setattr(ops, "slot", dataclasses.replace(ops.slot, sleeping=("dolphin",))))
    out = run("status").out
    assert "  sleeping: dolphin (level 2)\n" in out
    assert "  a start takes about 42.0 s\n" in out


def test_a_profile_and_what_it_switches_off(server: Served, run: Run) -> None:
    have(server, dolphin={"off": "dolphin is switched off by profile production"})

    def change(ops: Any) -> None:
        ops.config_state = dataclasses.replace(ops.config_state, profile="production")
        failed = {"crash_loop": True, "cause": "it is broken", "enabled": False}
        ops.service_list = [dataclasses.replace(s, **failed) if s.name == "dolphin" else s for s in ops.service_list]

    server.call(change)
    out = run("status").out
    assert out.splitlines()[0].endswith(", profile production")
    assert "  switched off: dolphin\n" in out
    assert "it is broken" not in out, "what shall not run is no concern"
    assert run("models").out.splitlines()[2].endswith("dolphin is switched off by profile production")
