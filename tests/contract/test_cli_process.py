"""agentctl as a real process: signals, pipes, terminals, what it imports, and what it does without a daemon."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.serving import Served, served

from agentd.types import ExitCode

HEAVY = {
    *("aiohttp", "msgspec", "asyncio", "prometheus_client", "structlog", "redis", "http.client", "urllib.request"),
    *("dataclasses", "inspect", "ssl", "email", "logging", "shutil", "subprocess", "pathlib", "agentd.types"),
}


class Shell:
    """Starts agentctl with a socket of its own and no configuration but the test's."""

    def __init__(self, directory: Path) -> None:
        self.config = directory / "config"
        self.config.mkdir()
        self.env = {
            **{k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "MAINPID")},
            "AGENTD_SOCKET": str(directory / "agentd.sock"),
            "AGENTD_CONFIG_DIR": str(self.config),
            "TERM": "xterm",
            "PYTHONWARNINGS": "error",
        }

    def argv(self, *argv: str) -> list[str]:
        return [sys.executable, "-m", "agentd.cli.main", *argv]

    def start(self, *argv: str, **more: Any) -> subprocess.Popen[str]:
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": self.env}
        return subprocess.Popen(self.argv(*argv), **(pipes | more))

    def run(self, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*argv), capture_output=True, text=True, env={**self.env, **env}, timeout=30, check=False
        )


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as found:
        yield found


def test_status_imports_nothing_heavy(server: Served, shell: Shell) -> None:
    code = (
        "import sys; from agentd.cli.main import main; code = main(['status']);"
        "print(*sys.modules, file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=shell.env, check=True)
    assert "vllm-qwen.service" in done.stdout
    assert set(done.stderr.split()) & HEAVY == set()


def test_ctrl_c_leaves_the_switch_running(server: Served, shell: Shell) -> None:
    process = shell.start("switch-model", "dolphin")
    server.run(server.ops.until(lambda: server.ops.followers == 1))
    assert process.stdout is not None
    assert process.stdout.readline().startswith("switching qwen to dolphin")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "interrupted: change s0000000001 goes on without us" in err
    assert "agentctl switch cancel s0000000001" in err
    assert "Traceback" not in err
    assert server.ops.change_list["s0000000001"].finished is None


def test_restart_of_the_daemon_does_not_end_the_wait(server: Served, shell: Shell) -> None:
    process = shell.start("switch-model", "dolphin", "--json")
    server.run(server.ops.until(lambda: server.ops.followers == 1))
    server.restart()
    server.follow_through()
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    assert json.loads(out)["outcome"] == "done"


def test_events_are_lines_as_they_happen_and_a_closed_pipe_is_no_error(server: Served, shell: Shell) -> None:
    server.call(lambda ops: ops.emit("unit.state", "qwen", "before"))
    process = shell.start("events", "-f", "--json")
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["message"] == "before"
    server.call(lambda ops: ops.emit("unit.state", "qwen", "now"))
    assert json.loads(process.stdout.readline())["message"] == "now"
    process.stdout.close()
    server.call(lambda ops: ops.emit("unit.state", "qwen", "nobody reads this"))
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(20), err) == (0, "")


def test_events_go_on_after_a_restart_without_a_gap(server: Served, shell: Shell) -> None:
    server.call(lambda ops: ops.emit("unit.state", "qwen", "one"))
    process = shell.start("events", "-f", "--json")
    assert process.stdout is not None
    seen = [json.loads(process.stdout.readline())["message"]]
    server.restart()
    server.call(lambda ops: ops.emit("unit.state", "qwen", "two"))
    seen.append(json.loads(process.stdout.readline())["message"])
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (seen, out, err, process.returncode) == (["one", "two"], "", "", 130)


