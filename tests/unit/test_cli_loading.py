"""What a person sees of a phase that runs: the live line, and `switch status`."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from fakes.cli import Run
from fakes.serving import Served

from agentd.cli.progress import Progress, doing, running_line
from agentd.cli.terminal import Terminal

TOLD = "loading weights 60 %, about 12 s left"


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def change(detail: str, seconds: float | None = None) -> dict[str, Any]:
    phases = [
        {"phase": "start", "started": 100.0, "seconds": 0.2, "result": "pass", "detail": "main process 7"},
        {"phase": "wait-ready", "started": 100.2, "seconds": seconds, "result": "", "detail": detail},
    ]
    return {
        "id": "s1", "kind": "switch", "slot": "gpu0", "target": "qwen", "previous": None, "finished": None,
        "phases": phases,
    }  # fmt: skip


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    monkeypatch.setenv("TERM", "xterm")
    return Screen()


def test_the_live_line_says_what_the_phase_does(screen: Screen) -> None:
    progress = Progress(Terminal(screen))
    progress.update(change("starting"), 101.2)
    progress.update(change(TOLD), 130.2)
    drawn = screen.getvalue().split("\r")
    assert "wait-ready  1.00 s  starting" in drawn[-2]
    assert f"wait-ready  30.0 s  {TOLD}" in drawn[-1]
    progress.update(change("answers after 40.00 s (loading weights 30 s)", 40.0), 140.2)
    assert screen.getvalue().splitlines()[-1].endswith("40.0 s  answers after 40.00 s (loading weights 30 s)")


def test_without_a_terminal_only_what_is_over_is_written() -> None:
    out = io.StringIO()
    Progress(Terminal(out)).update(change(TOLD), 130.2)
    assert TOLD not in out.getvalue()
    assert "main process 7" in out.getvalue()


def test_a_detail_cannot_play_with_the_terminal() -> None:
    assert "\x1b" not in running_line(change("loading \x1b[2J weights")["phases"][-1], 130.0)
    assert "\x1b" not in doing(change("loading \x1b[2J weights"))


def test_a_phase_that_is_over_does_nothing_any_more() -> None:
    assert doing(change(TOLD)) == TOLD
    assert doing(change(TOLD, 3.0)) == ""
    assert doing({**change(TOLD), "phases": []}) == ""


def test_switch_status_says_it_too(server: Served, run: Run) -> None:
    server.call(lambda ops: setattr(ops, "instant", False))
    run("switch-model", "dolphin", "--no-wait")

    def tell(ops: Any) -> None:
        known = ops.change_list["s0000000001"]
        last = replace(known.phases[-1], detail=TOLD)
        ops.change_list["s0000000001"] = replace(known, phases=(*known.phases[:-1], last))

    server.call(tell)
    assert f": {TOLD}\n" in run("switch", "status", "s0000000001").out
    assert TOLD in run("switch", "status").out
    assert run("switch", "status", "s0000000001", "--json").json["phases"][-1]["detail"] == TOLD
