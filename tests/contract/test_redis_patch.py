"""The DataFiles port on real files: the configuration file that is replaced."""

from __future__ import annotations

import asyncio
import os
import re
import stat
from pathlib import Path

import pytest
from elsewhere import ORDINARY, python, python_in_namespace

from agentd.adapters.redis_files import LocalDataFiles
from agentd.errors import AgentdError

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to somebody else: needs root")
BACKUP = re.compile(r"redis\.conf\.agentd-\d{8}T\d{6}(-\d+)?")

ASK = """
import asyncio, sys
from agentd.adapters.redis_files import LocalDataFiles
from agentd.errors import AgentdError
async def main():
    files = LocalDataFiles()
    try:
        print({})
    except AgentdError as error:
        print(error.kind, "|", error.message, "|", error.hint)
asyncio.run(main())
"""


@pytest.fixture
def files() -> LocalDataFiles:
    return LocalDataFiles()


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "etc" / "redis.conf"
    path.parent.mkdir()
    path.write_text("# kept\nappendonly no\n")
    path.chmod(0o640)
    return path


def elsewhere(expression: str, *argv: str, prefix: tuple[str, ...] = ()) -> str:
    """What `expression` of `files` and `sys.argv[1:]` is in a process of its own."""
    return python(ASK.replace("{}", expression), *argv, prefix=prefix)


def in_namespace(script: str, expression: str, *argv: str) -> str:
    return python_in_namespace(script, ASK.replace("{}", expression), *argv)


def backups(conf: Path) -> list[Path]:
    return sorted(path for path in conf.parent.iterdir() if BACKUP.fullmatch(path.name))


@AS_ROOT
def test_what_belongs_to_somebody_else_cannot_be_replaced(conf: Path) -> None:
    os.chown(conf, 65534, -1)
    conf.parent.chmod(0o777)
    ask = "[f.writable for f in (await files.configuration(sys.argv[1])).files]"
    assert elsewhere(ask, str(conf)) == "[True]"
    conf.chmod(0o644)
    assert elsewhere(ask, str(conf), prefix=ORDINARY) == "[False]"


async def test_the_file_is_replaced(files: LocalDataFiles, conf: Path) -> None:
    old, before = conf.read_text(), conf.stat()
    backup = Path(await files.patch(str(conf), old, "new ä\r\n"))
    after = conf.stat()
    assert conf.read_bytes() == "new ä\r\n".encode()
    assert after.st_ino != before.st_ino
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert backup.read_text() == old
    assert stat.S_IMODE(backup.stat().st_mode) == 0o640
    assert BACKUP.fullmatch(backup.name)
    assert backup.parent == conf.parent
    assert sorted(conf.parent.iterdir()) == [conf, backup]


async def test_other_bytes_come_back_unchanged(files: LocalDataFiles, conf: Path) -> None:
    conf.write_bytes(b"# \xe4\xff\r\nappendonly no")
    (main,) = (await files.configuration(str(conf))).files
    assert main.text is not None
    await files.patch(str(conf), main.text, main.text.replace("no", "yes"))
    assert conf.read_bytes() == b"# \xe4\xff\r\nappendonly yes"


async def test_through_a_link(files: LocalDataFiles, conf: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "redis.conf"
    link.symlink_to("../etc/redis.conf")
    backup = await files.patch(str(link), conf.read_text(), "new\n")
    assert link.is_symlink()
    assert conf.read_text() == "new\n"
    assert Path(backup).parent == conf.parent
    assert [path.name for path in link.parent.iterdir()] == ["redis.conf"]


@AS_ROOT
async def test_owner_and_group_stay(files: LocalDataFiles, conf: Path) -> None:
    os.chown(conf, 65534, 65533)
    backup = await files.patch(str(conf), conf.read_text(), "new\n")
    for path in (conf, Path(backup)):
        about = path.stat()
        assert (about.st_uid, about.st_gid, stat.S_IMODE(about.st_mode)) == (65534, 65533, 0o640)


@AS_ROOT
def test_an_owner_that_cannot_be_given_is_refused_first(conf: Path) -> None:
    os.chown(conf, 65534, -1)
    conf.chmod(0o644)
    conf.parent.chmod(0o777)
    before = conf.stat()
    told = elsewhere("await files.patch(sys.argv[1], sys.argv[2], 'x')", str(conf), conf.read_text(), prefix=ORDINARY)
    assert told.startswith(
        f"file-owner | cannot replace {conf}: it belongs to user 65534 and group 0, and user 0 cannot"
    )
    assert conf.stat() == before
    assert list(conf.parent.iterdir()) == [conf]


async def test_somebody_elses_edit_is_kept(files: LocalDataFiles, conf: Path) -> None:
    old = conf.read_text()
    conf.write_text("edited\n")
    for path, kind in ((conf, "file-changed"), (conf.with_name("none.conf"), "file-missing")):
        with pytest.raises(AgentdError) as caught:
            await files.patch(str(path), old, "new\n")
        assert caught.value.kind == kind
        assert str(path) in caught.value.message
    assert [path.read_text() for path in conf.parent.iterdir()] == ["edited\n"]


def test_what_cannot_be_replaced(conf: Path) -> None:
    ask = "await files.patch(sys.argv[1], open(sys.argv[1]).read(), 'x')"
    script = 'cp "$1" "$1.other"; mount --bind "$1.other" "$1"'
    assert in_namespace(script, ask, str(conf)).startswith(f"file-write | cannot replace {conf}: it is a mount point")
    conf.with_name("redis.conf.other").unlink()
    script = 'mount --bind "$2" "$2"; mount -o remount,ro,bind "$2"'
    told = in_namespace(script, ask, str(conf), str(conf.parent))
    assert told == f"file-denied | cannot replace {conf}: read-only file system | nothing was changed"
    conf.parent.chmod(0o555)
    told = elsewhere(ask, str(conf), prefix=ORDINARY)
    conf.parent.chmod(0o755)
    assert told == f"file-denied | cannot replace {conf}: permission denied | nothing was changed"
    assert list(conf.parent.iterdir()) == [conf]


async def test_five_backups_are_kept(files: LocalDataFiles, conf: Path) -> None:
    theirs = [
        conf.with_name(name) for name in ("redis.conf.agentd-mine", "redis.conf.20260101T000000", "redis.conf.bak")
    ]
    for path in theirs:
        path.touch()
    future = conf.with_name("redis.conf.agentd-29990101T000000")
    future.write_text("made before the clock was set back")
    made = []
    for number in range(8):
        made.append(await files.patch(str(conf), conf.read_text(), f"text {number}\n"))
        assert Path(made[-1]).exists()
    assert len(set(made)) == 8
    assert len(backups(conf)) == 5
    assert {path.read_text() for path in backups(conf)} >= {"text 6\n", "text 5\n", future.read_text()}
    assert all(path.exists() for path in theirs)


async def test_one_of_many_at_once(conf: Path) -> None:
    old = conf.read_text()
    work = [LocalDataFiles().patch(str(conf), old, f"{number}\n") for number in range(8)]
    done = await asyncio.gather(*work, return_exceptions=True)
    lost = [item for item in done if isinstance(item, AgentdError)]
    assert [item.kind for item in lost] == ["file-changed"] * 7
    assert done[int(conf.read_text())] == str(backups(conf)[0])
