"""The JournalReader port: on a real journald where we may start one, and on scripted journalctl answers."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fakes import FakeJournal

from agentd.adapters import journal
from agentd.adapters.journal import JournalctlReader, matches, message, of_invocation
from agentd.types import Scope

JOURNALD = "/lib/systemd/systemd-journald"


def scripted(tmp_path: Path, script: str) -> JournalctlReader:
    program = tmp_path / "journalctl"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return JournalctlReader(command=[str(program)])


async def test_the_fake_and_a_scripted_journalctl_agree(tmp_path: Path) -> None:
    entries = [("a", "one"), ("a", "two"), ("b", "three"), ("b", "four")]
    fake = FakeJournal()
    for invocation, text in entries:
        fake.say("x.service", text, invocation=invocation)
    lines = "\n".join(json.dumps({"MESSAGE": text, "_SYSTEMD_INVOCATION_ID": one}) for one, text in entries)
    (tmp_path / "out").write_text(lines + "\n")
    real = scripted(tmp_path, f"n=$(echo \"$@\" | sed 's/.* -n \\([0-9]*\\).*/\\1/'); tail -n $n {tmp_path}/out")
    for reader in (fake, real):
        assert await reader.tail("x.service", lines=3) == ("two", "three", "four")
        assert await reader.tail("x.service", lines=3, invocation="a") == ("one", "two")
        assert await reader.tail("x.service", lines=1, invocation="b") == ("four",)
        assert await reader.tail("x.service", lines=0) == ()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ([104, 105, 255], "hi\ufffd"),
        (["one", [50]], "one\n2"),
        ("\x1b[1;31mERROR\x1b[0m\ttab\x07", "ERROR\ttab"),
        (None, ""),
        (7, ""),
        ("run --api-key k-123", "run --api-key ***"),
        ("x" * 5000, "x" * 2000),
    ],
)
def test_messages_become_clean_text(value: object, text: str) -> None:
    assert message({"MESSAGE": value}) == text


def test_lines_without_an_id_belong_to_the_run_before_them() -> None:
    # As seen where journald cannot read the unit's invocation: only systemd's own lines carry it.
    rows = [
        ("", "end of old"),
        ("old", "exited"),
        ("new", "Starting"),
        ("", "loading"),
        ("", "boom"),
        ("new", "exited"),
    ]
    entries = [{"MESSAGE": text, **({"USER_INVOCATION_ID": one} if one else {})} for one, text in rows]
    assert [e["MESSAGE"] for e in of_invocation(entries, "new")] == ["Starting", "loading", "boom", "exited"]
    assert [e["MESSAGE"] for e in of_invocation(entries[:1], "new")] == ["end of old"]


def test_matches_by_scope() -> None:
    own = f"_UID={os.getuid()}"
    user = ["_SYSTEMD_USER_UNIT=x.service", own, "+", "_SYSTEMD_UNIT=x.service", own, "+", "USER_UNIT=x.service", own]
    assert matches(Scope.USER, "x.service") == user
    assert matches(Scope.SYSTEM, "x.service") == ["_SYSTEMD_UNIT=x.service", "+", "_PID=1", "UNIT=x.service"]


async def test_an_unreadable_journal_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await JournalctlReader(command=[str(tmp_path / "none")]).tail("x.service", lines=5) == ()
    assert await scripted(tmp_path, "echo not json; echo '[1]'; exit 1").tail("x.service", lines=5) == ()
    monkeypatch.setattr(journal, "TIMEOUT", 0.2)
    began = time.monotonic()
    assert await scripted(tmp_path, "exec sleep 60").tail("x.service", lines=5) == ()
    assert time.monotonic() - began < 5


IN_A_REAL_JOURNAL = """
import asyncio, os, socket, subprocess, sys, time
from agentd.adapters.journal import JournalctlReader

def stream(unit):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    s.connect("/run/systemd/journal/stdout")
    s.sendall(f"ident\\n{unit}\\n6\\n0\\n0\\n0\\n0\\n".encode())
    return s

def native(**fields):
    child = os.fork()  # journald remembers a process's unit: none here
    if child:
        os.waitpid(child, 0)
        return
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    s.connect("/run/systemd/journal/socket")
    s.sendall("".join(f"{k}={v}\\n" for k, v in fields.items()).encode())
    os._exit(0)

async def main():
    daemon = subprocess.Popen([sys.argv[1]], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not os.path.exists("/run/systemd/journal/stdout") and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    native(MESSAGE="Starting foo", USER_UNIT="foo.service", USER_INVOCATION_ID="1" * 32, PRIORITY="6")
    out = stream("foo.service")
    out.sendall(b"loading --api-key hunter2\\nbytes \\xff here\\n")
    native(MESSAGE="of another", USER_UNIT="other.service", PRIORITY="6")
    reader, wanted = JournalctlReader(), 3
    while time.monotonic() < deadline:
        lines = await reader.tail("foo.service", lines=10)
        if len(lines) >= wanted:
            break
        await asyncio.sleep(0.05)
    print(ascii(lines))
    print(ascii(await reader.tail("foo.service", lines=1)))
    print(await reader.tail("nobody.service", lines=5))
    daemon.terminate()
    daemon.wait()

asyncio.run(main())
"""


@pytest.mark.skipif(
    os.geteuid() != 0 or not Path(JOURNALD).exists() or shutil.which("unshare") is None,
    reason="starts a journald of its own in namespaces: needs root and systemd",
)
async def test_a_real_journal() -> None:
    # The shell stays pid 1: journald files what pid 1 says under no unit.
    script = (
        "mount --make-rprivate / && mount -t tmpfs none /run && mount -t tmpfs none /var/log"
        ' && mkdir -p /run/systemd/journal && "$0" -c "$1" "$2"; exit $?'
    )
    process = await asyncio.create_subprocess_exec(
        *("unshare", "-m", "-C", "-u", "-n", "-p", "--fork", "--mount-proc", "--kill-child", "sh", "-c", script),
        *(sys.executable, IN_A_REAL_JOURNAL, JOURNALD),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output = (await process.communicate())[0].decode()
    assert process.returncode == 0, output
    every, last, nobody = output.splitlines()
    assert every == "('Starting foo', 'loading --api-key ***', 'bytes \\ufffd here')"
    assert last == "('bytes \\ufffd here',)"
    assert nobody == "()"
