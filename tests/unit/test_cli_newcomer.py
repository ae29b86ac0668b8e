"""What somebody types who has not read the manual: the answer names what is wrong, and what to write instead."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fakes.cli import Run
from modelfiles import model

from agentd import paths
from agentd.cli import exits
from agentd.surface import first_of

CONFIG = """\
[slots.gpu0]

[services.qwen]
unit = "vllm-qwen.service"
role = "model"
url = "http://127.0.0.1:8001"
model = { slot = "gpu0", served_name = "qwen" }
"""
UNIT = "[Service]\nExecStart=/usr/bin/vllm serve /models/qwen\n"
DROPIN = "[Service]\nExecStart=\nExecStart=/usr/bin/vllm serve /models/qwen --enable-sleep-mode --hf-token hunter2\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "AGENTD_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={tmp_path}/no-bus")
    monkeypatch.setattr(paths, "ETC", tmp_path / "etc")
    vllm = tmp_path / ".local/bin/vllm"
    vllm.parent.mkdir(parents=True)
    vllm.write_text("#!/bin/sh\n")
    vllm.chmod(0o755)
    file = tmp_path / ".config/agentd/agentd.toml"
    file.parent.mkdir(parents=True)
    file.write_text(CONFIG)
    model(tmp_path / "models/llama")
    return tmp_path


@pytest.mark.parametrize("name", ["my llama", "Llama", "lla%ma", "../x", "x" * 300, "llämä", ""])
@pytest.mark.parametrize("act", ["add", "remove"])
def test_a_name_that_cannot_be(run: Run, home: Path, act: str, name: str) -> None:
    done = run("models", act, name, *(["--path", str(home / "models/llama")] if act == "add" else []))
    assert done.code == exits.USAGE
    assert done.err.startswith(f'agentctl: "{name}" is no usable name\n  allowed: lower-case letters, digits')


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_path_that_is_a_file(run: Run, home: Path, file: str) -> None:
    path = home / "models/llama" / file
    done = run("models", "add", "llama", "--path", str(path))
    assert done.code == exits.USAGE
    assert f'--path "{path}" is a file' in done.err
    assert f"--path {path.parent}\n" in done.err


def test_replaced_is_not_called_added(run: Run, home: Path) -> None:
    add = ("models", "add", "llama", "--path", str(home / "models/llama"))
    assert run(*add).out.startswith("llama: added; ")
    assert run(*add, "--replace", "--utilization", "0.5").out.startswith("llama: replaced; ")
    assert run("models", "remove", "llama").code == 0
    assert run(*add, "--replace").out.startswith("llama: added; ")


def test_show_has_the_command_that_drop_ins_make(run: Run, home: Path) -> None:
    unit = home / ".config/systemd/user/vllm-qwen.service"
    (unit.parent / f"{unit.name}.d").mkdir(parents=True)
    unit.write_text(UNIT)
    assert run("models", "show", "qwen", "--json").json["command"] == "/usr/bin/vllm serve /models/qwen"
    (unit.parent / f"{unit.name}.d/50-sleep.conf").write_text(DROPIN)
    (unit.parent / f"{unit.name}.d/60-gone.conf").symlink_to("/nowhere")
    command = run("models", "show", "qwen", "--json").json["command"]
    assert command.startswith("/usr/bin/vllm serve /models/qwen --enable-sleep-mode")
    assert "hunter2" not in command


def test_only_where_a_directory_may_stand_one_is_proposed(run: Run, home: Path) -> None:
    assert "a directory is written with a /" in run("models", "verify", "nope").err
    assert run("models", "show", "nope").err == 'agentctl: there is no model "nope"\n  models: qwen\n'


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["models", "list"], 'no command "models list"\n  see: agentctl models --help'),
        (["models", "ad", "x"], 'no command "models ad"\n  did you mean "models add"?'),
        (["lease", "stop"], 'no command "lease stop"\n  see: agentctl lease --help'),
    ],
)
def test_a_word_that_is_no_command(run: Run, words: list[str], told: str) -> None:
    done = run(*words)
    assert (done.code, done.err.strip()) == (exits.USAGE, f"agentctl: {told}")


def test_help_of_a_command_names_those_below_it(capsys: pytest.CaptureFixture[str]) -> None:
    from agentd.cli.main import main

    with pytest.raises(SystemExit):
        main(["models", "--help"])
    shown = capsys.readouterr().out
    assert "commands:\n  models show " in shown
    assert "  models sleep-check  put the resident model to sleep" in shown


def test_the_check_of_a_configuration_into_a_pipe_that_is_shut(home: Path) -> None:
    shut = "import os; r, w = os.pipe(); os.close(r); os.dup2(w, 1); os.close(w)\n"
    code = f"{shut}import sys; from agentd.__main__ import main; sys.exit(main(['--check']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("problems", "told"),
    [
        (["a"], "a"),
        (["a", "b", "c"], "a (and 2 more; see: agentctl config check)"),
        ([], "failed"),
    ],
)
def test_many_errors_are_one_line(problems: list[str], told: str) -> None:
    assert first_of(problems) == told


def test_no_profile_is_selected_without_agentd(run: Run, home: Path) -> None:
    done = run("profile", "use", "--none")
    assert done.out == "no profile is selected, and none is in force from the next start of agentd\n"
