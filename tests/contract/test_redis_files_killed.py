"""Data files and configuration files, killed or refused at every system call: the old state or the new one."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from elsewhere import injections, traced

from agentd.adapters import redis_conf_patch, redis_copies
from agentd.adapters.file_threads import Pulse

pytestmark = pytest.mark.timeout(180)

COPY = """
import sys
from pathlib import Path
from agentd.adapters import redis_copies
from agentd.adapters.file_threads import Pulse
from agentd.errors import AgentdError
data, target = Path(sys.argv[1]), sys.argv[2]
sources = {str(p.relative_to(data)): str(p) for p in data.rglob("*") if p.is_file()}
try:
    redis_copies.copy(sources, target, Pulse())
except AgentdError as error:
    sys.exit(f"{error.kind}: {error.message}")
"""
PATCH = """
import sys
from agentd.adapters import redis_conf_patch
from agentd.errors import AgentdError
try:
    redis_conf_patch.patch(sys.argv[1], sys.argv[2], sys.argv[3])
except AgentdError as error:
    sys.exit(f"{error.kind}: {error.message}")
"""
OLD, NEW = "# old\nappendonly no\n", "# old\nappendonly yes\n"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "appendonlydir").mkdir(parents=True)
    for name in ("dump.rdb", "appendonlydir/a.1.incr.aof", "appendonlydir/a.manifest"):
        (folder / name).write_bytes(os.urandom(1000))
    return folder


def sources(data: Path) -> dict[str, str]:
    return {str(path.relative_to(data)): str(path) for path in data.rglob("*") if path.is_file()}


def texts(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def copies(data: Path, place: Path, what: str) -> Iterator[tuple[str, str, Path]]:
    """(injection, what it said, target) of a copy that is disturbed at each of its calls."""
    trace = place / "trace"
    (place / "clean").mkdir()
    _, lines = traced(COPY, str(data), str(place / "clean" / "copy"), trace=trace)
    assert len(lines) >= 14
    for number, inject in enumerate(injections(lines, what)):
        target = place / str(number) / "copy"
        target.parent.mkdir()
        said, _ = traced(COPY, str(data), str(target), trace=trace, inject=inject)
        yield inject, said, target


def test_a_copy_that_is_killed(data: Path, tmp_path: Path) -> None:
    whole = []
    for inject, _, target in copies(data, tmp_path, "signal=KILL"):
        whole.append(target.exists())
        if not target.exists():
            assert {path.name for path in target.parent.iterdir()} <= {"copy.partial"}
            redis_copies.copy(sources(data), str(target), Pulse())
        assert texts(target) == texts(data), f"a bad copy after {inject}"
        assert [path.name for path in target.parent.iterdir()] == ["copy"]
    assert whole == sorted(whole), "not there up to one moment, and there from then on"
    assert whole.count(False) >= 12


def test_a_copy_that_is_refused(data: Path, tmp_path: Path) -> None:
    refused = 0
    for inject, said, target in copies(data, tmp_path, "error=ENOSPC"):
        assert said.startswith("disk-full: cannot copy to "), f"after {inject}: {said}"
        assert [path.name for path in target.parent.iterdir()] == [], f"something half done after {inject}"
        refused += 1
    assert refused >= 12


def conf_in(folder: Path) -> Path:
    folder.mkdir()
    path = folder / "redis.conf"
    path.write_text(OLD)
    path.chmod(0o640)
    return path


def patches(place: Path, what: str) -> Iterator[tuple[str, str, Path]]:
    """(injection, what it said, file) of a patch that is disturbed at each of its calls."""
    trace = place / "trace"
    _, lines = traced(PATCH, str(conf_in(place / "clean")), OLD, NEW, trace=trace)
    assert len(lines) >= 10
    for number, inject in enumerate(injections(lines, what)):
        conf = conf_in(place / str(number))
        said, _ = traced(PATCH, str(conf), OLD, NEW, trace=trace, inject=inject)
        assert stat.S_IMODE(conf.stat().st_mode) == 0o640
        yield inject, said, conf


def test_a_patch_that_is_killed(tmp_path: Path) -> None:
    replaced = []
    for inject, _, conf in patches(tmp_path, "signal=KILL"):
        found = conf.read_text()
        assert found in (OLD, NEW), f"a mix after {inject}"
        replaced.append(found == NEW)
        for path in conf.parent.iterdir():
            assert not stat.S_IMODE(path.stat().st_mode) & ~0o640, f"{path.name} is more open after {inject}"
        backup = redis_conf_patch.patch(str(conf), found, "last\n")
        assert Path(backup).read_text() == found
        others = {path.name for path in conf.parent.iterdir()} - {conf.name}
        assert all(name.startswith("redis.conf.agentd-") for name in others), f"left after {inject}: {others}"
        assert len(others) <= 2
    assert replaced == sorted(replaced), "old up to one moment, new from then on"
    assert replaced.count(False) >= 8


def test_a_patch_that_is_refused(tmp_path: Path) -> None:
    refused = 0
    for inject, said, conf in patches(tmp_path, "error=ENOSPC"):
        if conf.read_text() == OLD:
            assert said.startswith("disk-full: cannot replace "), f"after {inject}: {said}"
            assert [path.name for path in conf.parent.iterdir()] == ["redis.conf"], f"left after {inject}"
            refused += 1
        else:
            assert "fsync" in inject, "only the directory's own sync comes after the rename"
    assert refused >= 8
