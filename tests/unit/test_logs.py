"""Log lines as people, the journal and machines read them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from agentd import logs


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The root logger as it was; not in the journal unless a test says so."""
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    root = logging.getLogger()
    handlers, level, asyncio_level = root.handlers[:], root.level, logging.getLogger("asyncio").level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("asyncio").setLevel(asyncio_level)


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == "", "stdout is not the log's"
    return captured.err.splitlines()


def test_text_has_time_level_event_and_values(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("info", "text")
    logging.getLogger("agentd.x").info("unit.started", extra={"data": {"unit": "a.service", "text": "two words"}})
    (line,) = said(capsys)
    assert line.endswith("info unit.started unit=a.service text='two words'")
    assert line[:2] == "20"


def test_json_is_one_object_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("info", "json")
    logging.getLogger("agentd.x").warning("a.fact", extra={"data": {"n": 3, "lines": "a\nb"}})
    (line,) = said(capsys)
    found = json.loads(line)
    assert {k: found[k] for k in ("event", "level", "n", "lines")} == {
        "event": "a.fact", "level": "warning", "n": 3, "lines": "a\nb",
    }  # fmt: skip
    assert "timestamp" in found


def test_the_journal_gets_priorities_and_no_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:12345")
    logs.set_up("debug", "auto")
    log = logging.getLogger("agentd.x")
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(log, level)("a.fact")
    assert said(capsys) == [
        "<7>debug a.fact", "<6>info a.fact", "<4>warning a.fact", "<3>error a.fact", "<2>critical a.fact",
    ]  # fmt: skip


def test_every_line_of_a_traceback_has_its_priority(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:12345")
    logs.set_up("info", "text")
    try:
        {}["a bug"]
    except KeyError:
        logging.getLogger("agentd.x").exception("a.bug")
    lines = said(capsys)
    assert len(lines) > 3
    assert all(line.startswith("<3>") for line in lines)
    assert lines[-1] == "<3>KeyError: 'a bug'"


def test_a_message_with_newlines_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody forges a line of ours by what a service says."""
    logs.set_up("info", "text")
    logging.getLogger("agentd.x").info("a.fact", extra={"data": {"text": "first line\n<0>forged line"}})
    (line,) = said(capsys)
    assert r"first line\n<0>forged line" in line


@pytest.mark.parametrize("key", ["api_key", "token", "Authorization", "password", "client_secret"])
@pytest.mark.parametrize("form", ["text", "json"])
def test_a_secret_is_not_written(capsys: pytest.CaptureFixture[str], key: str, form: str) -> None:
    logs.set_up("info", form)
    logging.getLogger("agentd.x").info("a.fact", extra={"data": {key: "s3cr3t"}})
    (line,) = said(capsys)
    assert "s3cr3t" not in line
    assert "***" in line


def test_the_level_changes_at_once_and_set_up_twice_says_things_once(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("info", "text")
    logs.set_up("info", "text")
    log = logging.getLogger("agentd.x")
    log.debug("hidden")
    logs.set_level("debug")
    log.debug("shown")
    logs.set_level("error")
    log.warning("hidden")
    assert [line.split()[-1] for line in said(capsys)] == ["shown"]


def test_arguments_of_the_standard_library_s_kind(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("info", "text")
    logging.getLogger("agentd.x").warning("cannot read %s: %d errors", "x", 2)
    (line,) = said(capsys)
    assert line.endswith("warning cannot read x: 2 errors")
