"""A restore that is killed at every system call: a start then finds all that was there or all of the backup, whatever
the file says of appendonly, and the same restore again brings the backup, with the old files beside it."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from redisserver import RedisServer
from storebackups import Rig, tree

from agentd.adapters.redis_scratch import LocalScratchServers

CALLS = "mkdir,mkdirat,write,fchmod,fchown,fsync,fdatasync,link,linkat,rename,renameat,renameat2,unlink,unlinkat,rmdir"
WORKER = """
import json, sys
from agentd.adapters import redis_place
from agentd.adapters.file_threads import Pulse
from agentd.core.redis_layout import Layout
from agentd.core.redis_placement import Placement
plan = Placement(Layout(sys.argv[1]), **json.loads(sys.argv[2]))
lock = redis_place.lock(plan)
redis_place.stage(plan, Pulse())
redis_place.commit(plan, redis_place.Steady())
"""


class Place:
    """A data directory with an RDB and an append-only file, before anything happened."""

    def __init__(self, folder: Path, old: Path, rdb: Path) -> None:
        self.folder, self.rdb = folder, rdb
        self.data = Path(shutil.copytree(old, folder / "data"))

    def work(self, inject: str = "") -> int:
        digest = hashlib.sha256(self.rdb.read_bytes()).hexdigest()
        plan = {"rdb": str(self.rdb), "size": self.rdb.stat().st_size, "sha256": digest, "stamp": "20270115T080000Z"}
        trace = ("strace", "-f", "-qq", "-o", str(self.folder / "trace"), "-e", f"trace={CALLS}")
        injected = ("-e", inject) if inject else ()
        python = (sys.executable, "-I", "-B", "-c", WORKER, str(self.data), json.dumps(plan))
        return subprocess.run([*trace, *injected, *python], timeout=50, check=False).returncode

    def calls(self) -> list[tuple[str, str]]:
        """Every (injection, line of the trace) of an undisturbed run."""
        assert self.work() == 0
        counts: Counter[str] = Counter()
        found = []
        for line in (self.folder / "trace").read_text().splitlines():
            name = line.split()[1].partition("(")[0]
            counts[name] += 1
            found.append((f"inject={name}:signal=KILL:when={counts[name]}", line))
        return found

    async def digest(self, appendonly: bool, data: Path | None = None) -> str:
        """Of what a start would find."""
        copy = Path(shutil.copytree(data or self.data, self.folder / "copy"))
        try:
            return (await LocalScratchServers().load(str(copy), appendonly=appendonly, digest=True)).digest
        finally:
            shutil.rmtree(copy)


@pytest.mark.allows_blocking
@pytest.mark.timeout(300)
async def test_killed_at_every_call(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "server", "appendonly yes\nsave 3600 1")
    server.start()
    server.seed(20)
    async with Rig(server) as rig:
        backup = (await rig.take()).path
        server.seed(30, prefix="later")
        server.stop()
        first = Place(tmp_path / "clean", server.data, Path(backup, "dump.rdb"))
        old = await first.digest(appendonly=True)
        assert await first.digest(appendonly=False) == old
        calls = first.calls()
        new = await first.digest(appendonly=True)
        assert await first.digest(appendonly=False) == new != old
        seen: list[tuple[bool, bool]] = []
        for how, line in calls:
            place = Place(tmp_path / str(len(seen)), server.data, Path(backup, "dump.rdb"))
            assert place.work(how) in (-signal.SIGKILL, 128 + signal.SIGKILL), line
            found = [await place.digest(appendonly) for appendonly in (True, False)]
            assert set(found) <= {old, new}, f"neither the old nor the new set after the kill at {line}"
            seen.append((found[0] == new, found[1] == new))
            done = await rig.restore(backup, place.data)
            assert [await place.digest(appendonly) for appendonly in (True, False)] == [new, new], line
            kept = [path for path in place.data.iterdir() if path.name.startswith("before-restore-")]
            assert Path(done.kept) in kept
            assert old in [await place.digest(True, path) for path in kept], f"the old set is lost after {line}"
            assert not [name for name in tree(place.data) if "partial" in name], line
            shutil.rmtree(place.folder)
    assert len(seen) > 40
    assert seen == sorted(seen), "old up to one moment, new from then on"
    assert {(False, False), (True, True)} <= set(seen)
    assert list((tmp_path / "server/backups").iterdir()) == [Path(backup)]
