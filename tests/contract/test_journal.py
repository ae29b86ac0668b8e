"""The JournalReader port: on a real journald where we may start one, and on scripted journalctl answers."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import aclosing
from pathlib import Path

import pytest
from fakes import FakeJournal

from agentd.adapters import journal
from agentd.adapters.journal import Invocation, JournalctlReader, matches, message, of_invocation
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


FOLLOWED = """
case "$*" in *--follow*) ;; *) exit 1;; esac
echo $$ > {folder}/pid
cat {folder}/out
while [ ! -e {folder}/more ]; do sleep 0.01; done
cat {folder}/more
exec sleep 60
"""


def entry(text: object, invocation: str = "", pid: int = 0) -> str:
    ids = {"_SYSTEMD_INVOCATION_ID": invocation} if invocation else {}
    return json.dumps({"MESSAGE": text, **ids, **({"_PID": str(pid)} if pid else {})}) + "\n"


def followed(tmp_path: Path, now: str) -> JournalctlReader:
    """A journalctl that says `now` at once, and what the file `more` holds once that is there."""
    (tmp_path / "out").write_text(now)
    return scripted(tmp_path, FOLLOWED.format(folder=tmp_path))


def say_more(tmp_path: Path, text: str) -> None:
    (tmp_path / "later").write_text(text)
    (tmp_path / "later").rename(tmp_path / "more")


async def gone(pid: int) -> None:
    """Until the process has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(handle, ended.set)
    try:
        async with asyncio.timeout(10):
            await ended.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)


@pytest.mark.parametrize("kind", ["fake", "scripted"])
async def test_following_gives_the_run_so_far_and_then_what_comes(kind: str, tmp_path: Path) -> None:
    fake = FakeJournal()
    old = [("a", "of the run before"), ("b", "one"), ("b", "two")]
    for invocation, text in old:
        fake.say("x.service", text, invocation=invocation)
    real = followed(tmp_path, "".join(entry(text, one) for one, text in old))
    lines = (fake if kind == "fake" else real).follow("x.service", invocation="b")
    async with asyncio.timeout(20), aclosing(lines):
        assert [await anext(lines), await anext(lines)] == ["one", "two"]
        waiting = asyncio.ensure_future(anext(lines))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        fake.say("x.service", "of another", invocation="c")
        fake.say("y.service", "of another unit", invocation="b")
        fake.say("x.service", "three", invocation="b")
        say_more(tmp_path, entry("of another", "c") + entry("three", "b"))
        assert await waiting == "three"
    with pytest.raises(StopAsyncIteration):
        await anext(lines)
    if kind == "scripted":
        await gone(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("kind", ["fake", "none", "failing", "garbage"])
async def test_following_a_journal_that_cannot_be_read_ends(kind: str, tmp_path: Path) -> None:
    fake = FakeJournal()
    fake.readable = False
    readers = {
        "fake": fake,
        "none": JournalctlReader(command=[str(tmp_path / "none")]),
        "failing": scripted(tmp_path, "echo No journal files were found. >&2; exit 1"),
        "garbage": scripted(tmp_path, "echo not json; echo '[1]'; head -c 300000 /dev/zero | tr '\\0' x; echo"),
    }
    async with asyncio.timeout(20):
        assert [line async for line in readers[kind].follow("x.service")] == []


async def test_whoever_is_cancelled_while_following_leaves_no_child(tmp_path: Path) -> None:
    reader = followed(tmp_path, entry("one"))
    first = asyncio.Event()

    async def read() -> None:
        async with aclosing(reader.follow("x.service")) as lines:
            async for _ in lines:
                first.set()

    task = asyncio.ensure_future(read())
    async with asyncio.timeout(20):
        await first.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()


async def test_a_follower_dies_with_us(tmp_path: Path) -> None:
    followed(tmp_path, entry("one"))
    program = (
        "import asyncio, os, signal, sys\nfrom agentd.adapters.journal import JournalctlReader\n"
        "async def main():\n"
        "    async for _ in JournalctlReader(command=[sys.argv[1]]).follow('x.service'):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, str(tmp_path / "journalctl"))
    assert await process.wait() == -9
    await gone(int((tmp_path / "pid").read_text()))


async def test_a_flood_leaves_the_loop_to_others_and_a_long_line_is_cut(tmp_path: Path) -> None:
    reader = followed(tmp_path, entry("x" * 5000) + entry("y --api-key k-1") * 3000 + entry("z" * 100_000))
    turns, found = 0, []

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(others())
    say_more(tmp_path, entry("end"))
    async with asyncio.timeout(30), aclosing(reader.follow("x.service")) as lines:
        async for line in lines:
            found.append(line)
            if line == "end":
                break
    task.cancel()
    assert found[0] == "x" * 2000
    assert found[1:3001] == ["y --api-key ***"] * 3000
    assert turns > 3000


def test_what_comes_before_the_first_id_is_taken_of_the_main_process_alone() -> None:
    def has(rows: list[tuple[str, str, str]], pid: int = 0) -> list[str]:
        wanted = Invocation("new", pid)
        entries = [
            {"MESSAGE": text, "_PID": of, **({"USER_INVOCATION_ID": one} if one else {})} for one, of, text in rows
        ]
        return [str(e["MESSAGE"]) for e in entries if wanted.has(e)]

    rows = [("", "6", "end of old"), ("", "7", "early"), ("new", "1", "Starting"), ("", "8", "loading"),
            ("old", "1", "late news"), ("", "8", "of whom?"), ("", "7", "main")]  # fmt: skip
    assert has(rows) == ["Starting", "loading"]
    assert has(rows, 7) == ["early", "Starting", "loading", "main"]


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
from contextlib import aclosing
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
    lines, followed = reader.follow("foo.service"), []
    async with asyncio.timeout(20), aclosing(lines):
        async for line in lines:
            followed.append(line)
            if len(followed) == 3:
                out.sendall(b"and one more\\n")
            if len(followed) == 4:
                break
    print(ascii(followed[2:]))
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
    every, last, nobody, followed = output.splitlines()
    assert every == "('Starting foo', 'loading --api-key ***', 'bytes \\ufffd here')"
    assert last == "('bytes \\ufffd here',)"
    assert nobody == "()"
    assert followed == "['bytes \\ufffd here', 'and one more']"
