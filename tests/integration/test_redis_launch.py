"""How a unit of a real systemd starts a real redis-server, asked from outside."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from userunits import UserUnits, systemctl

from agentd.adapters.redis_files import LocalDataFiles
from agentd.stores import Launch


@pytest.fixture
def units() -> Iterator[UserUnits]:
    made = UserUnits("launch")
    yield made
    made.remove()


def started(unit: str) -> int:
    """Its main process. The units are of Type=exec: what has been started runs its program already."""
    systemctl("daemon-reload")
    systemctl("start", unit)
    return int(systemctl("show", unit, "--property=MainPID", "--value"))


async def test_the_arguments_of_a_unit(units: UserUnits, tmp_path: Path) -> None:
    conf = tmp_path / "redis.conf"
    conf.write_text(f"port 0\nunixsocket {tmp_path}/s\n")
    before = time.time()
    unit = units.service(
        "own", "Type=exec", f'ExecStart=redis-server {conf} --save "" --dir "{tmp_path}" --proc-title-template "a b"'
    )
    pid = started(unit)
    launch = await LocalDataFiles().launch(pid)
    argv = ("redis-server", str(conf), "--save", "", "--dir", str(tmp_path), "--proc-title-template", "a b")
    assert launch == Launch(unit, "user", argv, launch.started)
    assert before - 1 < launch.started < time.time() + 1


async def test_a_unit_that_starts_it_in_its_own_way(units: UserUnits, tmp_path: Path) -> None:
    command = f"redis-server --port 0 --unixsocket {tmp_path}/s --dir {tmp_path}"
    unit = units.service("shell", "Type=exec", f"ExecStart=/bin/sh -c 'exec {command}'")
    launch = await LocalDataFiles().launch(started(unit))
    assert (launch.unit, launch.argv) == (unit, ())
    assert launch.problem == f"{unit} starts /bin/sh, which starts the server in its own way"
    unit = units.service(
        "variable", "Type=exec", "Environment=LEVEL=notice", f"ExecStart={command} --loglevel ${{LEVEL}}"
    )
    launch = await LocalDataFiles().launch(started(unit))
    assert launch.argv[-1] == "${LEVEL}"
    assert launch.problem == f"ExecStart= of {unit} holds a variable that systemd replaces: ${{LEVEL}}"
