"""What `agentctl gateway serve` becomes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agentd import offline_serve
from agentd.cli import gateway_serve
from agentd.errors import AgentdError
from agentd.offline_serve import RUNTIME, Wanted


class Machine:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.env = {"HOME": str(home), "PATH": str(home / "bin")}
        self.config = home / "litellm.yaml"
        self.config.write_text("a: 1\n")

    def program(self, path: str, text: str) -> Path:
        made = self.home / path
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_text(text)
        made.chmod(0o755)
        return made

    def litellm(self) -> Path:
        """A virtual environment with a LiteLLM; its interpreter."""
        python = self.program("venv/bin/python", "")
        self.program("venv/bin/litellm", f"#!{python}\n")
        (self.home / "venv/pyvenv.cfg").write_text("version = 3.11.2\n")
        info = self.home / "venv/lib/python3.11/site-packages/litellm-1.106.2.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: litellm\nVersion: 1.106.2\n")
        (info.parent / "litellm").mkdir()
        (info.parent / "litellm/__init__.py").write_text("")
        return python

    def wanted(self, **more: object) -> Wanted:
        return Wanted(str(self.config), "127.0.0.1", 4001, **more)  # type: ignore[arg-type]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def words(machine: Machine) -> tuple[str, ...]:
    return ("--config", str(machine.config), "--host", "127.0.0.1", "--port", "4001")


def test_litellms_interpreter_on_our_runtime(machine: Machine) -> None:
    python = machine.litellm()
    given = {"litellm": str(machine.home / "venv/bin/litellm"), "control": "/run/c.sock", "standby": True}
    found = offline_serve.program(machine.wanted(**given), machine.env)
    assert found.argv == (str(python), str(RUNTIME), *words(machine), "--control", "/run/c.sock", "--standby")
    assert found.note == ""
    assert RUNTIME.is_file()


def test_any_other_program_as_it_is(machine: Machine) -> None:
    """In a container, for instance; the sandbox's stand-in is one, too."""
    program = machine.program(".local/bin/litellm", '#!/bin/sh\nexec docker run "$@"\n')
    found = offline_serve.program(machine.wanted(control="/run/c.sock"), machine.env)
    assert found.argv == (str(program), *words(machine))
    assert "runs without agentd's runtime" in found.note
    with pytest.raises(AgentdError, match="cannot tell which LiteLLM"):
        offline_serve.program(machine.wanted(standby=True), machine.env)


def test_what_cannot_be_served(machine: Machine) -> None:
    with pytest.raises(AgentdError, match="cannot find LiteLLM"):
        offline_serve.program(machine.wanted(), machine.env)
    machine.config.unlink()
    with pytest.raises(AgentdError, match=r"litellm\.yaml: it does not exist"):
        offline_serve.program(machine.wanted(), machine.env)
    machine.config.mkdir()
    with pytest.raises(AgentdError, match="it is not a file"):
        offline_serve.program(machine.wanted(), machine.env)


def test_the_command_ends_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The unit is not started again for what another start would not change."""

    class Args:
        config, host, port, control, standby, litellm = (
            str(tmp_path / "none.yaml"),
            "127.0.0.1",
            4001,
            None,
            False,
            None,
        )

    class Ctx:
        args = Args

    assert gateway_serve.run(Ctx()) == 3  # type: ignore[arg-type]
    assert "none.yaml: it does not exist" in capsys.readouterr().err


def test_it_becomes_the_program(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(os, "execv", lambda path, argv: seen.append((path, argv)))
    offline_serve.become(offline_serve.Program(("/bin/x", "--config", "c")))
    assert seen == [("/bin/x", ("/bin/x", "--config", "c"))]
