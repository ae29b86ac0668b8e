"""How a server was started: its unit from procfs, and what systemd's programs print about it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from inspected import Children
from redisserver import RedisServer

from agentd.adapters import redis_launch
from agentd.adapters.redis_files import LocalDataFiles
from agentd.adapters.redis_launch import Process, Started, judged, parse_busctl, parse_systemctl
from agentd.stores import Launch

ARGV = ("/usr/bin/redis-server", "/etc/redis/redis.conf", "--save", "", "--dir", "/a b", "--appendonly", "no")
BUSCTL = """#!/bin/sh
echo "$0 $*" >>"$ASKED"
echo '{"type":"a(sasbttttuii)","data":[["/usr/bin/redis-server",["/usr/bin/redis-server","/etc/redis/redis.conf",\
"--save","","--dir","/a b","--appendonly","no"],false,1,2,0,0,77,0,0]]}'
echo '{"type":"u","data":77}'
"""
SYSTEMCTL = """#!/bin/sh
echo "$0 $*" >>"$ASKED"
echo 'ExecStart={ path=/usr/bin/redis-server ; argv[]=/usr/bin/redis-server /etc/redis/redis.conf --save  --port 1 ; \
ignore_errors=no ; start_time=[n/a] ; stop_time=[n/a] ; pid=77 ; code=(null) ; status=0/0 }'
echo MainPID=77
"""
SERVICE = Launch(unit="redis.service", scope="system", started=5.0)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where stand-ins of systemd's programs may be put; there are no others."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'programs'}:/bin-of-nobody")
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    (tmp_path / "programs").mkdir()
    return tmp_path / "programs"


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def process(tmp_path: Path, cgroup: str) -> Process:
    """Procfs as it is for this very process, but for the cgroup."""
    folder = tmp_path / "proc" / "77"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stat").write_text(Path("/proc/self/stat").read_text())
    (folder / "cgroup").write_text(f"0::{cgroup}\n")
    (folder / "exe").unlink(missing_ok=True)
    (folder / "exe").symlink_to("/usr/bin/redis-check-rdb (deleted)")
    return redis_launch.look(77, str(tmp_path / "proc"))


async def test_when_it_was_started(children: Children, tmp_path: Path) -> None:
    before = time.time()
    pid = children.run("")
    launch = await LocalDataFiles().launch(pid)
    assert before - 1 < launch.started < time.time() + 1
    assert launch.argv == ()
    assert launch.problem, "no unit of this test's"


async def test_a_server_without_a_unit(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "server").start()
    try:
        launch = await LocalDataFiles().launch(server.pid)
    finally:
        server.kill()
    assert launch.argv == ()
    assert launch.problem


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1])
async def test_no_such_process(pid: int) -> None:
    assert await LocalDataFiles().launch(pid) == Launch(problem=f"no process {pid} can be seen on this machine")


def test_units_and_managers(tmp_path: Path) -> None:
    seen = process(tmp_path, "/system.slice/redis-server.service")
    assert (seen.launch.unit, seen.launch.scope, seen.launch.problem) == ("redis-server.service", "system", "")
    assert seen.program == "/usr/bin/redis-check-rdb"
    me = os.getuid()
    mine = process(tmp_path, f"/user.slice/user-{me}.slice/user@{me}.service/app.slice/redis.service/sub").launch
    assert (mine.unit, mine.scope, mine.problem) == ("redis.service", "user", "")
    other = process(tmp_path, f"/user.slice/user-{me + 1}.slice/user@{me + 1}.service/app.slice/redis.service").launch
    assert (other.unit, other.scope) == ("redis.service", "user")
    assert other.problem == f"redis.service belongs to the systemd of user {me + 1}, which we cannot ask"
    for group in ("/user.slice/user-0.slice/session-1.scope", "/system.slice/docker-0123.scope"):
        assert "does not say how it was started" in process(tmp_path, group).launch.problem
    assert process(tmp_path, "/").launch.problem == "process 77 belongs to no unit of systemd"


async def test_busctl_keeps_the_words_apart(programs: Path, tmp_path: Path) -> None:
    program(programs, "busctl", BUSCTL)
    launch = await redis_launch.with_arguments(Process(SERVICE), 77)
    assert launch == Launch(unit="redis.service", scope="system", argv=ARGV, started=5.0)
    (asked,) = (tmp_path / "asked").read_text().splitlines()
    assert asked.endswith(
        "/busctl --system --json=short get-property org.freedesktop.systemd1"
        " /org/freedesktop/systemd1/unit/redis_2eservice org.freedesktop.systemd1.Service ExecStart MainPID"
    )


async def test_systemctl_is_the_second_choice(programs: Path) -> None:
    program(programs, "busctl", "#!/bin/sh\nexit 1\n")
    program(programs, "systemctl", SYSTEMCTL)
    launch = await redis_launch.with_arguments(Process(SERVICE), 77)
    assert launch.argv == ("/usr/bin/redis-server", "/etc/redis/redis.conf", "--save", "", "--port", "1")
    assert "without its quotes" in launch.problem


@pytest.mark.parametrize("text", ["", "#!/bin/sh\nexit 1\n", "#!/bin/sh\necho nonsense\n", "#!/bin/sh\necho '{}'\n"])
async def test_nobody_answers(programs: Path, text: str) -> None:
    if text:
        program(programs, "busctl", text)
        program(programs, "systemctl", text)
    launch = await redis_launch.with_arguments(Process(SERVICE), 77)
    assert launch == Launch("redis.service", "system", (), 5.0, "systemd does not say how it starts redis.service")


async def test_one_that_hangs_is_left(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_launch, "DEADLINE", 0.1)
    for name in ("busctl", "systemctl"):
        program(programs, name, "#!/bin/sh\nexec /bin/sleep 50\n")
    start = time.monotonic()
    launch = await redis_launch.with_arguments(Process(SERVICE), 77)
    assert launch.problem == "systemd does not say how it starts redis.service"
    assert time.monotonic() - start < 10


def test_what_the_words_are_worth() -> None:
    def problem(argv: tuple[str, ...], pid: int = 77, running: str = "", commands: int = 1) -> str:
        launch = judged(Process(SERVICE, running), 77, Started(((argv[0], argv),) * commands, pid, exact=True))
        assert bool(launch.argv) == (not launch.problem or "variable" in launch.problem)
        return launch.problem

    assert problem(ARGV) == ""
    assert problem(ARGV, running=os.path.realpath("/usr/bin/redis-server")) == ""
    assert problem(("/bin/sh", "-c", "redis-server")).startswith("redis.service starts /bin/sh, which")
    assert problem(ARGV, running="/opt/other").startswith("redis.service starts /usr/bin/redis-server, which")
    assert problem(ARGV, pid=5) == "the main process of redis.service is 5, not 77"
    assert problem((*ARGV, "${CONF}")).endswith("holds a variable that systemd replaces: ${CONF}")
    assert problem(ARGV, commands=2) == "redis.service has 2 ExecStart= commands"


def test_what_is_printed() -> None:
    assert parse_busctl('{"type":"a(sasbttttuii)","data":[]}\n{"type":"u","data":0}') == Started((), 0, exact=True)
    assert parse_busctl('{"data":[["a"]]}\n{"data":1}') is None
    assert parse_systemctl("MainPID=0\n") == Started((), 0, exact=False)
    assert parse_systemctl("ExecStart={ path=/a ; argv[]=/a b ; c ; ignore_errors=no ; x }\nMainPID=1\n") == Started(
        (("/a", ("/a", "b", ";", "c")),), 1, exact=False
    )
    assert parse_systemctl("") is None
