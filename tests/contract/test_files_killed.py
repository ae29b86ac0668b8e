"""A set of files that is killed or refused at every system call: afterwards it is the old set or the new one."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from agentd.adapters.filelock import FileLock
from agentd.adapters.files import LocalFiles
from agentd.errors import AgentdError

CALLS = "mkdir,mkdirat,write,fchmod,fsync,rename,renameat,renameat2,unlink,unlinkat,rmdir,flock"
"""All that changes anything. A file is also created by openat; the write that follows it is counted."""

OLD: Mapping[str, str] = {
    "a.service.d/90-agentd-security.conf": "[Service]\nNoNewPrivileges=no\n",
    "b.service.d/90-agentd-security.conf": "[Service]\nold ä\n",
    "b.service.d/other.conf": "not in the set\n",
    "c.service.d/90-agentd-resources.conf": "[Service]\nMemoryMax=1G\n",
}
CHANGE: Mapping[str, str | None] = {
    "a.service.d/90-agentd-security.conf": "[Service]\nNoNewPrivileges=yes\n",
    "b.service.d/90-agentd-security.conf": None,
    "c.service.d/90-agentd-resources.conf": None,
    "d.service.d/90-agentd-security.conf": "[Service]\nnew\n",
    "d.service.d/90-agentd-resources.conf": "[Service]\nnew ü\n",
}
NEW = {name: text for name, text in {**OLD, **CHANGE}.items() if text is not None}
WORKER = """
import asyncio, json, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from agentd.adapters.files import LocalFiles
from agentd.errors import AgentdError
root, journal, change = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
files = LocalFiles([root], journal=journal)
async def work():
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    await (files.apply({str(root / name): text for name, text in change.items()}) if change else files.recover())
try:
    asyncio.run(work())
except AgentdError as error:
    sys.exit(f"{error.kind}: {error.message}")
"""


class Place:
    """A unit directory and a state directory, as they were before anything happened."""

    def __init__(self, folder: Path) -> None:
        self.root, self.state = folder / "units", folder / "state"
        for name, text in OLD.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (self.root / next(iter(OLD))).chmod(0o640)

    @property
    def files(self) -> LocalFiles:
        return LocalFiles([self.root], journal=self.state / "intent.json")

    def found(self) -> dict[str, str]:
        """Every file, hidden ones too; an empty directory counts as a stray file."""
        seen = {}
        for path in self.root.rglob("*"):
            if path.is_file():
                seen[str(path.relative_to(self.root))] = path.read_text()
            elif not any(path.iterdir()):
                seen[str(path.relative_to(self.root))] = "an empty directory"
        return seen

    def leftovers(self) -> list[str]:
        found = self.state.iterdir() if self.state.exists() else ()
        return sorted(path.name for path in found if not path.name.endswith(".lock"))

    def calls(self, change: Mapping[str, str | None] | None = CHANGE) -> list[tuple[str, str]]:
        """Every (injection, line of the trace) of an undisturbed run.

        strace counts each kind of call by itself, and for each thread by itself: WORKER therefore has only one."""
        assert self.work("", change) == (0, "")
        counts: Counter[str] = Counter()
        found = []
        for line in (self.root.parent / "trace").read_text().splitlines():
            name = line.split()[1].partition("(")[0]
            counts[name] += 1
            found.append((f"inject={name}:{{}}:when={counts[name]}", line))
        return found

    def work(self, inject: str, change: Mapping[str, str | None] | None = CHANGE) -> tuple[int, str]:
        """(exit status, what it said) of a process that changes the set, or recovers when there is none."""
        trace = ("strace", "-f", "-qq", "-o", str(self.root.parent / "trace"), "-e", f"trace={CALLS}")
        done = subprocess.run(
            [
                *(*trace, *(("-e", inject) if inject else ())),
                *(sys.executable, "-I", "-B", "-c", WORKER, str(self.root), str(self.state / "intent.json")),
                json.dumps(change),
            ],
            capture_output=True, text=True, timeout=50, check=False,
        )  # fmt: skip
        return done.returncode, done.stderr.strip()


@pytest.mark.timeout(300)
def cut_off(folder: Path) -> Place:
    """Killed at the worst moment: every file is in its place, nothing is confirmed."""
    clean, place = Place(folder / "clean"), Place(folder / "cut")
    (last,) = (how for how, line in clean.calls() if f'unlink("{clean.state}/intent.json")' in line)
    assert killed(place.work(last.format("signal=KILL"))[0])
    assert place.leftovers() == ["intent.json"]
    assert place.found() == NEW
    return place


def killed(status: int) -> bool:
    return status in (-signal.SIGKILL, 128 + signal.SIGKILL)


@pytest.mark.allows_blocking
@pytest.mark.timeout(300)
async def test_killed_at_every_call(tmp_path: Path) -> None:
    seen: list[bool] = []
    for how, line in Place(tmp_path / "clean").calls():
        place = Place(tmp_path / str(len(seen)))
        status, said = place.work(how.format("signal=KILL"))
        assert killed(status), f"{how}: {line}: {said}\n{(place.root.parent / 'trace').read_text()}"
        await place.files.recover()
        assert place.found() in (dict(OLD), NEW), f"a mix after the kill at {line}"
        assert place.leftovers() == [], f"after the kill at {line}"
        assert (place.root / next(iter(OLD))).stat().st_mode & 0o777 == 0o640
        seen.append(place.found() == NEW)
    assert len(seen) > 30, "a set of five files takes many calls"
    assert seen == sorted(seen), "old up to one moment, new from then on"
    assert seen.count(True) == 1, "the last call only brings the end of the intent to the disk"


@pytest.mark.allows_blocking
@pytest.mark.timeout(300)
async def test_killed_while_it_recovers(tmp_path: Path) -> None:
    cut = cut_off(tmp_path)

    def copied(name: str) -> Place:
        shutil.copytree(tmp_path / "cut", tmp_path / name)
        place = Place.__new__(Place)
        place.root, place.state = tmp_path / name / "units", tmp_path / name / "state"
        intent = place.state / "intent.json"
        intent.write_text(intent.read_text().replace(str(cut.root), str(place.root)))
        return place

    calls = copied("undisturbed").calls(None)
    assert len(calls) > 15
    for number, (how, line) in enumerate(calls):
        place = copied(str(number))
        assert killed(place.work(how.format("signal=KILL"), None)[0])
        await place.files.recover()
        assert place.found() == dict(OLD), f"after the kill at {line}"
        assert place.leftovers() == []


@pytest.mark.timeout(300)
def test_refused_at_every_call(tmp_path: Path) -> None:
    """A full disk: nothing is half written, also when the process goes on."""
    refused = 0
    for number, (how, line) in enumerate(Place(tmp_path / "clean").calls()):
        place = Place(tmp_path / str(number))
        status, said = place.work(how.format("error=ENOSPC"))
        assert "INJECTED" in (place.root.parent / "trace").read_text()
        if status == 0:
            # What only tidies up may fail: an empty directory stays, or the intent's end is not on the disk yet.
            assert {n: t for n, t in place.found().items() if t != "an empty directory"} == NEW, f"refused at {line}"
        else:
            assert place.found() == dict(OLD), f"refused at {line}: {said}"
            assert said.startswith("file-write: cannot "), said
            assert said.endswith("no space left on device"), said
            refused += 1
        assert place.leftovers() == []
    assert refused > 25


HOLDER = """
import sys, time
from pathlib import Path
from agentd.adapters.filelock import FileLock
with FileLock(Path(sys.argv[1])).held():
    print("held", flush=True)
    sys.stdin.read()
