"""agentctl redis as a real process: what it imports, how long it waits, what it does without a daemon."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.serving import Served, served
from fakes.stores import RUNTIME_ONLY

from agentd.types import ExitCode, Outcome
from agentd.wire import BackupRequest, StoreRequest

HEAVY = {
    *("aiohttp", "msgspec", "asyncio", "prometheus_client", "structlog", "redis", "http.client", "urllib.request"),
    *("dataclasses", "inspect", "ssl", "email", "logging", "shutil", "subprocess", "pathlib", "agentd.types"),
}
CONFIG = """
[services.cache]
role = "store"
unit = "cache.service"
url = "redis://127.0.0.1:6390"
[services.web]
unit = "web.service"
"""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "config").mkdir()
    kept = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
    more = {"AGENTD_SOCKET": str(tmp_path / "agentd.sock"), "AGENTD_CONFIG_DIR": str(tmp_path / "config")}
    return {**kept, **more, "PYTHONWARNINGS": "error"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as found:
        yield found


def ctl(env: dict[str, str], *argv: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agentd.cli.main", *argv]
    path = {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    return subprocess.run(command, capture_output=True, text=True, env=env | path, cwd=cwd, timeout=30, check=False)


@pytest.mark.parametrize("verb", ["status", "verify", "enforce", "drill", "backup"])
def test_nothing_heavy_is_imported(server: Served, env: dict[str, str], verb: str) -> None:
    code = (
        f"import sys; from agentd.cli.main import main; code = main(['redis', '{verb}']);"
        "print(*sys.modules, file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert "redis" in done.stdout
    assert set(done.stderr.split()) & HEAVY == set()


def test_exit_codes(server: Served, env: dict[str, str]) -> None:
    assert ctl(env, "redis", "verify").returncode == ExitCode.OK
    server.call(lambda ops: setattr(ops.redis, "list", [RUNTIME_ONLY]))
    assert ctl(env, "redis", "verify").returncode == ExitCode.FAILED
    assert ctl(env, "redis", "status").returncode == ExitCode.OK
    assert ctl(env, "redis", "verify", "rediss").returncode == ExitCode.USAGE
    server.call(lambda ops: setattr(ops.redis, "end", (Outcome.REFUSED, 3, "refused", "it is a replica")))
    assert ctl(env, "redis", "enforce").returncode == ExitCode.REFUSED


def test_a_change_is_followed_until_ctrl_c(server: Served, env: dict[str, str]) -> None:
    """The change goes on without us, and we say so."""
    ended = server.run(server.ops.redis.enforce(StoreRequest("redis")))
    running = replace(ended, id="r9", finished=None, outcome=None, exit_code=None)
    server.call(lambda ops: ops.put(running))
    server.call(lambda ops: setattr(ops.redis, "running", running))
    argv = [sys.executable, "-m", "agentd.cli.main", "redis", "enforce", "redis"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    server.run(server.ops.until(lambda: server.ops.followers == 1))
    assert process.stdout is not None
    assert process.stdout.readline() == "enforcing persistence: redis (change r9)\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "change r9 goes on without us" in err


def test_backup_directory_is_that_of_the_caller(server: Served, env: dict[str, str], tmp_path: Path) -> None:
    done = ctl(env, "redis", "backup", "--to", "copies", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert server.ops.redis.asked[-1] == BackupRequest(to=str(tmp_path / "copies"))


def test_names_for_the_shell(server: Served, env: dict[str, str]) -> None:
    server.call(lambda ops: ops.redis.list.append(replace(RUNTIME_ONLY, name="cache")))
    assert ctl(env, "__complete", "stores").stdout.split() == ["redis", "cache"]


def test_names_come_from_the_files_when_no_daemon_runs(env: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "config" / "agentd.toml"
    file.write_text(CONFIG)
    assert ctl(env, "__complete", "stores").stdout.split() == ["cache"]
    file.write_text(CONFIG + '[redis]\nurl = "redis://127.0.0.1:6391"\n')
    assert ctl(env, "__complete", "stores").stdout.split() == ["cache", "redis"]


def test_actions_need_the_daemon(env: dict[str, str]) -> None:
    for verb in ("status", "enforce", "drill", "backup"):
        done = ctl(env, "redis", verb, "--json")
        assert done.returncode == ExitCode.FAILED
        assert json.loads(done.stderr)["error"]["kind"] == "daemon-unreachable"
        assert "Traceback" not in done.stderr
