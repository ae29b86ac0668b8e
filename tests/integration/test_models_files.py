"""agentctl models add on a real systemd: what systemd makes of the unit, keys by credential, sockets, and switches."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from integration.seconduser import UID, second_user
from integration.stack import Done, Stack, kill_and_wait, until
from userunits import systemctl

from agentd.client import Client
from agentd.core.model_unit import unit_name
from agentd.sandbox import home

SPY = """\
#!/usr/bin/python3
import os, sys, time
open(os.path.expanduser("~/seen"), "w").write(os.environ.get("VLLM_API_KEY", "none"))
time.sleep(300)
"""
KEY = "a-key-of-the-test"
AWKWARD = ('{"a": "b c"}', "100%", "$HOME", "${HOME}", "it's", "back\\slash", "#comment", ";", "", "two\nlines")


def add(stack: Stack, name: str, *options: str) -> Done:
    path = home.model_files(stack.home / "models" / name)
    return stack.ctl("models", "add", name, "--path", str(path), *options)


def secret(stack: Stack) -> Path:
    file = stack.home / "model.env"
    file.write_text(f"VLLM_API_KEY={KEY}\n")
    file.chmod(0o600)
    return file


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def pid(name: str) -> int:
    return int(systemctl("show", "-P", "MainPID", unit_name(name)))


def ask(socket: str, path: str, key: str = "") -> tuple[int, Any]:
    """By curl, which is none of ours."""
    header = ("-H", f"Authorization: Bearer {key}") if key else ()
    command = ["curl", "-s", "-m", "10", "-w", "\n%{http_code}", *header, "--unix-socket", socket, f"http://x{path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    body, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(body) if body.startswith("{") else body


def test_systemd_reads_every_argument_as_it_was_meant(stack: Stack) -> None:
    """The program of the unit writes down what it was started with."""
    program = stack.home / "bin dir" / "vllm 100%"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/usr/bin/python3\nimport json, sys\njson.dump(sys.argv, open("{stack.home}/argv", "w"))\n')
    program.chmod(0o755)
    done = add(stack, "odd", "--vllm", str(program), "--max-model-len", "4096", "--", "--x", *AWKWARD)
    assert done.code == 0, done.err
    systemctl("start", "--no-block", unit_name("odd"))
    until(lambda: (stack.home / "argv").exists() and (stack.home / "argv").stat().st_size > 0)
    found = json.loads((stack.home / "argv").read_text())
    assert found[:2] == [str(program), "serve"]
    assert found[found.index("--x") + 1 :] == list(AWKWARD)
    assert found[found.index("--gpu-memory-utilization") + 1] == "0.9"
    assert found[found.index("--max-model-len") + 1] == "4096"
    systemctl("stop", unit_name("odd"))


@pytest.mark.parametrize("key", ["--env-file", ""])
def test_systemd_has_nothing_to_say_against_the_unit(stack: Stack, key: str) -> None:
    file = secret(stack)
    socket = f"{os.environ['XDG_RUNTIME_DIR']}/vllm/third.sock"
    options = ["--switch", "sleep1", "--uds", socket, *([key, str(file)] if key else [])]
    assert add(stack, "third", *options).code == 0
    unit = stack.units / unit_name("third")
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", str(unit)], capture_output=True, text=True, timeout=60, check=False
    )
    assert "third" not in done.stderr, done.stderr
    assert done.returncode == 0


def test_a_third_model_on_a_socket_with_a_key(stack: Stack) -> None:
    """Added while agentd runs, made resident, asked, made to give way, and removed."""
    socket = f"{os.environ['XDG_RUNTIME_DIR']}/vllm/third.sock"
    done = add(stack, "third", "--uds", socket, "--env-file", str(secret(stack)))
    assert done.code == 0, done.err
    stack.behaviour("third", load_seconds=0.2)
    stack.write_config("71-third.toml", '[services.third.hardening]\nwrite_paths = ["%t/standin-gpu"]\n')
    assert stack.ctl("reload").code == 0
    hardened = stack.ctl("dropins", "apply", "third", "--json")
    assert hardened.code == 0, hardened.err
    code, change = stack.switch("third")
    assert code == 0, change
    status = os.lstat(socket)
    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) & 0o077 == 0
    assert ask(socket, "/v1/models")[0] == 401
    assert ask(socket, "/v1/models", KEY)[1]["data"][0]["id"] == "third"
    secret_places = [
        Path(f"/proc/{pid('third')}/cmdline").read_text(errors="replace"),
        systemctl("show", unit_name("third")),
        systemctl("cat", unit_name("third")),
    ]
    assert not any(KEY in place for place in secret_places)
    assert stack.ctl("models", "remove", "third").code == 3, "it runs"
    shown = stack.ctl("models", "show", "third", "--json").json
    assert (shown["status"]["active"], shown["owner"], shown["files"]["problems"]) == (True, "ours", [])
    assert KEY not in json.dumps(shown)
    assert stack.switch("qwen")[0] == 0
    assert stack.ctl("models", "remove", "third").code == 1, "another file speaks of it"
    (stack.config / "config.d/71-third.toml").unlink()
    assert stack.ctl("models", "remove", "third").code == 0
    assert not (stack.units / unit_name("third")).exists()
    assert not (stack.units / f"{unit_name('third')}.d").exists()
    assert [m["name"] for m in Client().get("/v1/models")["models"]] == ["qwen", "dolphin"]


@pytest.mark.skipif(os.getuid() != 0, reason="another user is wanted for it")
def test_a_key_by_credential_with_an_ordinary_users_systemd() -> None:
    """Also while an ExecStartPost= runs beside it, as the readiness drop-in's does."""
    folder = Path("/run/model-user")
    folder.mkdir(mode=0o755)
    with second_user(folder) as user:
        config, key = user.home / ".config/agentd/agentd.toml", user.home / "a key"
        home.model_files(user.home / "model")
        config.parent.mkdir(parents=True)
        config.write_text("[slots.gpu0]\n")
        key.write_text(KEY + "\n")
        key.chmod(0o600)
        (user.home / "vllm").write_text(SPY)
        (user.home / "vllm").chmod(0o755)
        for path in (user.home, *user.home.rglob("*")):
            os.chown(path, UID, UID)
        options = ["--path", str(user.home / "model"), "--vllm", str(user.home / "vllm"), "--switch", "auto"]
        user.python("agentd.cli.main", "models", "add", "third", *options, "--api-key-credential", str(key))
        dropin = user.home / ".config/systemd/user/vllm-third.service.d/post.conf"
        dropin.parent.mkdir()
        dropin.write_text("[Service]\nExecStartPost=/bin/sleep 0.2\n")
        user.run("systemctl", "--user", "daemon-reload")
        unit = unit_name("third")
        for _ in range(2):
            user.run("systemctl", "--user", "restart", unit)
            until(lambda: (user.home / "seen").exists() and (user.home / "seen").read_text() == KEY)
            (user.home / "seen").unlink()
        main = user.run("systemctl", "--user", "show", "-P", "MainPID", unit).strip()
        places = [
            Path(f"/proc/{main}/cmdline").read_text(errors="replace"),
            user.run("systemctl", "--user", "show", unit),
            user.run("systemctl", "--user", "cat", unit),
        ]
        assert "vllm" in places[0]
        assert not any(KEY in place for place in places)
        key.unlink()
        user.run("systemctl", "--user", "stop", unit)
        with pytest.raises(AssertionError):
            user.run("systemctl", "--user", "start", unit)


