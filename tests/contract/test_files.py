"""The Files port: all of a set or none of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from fakes import FakeFiles

from agentd.adapters.files import LocalFiles
from agentd.errors import AgentdError
from agentd.ports import Files


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "units").mkdir()
    return tmp_path / "units"


@pytest.fixture(params=["disk", "fake"])
def files(request: pytest.FixtureRequest, root: Path) -> Files:
    return LocalFiles([root]) if request.param == "disk" else FakeFiles()


def refuse(files: Files, path: Path) -> None:
    """Writing this path fails from now on."""
    if isinstance(files, FakeFiles):
        files.refuse.add(str(path))
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir()
        (path / "in-the-way").touch()


async def test_write_change_and_remove(files: Files, root: Path) -> None:
    one, two = str(root / "a.service.d" / "50-agentd-x.conf"), str(root / "b.conf")
    assert await files.read(one) is None
    assert await files.apply({one: "[Unit]\n", two: "ä\n"}) == {one: None, two: None}
    assert (await files.read(one), await files.read(two)) == ("[Unit]\n", "ä\n")
    assert await files.exists(one)
    assert await files.apply({one: "[Unit]\n", two: None}) == {one: "[Unit]\n", two: "ä\n"}
    assert await files.read(two) is None
    assert not await files.exists(two)
    assert await files.apply({two: None}) == {two: None}


async def test_the_answer_undoes_the_set(files: Files, root: Path) -> None:
    one, two = str(root / "one"), str(root / "two")
    await files.apply({one: "old"})
    undo = await files.apply({one: "new", two: "new"})
    await files.apply(undo)
    assert (await files.read(one), await files.read(two)) == ("old", None)


async def test_one_failure_restores_the_set(files: Files, root: Path) -> None:
    one, two, bad, four = (str(root / name) for name in ("one", "two", "bad", "four"))
    await files.apply({one: "1", two: "2"})
    refuse(files, Path(bad))
    with pytest.raises(AgentdError) as caught:
        await files.apply({one: "changed", two: None, bad: "x", four: "4"})
    assert caught.value.kind in ("file-write", "file-read")
    assert bad in caught.value.message
    assert (await files.read(one), await files.read(two), await files.read(four)) == ("1", "2", None)


# -- only the real one ------------------------------------------------------------------------------------------------
async def test_a_failing_rename_puts_everything_back(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = LocalFiles([root])
    first, second, fresh = root / "first", root / "second", root / "new.d" / "fresh"
    await files.apply({str(first): "1", str(second): "2"})
    first.chmod(0o600)
    whole = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if Path(target) == second and self.read_text() == "two":
            raise OSError(28, "No space left on device", str(target))
        return whole(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(AgentdError) as caught:
        await files.apply({str(first): "one", str(fresh): "f", str(second): "two"})
    assert caught.value.message == f"cannot write {second}: no space left on device"
    assert caught.value.hint == ""
    assert (first.read_text(), second.read_text()) == ("1", "2")
    assert first.stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in root.iterdir()) == ["first", "second"]


async def test_nothing_is_written_when_nothing_changes(root: Path) -> None:
    files = LocalFiles([root])
    path = root / "x"
    await files.apply({str(path): "same"})
    before = path.stat()
    await files.apply({str(path): "same"})
    after = path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


async def test_modes_and_tidiness(root: Path) -> None:
    files = LocalFiles([root])
    path = root / "a.service.d" / "x.conf"
    await files.apply({str(path): "1"})
    assert path.stat().st_mode & 0o777 == 0o644
    path.chmod(0o640)
    await files.apply({str(path): "2"})
    assert path.stat().st_mode & 0o777 == 0o640
    await files.apply({str(path): None})
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("name", ["/etc/x", "../x", "{root}/../x", "relative", "{root}"])
async def test_only_below_the_roots(root: Path, name: str) -> None:
    path = name.format(root=root)
    with pytest.raises(AgentdError, match="it is not below") as caught:
        await LocalFiles([root]).apply({path: "x"})
    assert caught.value.kind == "file-outside"


async def test_links_and_binary_files_are_left_alone(root: Path) -> None:
    files = LocalFiles([root])
    (root / "target").write_text("theirs")
    (root / "link").symlink_to(root / "target")
    (root / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(AgentdError, match="symbolic link"):
        await files.apply({str(root / "link"): "ours"})
    assert (root / "target").read_text() == "theirs"
    with pytest.raises(AgentdError, match="not UTF-8"):
        await files.read(str(root / "binary"))


async def test_sets_do_not_mix(root: Path) -> None:
    files = LocalFiles([root])
    names = [str(root / f"f{n}") for n in range(8)]
    await asyncio.gather(*(files.apply({name: str(turn) for name in names}) for turn in range(12)))
    assert len({Path(name).read_text() for name in names}) == 1
