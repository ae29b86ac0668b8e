"""The shipped units: what a careful operator would check in them, and what systemd says of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agentd import resources
from agentd.sandbox import home as sandbox_home

SECONDS = {"s": 1, "min": 60, "h": 3600}
MODELS = ("vllm-qwen.service", "vllm-dolphin.service")
UNITS = {path.name: path.read_text() for path in resources.unit_files()}
SERVICES = sorted(name for name in UNITS if name.endswith(".service"))
GATEWAYS = ("litellm.service", "litellm-standby.service")
NAMESPACE_DIRECTIVES = re.compile(
    r"^(PrivateUsers|PrivateTmp|PrivateDevices|PrivateNetwork|PrivateIPC|PrivateMounts|Protect\w+|ReadWritePaths|"
    r"ReadOnlyPaths|InaccessiblePaths|ExecPaths|NoExecPaths|Bind\w*Paths|TemporaryFileSystem|MountAPIVFS|"
    r"RootDirectory|RootImage|CapabilityBoundingSet|AmbientCapabilities|DynamicUser)=",
    re.MULTILINE,
)


def directive(unit: str, name: str) -> list[str]:
    text = UNITS[unit].replace("\\\n", " ")
    return re.findall(rf"^{name}=(.*)$", text, re.MULTILINE)


def seconds(text: str) -> int:
    match = re.fullmatch(r"(\d+)(s|min|h)", text)
    assert match, text
    return int(match[1]) * SECONDS[match[2]]


def test_all_are_there() -> None:
    assert set(UNITS) == {
        "agentd.service", "agentd.socket", "vllm-qwen.service", "vllm-dolphin.service", "ollama.service",
        "litellm.service", "litellm.socket", "litellm-standby.service", "agentd-redis.service",
    }  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    sandbox_home.populate(home, python=os.path.realpath(sys.executable), interpreter=sys.executable, units=True)
    sandbox_home.unit_files(home / ".config/systemd/user", redis=True)
    (home / "run").mkdir(mode=0o700)
    return home


def verify(home: Path, *units: Path) -> subprocess.CompletedProcess[str]:
    environment = {"HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run"), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    argv = ["systemd-analyze", "--user", "--man=no", "verify", *map(str, units)]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=30, check=False)


def test_systemd_has_nothing_to_say(installed: Path) -> None:
    done = verify(installed, *(installed / ".config/systemd/user" / name for name in sorted(UNITS)))
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_verify_would_say_something(installed: Path) -> None:
    """The check above is worth something only if a mistake makes it fail."""
    wrong = installed / ".config/systemd/user/wrong.service"
    wrong.write_text(UNITS["ollama.service"].replace("KillMode=mixed", "KilMode=mixed"))
    assert "KilMode" in verify(installed, wrong.with_name("agentd.service"), wrong).stderr
    wrong.unlink()


@pytest.mark.parametrize("name", SERVICES)
def test_programs_and_files_are_found_below_the_home(name: str) -> None:
    settings = "\n".join(line for line in UNITS[name].splitlines() if not line.startswith("#"))
    assert "/home/" not in settings
    assert "/root" not in settings
    for command in directive(name, r"Exec\w+"):
        program = command.split()[0]
        # Outside of the sandbox of a hardening drop-in runs only what makes a directory for it.
        assert program.startswith("%h/.local/bin/") or program in ("redis-server", "+mkdir")


@pytest.mark.parametrize("name", sorted({*SERVICES} - {"litellm-standby.service"}))
def test_restarts_are_limited(name: str) -> None:
    """The limit must be reachable: so many starts, each with its pause, within the interval."""
    (restart,) = directive(name, "Restart")
    (pause,) = directive(name, "RestartSec")
    (interval,) = directive(name, "StartLimitIntervalSec")
    (burst,) = directive(name, "StartLimitBurst")
    # A vLLM whose engine was killed ends with status 0.
    assert restart == ("always" if name.startswith("vllm-") else "on-failure")
    assert int(burst) * seconds(pause) < seconds(interval)


@pytest.mark.parametrize("name", SERVICES)
def test_secrets_and_files_are_private(name: str) -> None:
    assert directive(name, "UMask") == ["0077"]
    assert directive(name, "NoNewPrivileges") == ["yes"]
    assert "api-key" not in " ".join(directive(name, "ExecStart"))
    for path in directive(name, "EnvironmentFile"):
        assert path.startswith("-%h/.config/agentd/")


@pytest.mark.parametrize("name", MODELS)
def test_a_models_stop_fits_vllm(name: str) -> None:
    (command,) = directive(name, "ExecStart")
    (timeout,) = directive(name, "TimeoutStopSec")
    # A drain of vLLM's own would make `--drain 0` wait, and every stop five seconds longer.
    assert "--shutdown-timeout" not in command
    assert seconds(timeout) >= 30
    assert directive(name, "KillMode") == ["mixed"]


@pytest.mark.parametrize(("name", "port"), [(MODELS[0], 8001), (MODELS[1], 8002)])
def test_a_models_address(name: str, port: int) -> None:
    (command,) = directive(name, "ExecStart")
    model = name.removeprefix("vllm-").removesuffix(".service")
    assert f"--host 127.0.0.1 --port {port}" in " ".join(command.split())
    assert f"--served-model-name {model} " in command
    assert directive(name, "AssertPathIsDirectory") == [f"%h/models/{model}"]
    assert "[Install]" not in UNITS[name].splitlines(), "two enabled models would fight for the GPU"


def test_the_models_differ_in_name_and_port_only() -> None:
    first, second = (UNITS[name] for name in MODELS)
    assert first.replace("qwen", "dolphin").replace("8001", "8002") == second


def test_everything_listens_on_loopback() -> None:
    assert directive("ollama.service", "Environment")[0] == "OLLAMA_HOST=127.0.0.1:11434"
    for name in GATEWAYS:
        assert "--host 127.0.0.1 --port 4001" in directive(name, "ExecStart")[0]
    assert directive("litellm.socket", "ListenStream") == ["127.0.0.1:4001"]
    assert directive("agentd.socket", "ListenStream") == ["%t/agentd/agentd.sock", "127.0.0.1:9775"]
    redis = (resources.directory("etc") / "redis.conf").read_text()
    assert re.search(r"(?m)^bind 127\.0\.0\.1 -::1$", redis)


def test_the_standby_is_the_gateway_with_another_configuration() -> None:
    differs = {"Description", "StartLimitIntervalSec", "StartLimitBurst", "Wants", "After", "Restart", "RestartSec"}
    differs |= {"RestartPreventExitStatus", "WantedBy"}
    texts = (UNITS[name].replace("\\\n", " ") for name in GATEWAYS)
    main, standby = (
        [s for s in re.findall(r"^\w+=.*$", t, re.MULTILINE) if s.split("=")[0] not in differs] for t in texts
    )
    changed = [s.replace("unified", "candidate").replace("litellm.sock ", "standby.sock ") for s in main]
    changed = [re.sub(r"litellm\.sock$", "standby.sock --standby", s) for s in changed]
    assert changed == standby
    assert directive("litellm-standby.service", "Restart") == ["no"]
    assert "[Install]" not in UNITS["litellm-standby.service"].splitlines()


def test_the_gateway_drains_within_its_time() -> None:
    for name in GATEWAYS:
        (grace,) = (v for v in directive(name, "Environment") if v.startswith("GRACEFUL_SHUTDOWN_TIMEOUT="))
        assert seconds(directive(name, "TimeoutStopSec")[0]) > int(grace.partition("=")[2]) + 5
        assert directive(name, "Sockets") == ["litellm.socket"]
        assert directive(name, "Type") == ["notify"]
        assert directive(name, "RuntimeDirectoryPreserve") == ["yes"]
    assert directive("litellm.service", "RestartPreventExitStatus") == ["3"]


def test_agentd_is_hardened_without_a_namespace() -> None:
    text = UNITS["agentd.service"]
    assert not NAMESPACE_DIRECTIVES.findall(text)
    for line in ("RestrictNamespaces=yes", "SystemCallFilter=@system-service", "MemoryDenyWriteExecute=yes"):
        assert line in text.splitlines()
    assert directive("agentd.service", "Type") == ["notify"]
    assert seconds(directive("agentd.service", "WatchdogSec")[0]) <= 60
    assert directive("agentd.service", "RestartPreventExitStatus") == ["78"]


def test_only_the_owner_opens_the_socket() -> None:
    assert directive("agentd.socket", "SocketMode") == ["0600"]
    assert directive("agentd.socket", "DirectoryMode") == ["0700"]


def test_redis_keeps_both_kinds_of_persistence() -> None:
    lines = (resources.directory("etc") / "redis.conf").read_text().splitlines()
    assert "appendonly yes" in lines
    assert "aof-use-rdb-preamble yes" in lines
    assert any(line.startswith("save 3600 1") for line in lines)
    assert directive("agentd-redis.service", "Type") == ["notify"]
    assert not any(line.startswith("requirepass") for line in lines)


def test_a_stack_without_redis() -> None:
    stack = resources.example("stack.toml").read_text()
    without = sandbox_home.without_service(stack, "redis")
    assert "[services.redis]" in stack
    settings = [line for line in without.splitlines() if not line.startswith("#")]
    assert not any("redis" in line for line in settings)
    assert without.count("[services.") == stack.count("[services.") - 1