def test_a_systemd_that_hands_no_credentials_over_is_found_out(stack: Stack) -> None:
    """As root of a namespace of its own systemd gives an empty directory."""
    if os.getuid() != 0:
        pytest.skip("credentials work here")
    key = stack.home / "key"
    key.write_text(KEY + "\n")
    key.chmod(0o600)
    done = add(stack, "third", "--api-key-credential", str(key))
    assert (done.code, "does not hand" in done.err) == (3, True), done.err
    assert not (stack.units / unit_name("third")).exists()


def test_a_socket_that_a_killed_server_left_is_no_obstacle(stack: Stack) -> None:
    socket = f"{os.environ['XDG_RUNTIME_DIR']}/vllm/third.sock"
    assert add(stack, "third", "--uds", socket).code == 0
    stack.behaviour("third", load_seconds=0.0)
    for _ in range(2):
        assert stack.switch("third")[0] == 0
        kill_and_wait(pid("third"))
        assert stack.switch("qwen", "--force")[0] == 0, "its restart after the crash is not in the way"


def test_a_torn_file_is_refused_before_anything_is_touched(stack: Stack) -> None:
    assert add(stack, "third").code == 0
    weights = stack.home / "models/third/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    before = pid("qwen")
    code, change = stack.switch("third")
    assert code == 3
    assert f"the files of third are not whole: {weights} ends after 9 bytes" in change["message"]
    assert pid("qwen") == before
    assert stack.ctl("models", "verify", "third").code == 1


def test_adding_and_removing_again_and_again_leaves_nothing(stack: Stack) -> None:
    units, fragments = names(stack.units), names(stack.config / "config.d")
    for _ in range(3):
        assert add(stack, "third").code == 0
        assert add(stack, "third").out.startswith("third: already so")
        assert stack.ctl("models", "remove", "third").code == 0
    until(lambda: names(stack.units) == units)
    assert names(stack.config / "config.d") == fragments


def test_without_agentd(bare_stack: Stack) -> None:
    done = add(bare_stack, "third")
    assert (done.code, "agentd does not run" in done.out) == (0, True), done.err
    assert systemctl("show", "-P", "LoadState", unit_name("third")) == "loaded"
    bare_stack.start()
    assert bare_stack.switch("third")[0] == 0