def on_terminal(shell: Shell, server: Served, **env: str) -> str:
    """What a switch writes to a terminal."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        shell.argv("switch-model", "dolphin"), stdin=slave, stdout=slave, stderr=slave, env={**shell.env, **env}
    )
    os.close(slave)
    server.run(server.ops.until(lambda: server.ops.followers == 1))
    seen = b""
    while b"precheck" not in seen:  # the live line is up
        seen += os.read(master, 4096)
    server.follow_through()
    while True:
        try:
            data = os.read(master, 4096)
        except OSError:
            break
        if not data:
            break
        seen += data
    os.close(master)
    assert process.wait(20) == 0
    return seen.decode()


def test_live_line_on_a_terminal_is_drawn_and_taken_away(server: Served, shell: Shell) -> None:
    text = on_terminal(shell, server)
    assert "\r\u2809"[:1] in text
    assert "\x1b[K" in text
    # What stays on the screen: each line after its last carriage return.
    shown = [line.split("\r")[-1].replace("\x1b[K", "").strip() for line in text.replace("\r\n", "\n").splitlines()]
    assert [line.split()[0] for line in shown if line.startswith(("precheck", "drain", "verify"))] == [
        "precheck",
        "drain",
        "verify",
    ]
    assert shown[-1] == "qwen is active (3.50 s)"


def test_no_color_is_honoured_on_a_terminal(server: Served, shell: Shell) -> None:
    def painted(**env: str) -> bool:
        master, slave = pty.openpty()
        done = subprocess.run(shell.argv("status"), stdout=slave, env={**shell.env, **env}, check=True, timeout=20)
        os.close(slave)
        text = os.read(master, 65536)
        os.close(master)
        assert done.returncode == 0
        return b"\x1b[3" in text

    assert painted()
    assert not painted(NO_COLOR="1")
    assert not painted(TERM="dumb")


def test_logs_becomes_journalctl(server: Served, shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "journalctl"
    fake.write_text('#!/bin/sh\necho "$@"\nexit 7\n')
    fake.chmod(0o755)
    done = shell.run("logs", "qwen", "-n", "5", "--", "-p", "err", PATH=f"{fake.parent}:{os.environ['PATH']}")
    assert done.stdout == "--user-unit=vllm-qwen.service --lines=5 --no-pager -p err\n"
    assert done.returncode == 7
    done = shell.run("logs", "agentd", PATH=f"{fake.parent}:{os.environ['PATH']}")
    assert done.stdout.startswith("--user-unit=agentd.service ")
    assert shell.run("logs", "qwne").returncode == ExitCode.USAGE
    assert "journalctl is not installed" in shell.run("logs", "agentd", PATH="/nonexistent").stderr


CONFIG = """
[slots.gpu0]
default = "tiny"
[services.tiny]
role = "model"
unit = "vllm-tiny.service"
url = "http://127.0.0.1:{port}"
[services.tiny.model]
slot = "gpu0"
served_name = "tiny"
"""


def test_config_is_checked_and_shown_without_a_daemon(shell: Shell) -> None:
    file = shell.config / "agentd.toml"
    file.write_text(CONFIG.format(port=18001))
    done = shell.run("config", "check")
    assert (done.returncode, done.stderr) == (0, "")
    assert str(file) in done.stdout
    done = shell.run("config", "show", "--provenance")
    assert 'services.tiny.unit = "vllm-tiny.service"' in done.stdout
    assert f"{file}:5" in done.stdout
    keys = {row["key"] for row in json.loads(shell.run("config", "show", "--json").stdout)["settings"]}
    assert "services.tiny.unit" in keys


def test_every_error_of_the_config_is_listed(shell: Shell) -> None:
    (shell.config / "agentd.toml").write_text('[services.x]\nunti = "a"\n[daemon]\nlog_level = "loud"\n')
    for command in ("check", "show"):
        done = shell.run("config", command)
        assert done.returncode == ExitCode.FAILED
        assert "unti" in done.stderr
        assert "log_level" in done.stderr
        assert "Traceback" not in done.stderr
    assert len(json.loads(shell.run("config", "check", "--json").stdout)["problems"]) >= 2


def test_names_come_from_the_files_when_no_daemon_runs(shell: Shell, tmp_path: Path) -> None:
    (shell.config / "agentd.toml").write_text(CONFIG.format(port=18001))
    assert "tiny" in shell.run("__complete", "models").stdout.split()
    assert shell.run("__complete", "changes").stdout == ""
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "journalctl"
    fake.write_text('#!/bin/sh\necho "$@"\n')
    fake.chmod(0o755)
    done = shell.run("logs", "tiny", PATH=f"{fake.parent}:{os.environ['PATH']}")
    assert done.stdout.startswith("--user-unit=vllm-tiny.service ")
    done = shell.run("wait-ready", "tinny", "--timeout", "1s")
    assert (done.returncode, 'did you mean "tiny"?' in done.stderr) == (ExitCode.USAGE, True)
