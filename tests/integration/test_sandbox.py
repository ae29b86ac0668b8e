"""The sandbox from outside: what it gives, how it ends, and that nothing of it stays. Runs nested in a sandbox, too."""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentd.sandbox import cgroup

CHECKOUT = Path(__file__).resolve().parents[2]
UNPRIVILEGED = 65534
_NO_SESSION = ("--unset=XDG_RUNTIME_DIR", "--unset=DBUS_SESSION_BUS_ADDRESS")


def own_parent() -> Path:
    mount = cgroup.mount_point()
    assert mount is not None
    parent = cgroup.parent(mount)
    assert parent is not None, "these tests run as root or with a delegated cgroup"
    return parent


@functools.cache
def readable_copy() -> Path:
    """The package where every user can read it: a checkout in /root cannot be."""
    copy = Path(tempfile.mkdtemp(prefix="agentd-test-"))
    atexit.register(shutil.rmtree, copy)
    copy.chmod(0o755)
    shutil.copytree(CHECKOUT / "agentd", copy / "agentd", ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def argv(*words: str, python: str = sys.executable) -> list[str]:
    return [python, "-P", "-m", "agentd.sandbox", *words]


def run(*words: str, prefix: tuple[str, ...] = (), timeout: float = 30) -> subprocess.CompletedProcess[str]:
    """The sandbox's result; with a prefix it may be another user, who gets what such a user can read."""
    checkout = readable_copy() if prefix else CHECKOUT
    python = os.path.realpath(sys.executable) if prefix else sys.executable
    return subprocess.run(
        [*prefix, *argv(*words, python=python)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
    )


def inside(script: str, *options: str, prefix: tuple[str, ...] = ()) -> str:
    done = run("--bare", *options, "--", "bash", "-ec", script, prefix=prefix)
    assert done.returncode == 0, done.stderr
    return done.stdout


def processes_with(mark: str) -> set[int]:
    """Processes (of any namespace below ours) with the mark in their command line."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark.encode() in (entry / "cmdline").read_bytes():
                    found.add(int(entry.name))
            except OSError:
                continue
    return found - {os.getpid()}


def eventually(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def sandboxes() -> set[str]:
    """Sandbox cgroups that belong to this test, or to nobody any more."""
    return {p.name for p in own_parent().glob(cgroup.PREFIX + "*")}


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before = sandboxes()
    yield
    eventually(lambda: not any(_dead(name) for name in sandboxes() - before))


def _dead(name: str) -> bool:
    pid, _, start = name.removeprefix(cgroup.PREFIX).partition("-")
    return cgroup.start_time(int(pid)) != start


@pytest.fixture
def delegated() -> Iterator[tuple[str, ...]]:
    """A command prefix that runs something as an unprivileged user in a cgroup of its own."""
    if os.geteuid() != 0:
        yield ()  # we are such a user ourselves
        return
    path = own_parent() / f"test-user-{os.getpid()}"
    path.mkdir()
    for file in (path, path / "cgroup.procs", path / "cgroup.subtree_control"):
        os.chown(file, UNPRIVILEGED, UNPRIVILEGED)
    enter = 'echo $$ > "$1"; shift; exec "$@"'
    user = ("setpriv", f"--reuid={UNPRIVILEGED}", f"--regid={UNPRIVILEGED}", "--clear-groups")
    yield ("bash", "-c", enter, "bash", str(path / "cgroup.procs"), *user)
    eventually(lambda: cgroup.remove(path))


def test_a_manager_with_a_bus_and_a_network_of_its_own() -> None:
    script = """
        echo $AGENTD_SANDBOX $XDG_RUNTIME_DIR ${HOME%%[0-9]} $(ls -A ~)
        systemctl --user is-system-running --wait
        busctl --user call org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.DBus.Peer Ping
        python3 -c 'import socket; a = ("127.0.0.1", 9775); s = socket.create_server(a); socket.create_connection(a)'
        tail -n +3 /proc/net/dev | cut -d: -f1
        sed -n 's/^0:://p' /proc/self/cgroup
    """
    uid = os.getuid()
    group = f"/user.slice/user-{uid}.slice/session-1.scope"
    assert inside(script).split() == ["1", f"/run/user/{uid}", "/home/sandbox", ".local", "running", "lo", group]


def test_units_have_their_place_and_their_journal() -> None:
    # It lives on: journald cannot tell the unit of a line whose process has ended before it looks.
    script = """
        systemd-run --user --quiet --unit=hello bash -c \
            'echo first words; sed -n s/^0:://p /proc/self/cgroup; exec sleep infinity'
        until journalctl --output=cat _SYSTEMD_USER_UNIT=hello.service | grep slice; do sleep 0.02; done
        journalctl --output=cat _SYSTEMD_USER_UNIT=hello.service | head -n 1
        systemctl --user stop hello.service
    """
    uid = os.getuid()
    place = f"/user.slice/user-{uid}.slice/user@{uid}.service/app.slice/hello.service"
    assert inside(script).splitlines() == [place, "first words"]


def test_the_machines_files_are_as_they_are_outside(tmp_path: Path) -> None:
    inside(f"pwd > {tmp_path}/cwd; test -r {CHECKOUT}/agentd; test -x {sys.executable}")
    assert (tmp_path / "cwd").read_text().strip() == str(CHECKOUT)


def test_exit_codes_are_passed_on() -> None:
    assert run("--bare", "--", "sh", "-c", "exit 7").returncode == 7
    assert run("--bare", "--", "sh", "-c", "kill -USR1 $$").returncode == 128 + signal.SIGUSR1
    done = run("--bare", "--", "/no/such/program")
    assert (done.returncode, done.stderr) == (127, "agentctl: cannot run /no/such/program: No such file or directory\n")


def test_it_is_up_within_a_second() -> None:
    start = time.monotonic()
    inside("true")
    assert time.monotonic() - start < 2.0


def test_nothing_outlives_the_command() -> None:
    mark = f"outlive-{os.getpid()}"
    inside(
        f"systemd-run --user --quiet bash -c 'exec -a {mark} sleep 600'; setsid -f bash -c 'exec -a {mark} sleep 600'"
    )
    assert not processes_with(mark)


def started(*words: str) -> subprocess.Popen[str]:
    """A sandbox whose command has said that it runs."""
    process = subprocess.Popen(argv(*words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT)
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], 20)
    assert ready
    assert process.stdout.readline() == "up\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_reach_the_command(number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    with started(
        "--bare", "--", "bash", "-c", f"trap 'echo caught; exit 9' {name}; echo up; sleep 600 & wait"
    ) as process:
        process.send_signal(number)
        assert process.communicate(timeout=20)[0] == "caught\n"
    assert process.returncode == 9


def test_a_killed_sandbox_is_gone_and_its_cgroup_goes_with_the_next() -> None:
    mark = f"killed-{os.getpid()}"
    before = sandboxes()
    command = f"systemd-run --user --quiet bash -c 'exec -a {mark} sleep 600'; echo up; sleep 600"
    with started("--bare", "--", "bash", "-c", command) as process:
        (ours,) = sandboxes() - before
        eventually(lambda: processes_with(mark))
        process.kill()
    eventually(lambda: not processes_with(mark))
    eventually(lambda: not cgroup.populated(own_parent() / ours))
    inside("true")
    assert ours not in sandboxes()


def test_as_an_unprivileged_user(delegated: tuple[str, ...]) -> None:
    script = "id -u; systemctl --user is-system-running --wait; grep CapEff /proc/self/status"
    uid, state, _, capabilities = inside(script, prefix=delegated).split()
    assert (int(uid) > 0, state, int(capabilities, 16)) == (True, "running", 0)


@pytest.fixture
def undelegated() -> Iterator[tuple[str, ...]]:
    """A command prefix that runs something as a user who may not use the cgroup that it is in."""
    path = own_parent() / f"test-undelegated-{os.getpid()}"
    path.mkdir()
    user = (f"setpriv --reuid={UNPRIVILEGED} --regid={UNPRIVILEGED} --clear-groups") if os.geteuid() == 0 else ""
    enter = f'echo $$ > "$1/cgroup.procs"; chmod a-w "$1/cgroup.procs"; shift; exec {user} "$@"'
    yield ("bash", "-c", enter, "bash", str(path))
    eventually(lambda: cgroup.remove(path))


def test_without_a_delegated_cgroup_it_says_what_to_do(undelegated: tuple[str, ...]) -> None:
    done = run("--bare", "--", "true", prefix=(*undelegated, "env", *_NO_SESSION))
    assert done.returncode == 1
    assert "no delegated cgroup" in done.stderr
    assert "systemctl --user" in done.stderr


def test_a_user_gets_a_cgroup_from_systemd(delegated: tuple[str, ...]) -> None:
    script = f"""
        chmod a-w /sys/fs/cgroup$(sed -n s/^0:://p /proc/self/cgroup)/cgroup.procs
        {" ".join(argv("--bare", "--", "echo", "nested", python=os.path.realpath(sys.executable)))}
        until journalctl --output=cat _SYSTEMD_USER_UNIT=init.scope | grep --only-matching 'Started run-.*scope '; do
            sleep 0.02
        done
    """
    first, second = inside(script, prefix=delegated).splitlines()
    assert first == "nested"
    assert second.startswith("Started run-")


def test_a_kept_home(tmp_path: Path) -> None:
    done = subprocess.run(
        argv("--bare", "--keep", "--", "sh", "-c", "echo kept > ~/file"),
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    (home,) = tmp_path.iterdir()
    assert (home / "file").read_text() == "kept\n"
    assert str(home) in done.stderr


def test_the_stand_in_gpu_sees_a_death_that_nobody_looks_at() -> None:
    script = """
        mkdir -p ~/.config/agentd-standin
        echo '{"load_seconds": 0, "vram_release_seconds": 60}' > ~/.config/agentd-standin/qwen.json
        systemd-run --user --quiet --unit=model -p KillMode=mixed vllm serve / --served-model-name qwen --port 8001
        until (exec 3<>/dev/tcp/127.0.0.1/8001) 2>/dev/null; do sleep 0.02; done
        systemctl --user stop model
        for i in $(seq 100); do grep -q died $AGENTD_STANDIN_GPU/claims/*.json && break; sleep 0.02; done
        cat $AGENTD_STANDIN_GPU/claims/*.json
    """
    claim = json.loads(inside(script))
    assert 0 <= time.monotonic() - claim["died"] < 30


def test_redis_starts_with_the_shipped_configuration() -> None:
    script = f"""
        {sys.executable} -P -c 'from agentd.sandbox import home; home.install()'
        systemctl --user daemon-reload
        systemctl --user start agentd-redis
        for key in appendonly save dir; do redis-cli config get $key | sed s,$HOME/,,; done
        redis-cli set k v
        systemctl --user kill --signal=KILL agentd-redis
        until redis-cli get k 2>/dev/null | grep -x v; do sleep 0.1; done
    """
    assert inside(script).splitlines() == [
        "appendonly", "yes", "save", "3600 1 300 100 60 10000", "dir", ".local/state/agentd-redis",
        "OK", "v",
    ]  # fmt: skip


@pytest.mark.timeout(90)
def test_the_guided_run() -> None:
    done = run("--once", timeout=80)
    assert done.returncode == 0, done.stdout + done.stderr
    for text in (
        "dolphin is serving",
        "qwen is serving",
        "CUDA out of memory",
        "qwen serves again",
        "agentctl shows it",
        "nova woken from level 1",
    ):
        assert text in done.stdout


def test_agentd_runs_hardened_and_sees_the_gpu() -> None:
    script = """
        pid=$(systemctl --user show --value -p MainPID agentd.service)
        sed -n 's/^\\(NoNewPrivs\\|Seccomp\\):\\s*/\\1 /p' /proc/$pid/status
        agentctl gpu --json
    """
    done = run("--", "bash", "-ec", script, timeout=50)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("NoNewPrivs 1\nSeccomp 2\n")
    assert "Stand-in GPU" in done.stdout
