"""The command line in this process, and a real API server with plain values for it to ask."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from fakes.cli import Result, Run
from fakes.serving import Served, served

from agentd.cli.main import main


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Tests and rewritten modules are made by the thousand and stay to the end: looking for garbage among them, now
    and during every test, is a tenth of the whole time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("AGENTD_SOCKET", str(tmp_path / "agentd.sock"))
    with served(tmp_path) as found:
        found.call(lambda ops: setattr(ops, "instant", True))
        yield found


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.delenv("MAINPID", raising=False)
    if "AGENTD_SOCKET" not in os.environ:
        monkeypatch.setenv("AGENTD_SOCKET", str(tmp_path / "none.sock"))

    def call(*argv: str) -> Result:
        capsys.readouterr()
        try:
            code = main(argv)
        except SystemExit as end:
            code = int(end.code or 0)
        found = capsys.readouterr()
        assert "Traceback" not in found.err
        assert "\x1b" not in found.out, "no escape sequences where there is no terminal"
        return Result(code, found.out, found.err)

    return call