"""


async def test_two_processes_are_kept_apart(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.state.mkdir()
    lock = place.state / "intent.json.lock"
    command = [sys.executable, "-I", "-c", HOLDER, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:  # noqa: ASYNC220
        assert other.stdout is not None
        assert await asyncio.to_thread(other.stdout.readline) == b"held\n"
        with pytest.raises(AgentdError) as caught:
            async with FileLock(lock, patience=0.05).hold():
                pytest.fail("both hold it")
        assert caught.value.kind == "file-busy"
        assert str(lock) in caught.value.message
        waiting = asyncio.ensure_future(place.files.apply({str(place.root / n): t for n, t in CHANGE.items()}))
        await asyncio.sleep(0.1)
        assert place.found() == dict(OLD), "nothing is changed beside the other one"
        other.kill()
        other.wait()
        await waiting
    assert place.found() == NEW, "a lock ends with its process"


@pytest.mark.allows_blocking
async def test_what_somebody_changed_since_is_kept(tmp_path: Path) -> None:
    place = cut_off(tmp_path)
    mine = place.root / "a.service.d/90-agentd-security.conf"
    mine.write_text("[Service]\nmine\n")
    restored = await place.files.recover()
    assert str(mine) not in restored
    assert place.found() == {**OLD, "a.service.d/90-agentd-security.conf": "[Service]\nmine\n"}
    assert await place.files.recover() == ()


@pytest.mark.allows_blocking
async def test_the_next_set_recovers_first(tmp_path: Path) -> None:
    place = cut_off(tmp_path)
    path = place.root / "e.conf"
    assert await place.files.apply({str(path): "more"}) == {str(path): None}
    assert place.found() == {**OLD, "e.conf": "more"}


async def test_a_damaged_intent_is_told(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.state.mkdir()
    (place.state / "intent.json").write_text('{"files": [{"path"')
    for work in (place.files.recover(), place.files.apply({str(place.root / "x"): "x"})):
        with pytest.raises(AgentdError, match="it is damaged") as caught:
            await work
        assert caught.value.kind == "file-journal"
        assert "remove" in caught.value.hint
    assert place.found() == dict(OLD)


async def test_a_state_directory_that_cannot_be_written(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.state.write_text("a file")
    with pytest.raises(AgentdError, match=r"cannot write .*/state") as caught:
        await place.files.apply({str(place.root / "x"): "x"})
    assert caught.value.kind == "file-write"
    assert place.found() == dict(OLD)
