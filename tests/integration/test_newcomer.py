"""What somebody types who is in no doubt: done already is no failure, refused is told from broken."""

from __future__ import annotations

from integration.stack import Stack, systemctl, unit_of

from agentd.types import ExitCode


def test_stop_of_what_is_stopped_is_done_already(bare_stack: Stack) -> None:
    stack = bare_stack
    stack.start()
    done = stack.ctl("stop", "dolphin")
    assert (done.code, "now stopped" in done.out) == (0, True), done
    assert stack.slot()["resident"] == "qwen"
    systemctl("kill", "--signal=KILL", unit_of("qwen"))
    assert stack.ctl("stop", "qwen").code == 0
    assert stack.ctl("stop", "qwen").code == 0
    assert stack.slot()["resident"] is None


def test_a_sleep_check_of_who_does_not_serve_is_refused(bare_stack: Stack) -> None:
    """1 would say that the level is broken."""
    stack = bare_stack
    stack.start()
    done = stack.ctl("models", "sleep-check", "dolphin")
    assert (done.code, "dolphin is not resident" in done.err) == (ExitCode.REFUSED, True), done
    assert stack.ctl("restart", "dolphin").code == ExitCode.REFUSED
