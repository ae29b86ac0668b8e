"""The FileWatch port: directories that come, go, move and are links, and the files in them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from watched import watching


async def test_every_kind_of_change_of_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "user"
    folder.mkdir()
    file, other = folder / "a.service", tmp_path / "elsewhere"
    async with watching(folder) as heard:
        file.write_text("one")
        await heard.until(file)
        with file.open("a") as appended:
            appended.write("two")
        await heard.until(file)
        file.chmod(0o600)
        await heard.until(file)
        file.rename(other)
        await heard.until(file)
        other.rename(file)
        await heard.until(file)
        file.unlink()
        await heard.until(file)
        file.symlink_to("/dev/null")
        await heard.until(file)
        temporary = folder / ".a.tmp"
        temporary.write_text("three")
        temporary.replace(file)
        await heard.until(file)


async def test_drop_in_directories_are_followed(tmp_path: Path) -> None:
    dropins = tmp_path / "a.service.d"
    async with watching(tmp_path) as heard:
        dropins.mkdir()
        (dropins / "50.conf").write_text("early: it may be there before the directory is watched")
        await heard.until(dropins / "50.conf")
        (dropins / "60.conf").write_text("x")
        await heard.until(dropins / "60.conf")
        dropins.rename(tmp_path / "b.service.d")
        await heard.until(dropins)
        (tmp_path / "b.service.d/70.conf").write_text("x")
        await heard.until(tmp_path / "b.service.d/70.conf")
        dropins.mkdir()
        (dropins / "80.conf").write_text("x")
        await heard.until(dropins / "80.conf")
        (dropins / "80.conf").unlink()
        await heard.until(dropins / "80.conf")
        dropins.rmdir()
        await heard.until(dropins)


async def test_drop_ins_that_were_there_before(tmp_path: Path) -> None:
    dropins = tmp_path / "a.service.d"
    dropins.mkdir()
    async with watching(tmp_path) as heard:
        (dropins / "50.conf").write_text("x")
        await heard.until(dropins / "50.conf")


async def test_other_folders_are_not_followed(tmp_path: Path) -> None:
    wants = tmp_path / "default.target.wants"
    wants.mkdir()
    async with watching(tmp_path) as heard:
        (wants / "a.service").write_text("x")
        await heard.quiet_until(wants / "a.service", tmp_path / "marker")
        (tmp_path / "b.target.wants").mkdir()
        await heard.quiet_until(tmp_path / "b.target.wants", tmp_path / "marker")


async def test_a_directory_that_comes_late(tmp_path: Path) -> None:
    folder = tmp_path / "config/systemd/user"
    async with watching(folder) as heard:
        (folder / "a.service.d").mkdir(parents=True)
        await heard.until(folder)
        (folder / "a.service.d/50.conf").write_text("x")
        await heard.until(folder / "a.service.d/50.conf")


async def test_a_directory_that_comes_step_by_step(tmp_path: Path) -> None:
    folder = tmp_path / "config/systemd/user"
    async with watching(folder) as heard:
        for step in (tmp_path / "config", tmp_path / "config/systemd", folder):
            step.mkdir()
            await asyncio.sleep(0)  # the loop sees some of them one by one, some together
        await heard.until(folder)
        (folder / "a.service").write_text("x")
        await heard.until(folder / "a.service")


async def test_a_parent_is_moved_away_and_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "config/systemd/user"
    folder.mkdir(parents=True)
    (folder / "a.service").write_text("x")
    async with watching(folder) as heard:
        (tmp_path / "config").rename(tmp_path / "saved")
        await heard.until(folder)
        folder.mkdir(parents=True)
        (folder / "b.service").write_text("x")
        await heard.until(folder / "b.service")
        (tmp_path / "saved/systemd/user/a.service").write_text("not ours any more")
        await heard.quiet_until(folder / "a.service", folder / "marker")


async def test_a_parent_is_moved_away_and_back_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "config/user"
    folder.mkdir(parents=True)
    async with watching(folder) as heard:
        (tmp_path / "config").rename(tmp_path / "saved")
        (tmp_path / "saved").rename(tmp_path / "config")
        (folder / "a.service").write_text("x")
        await heard.until(folder / "a.service")


async def test_removed_and_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "user"
    folder.mkdir()
    async with watching(folder) as heard:
        for _ in range(3):
            folder.rmdir()
            await heard.until(folder)
            folder.mkdir()
            await heard.until(folder)
        (folder / "a.service").write_text("x")
        await heard.until(folder / "a.service")


async def test_links_to_directories(tmp_path: Path) -> None:
    """Some keep their configuration elsewhere, with a link to it: also when the link changes."""
    one, two, folder = tmp_path / "one", tmp_path / "two", tmp_path / "config/user"
    for made in (one, two, folder.parent):
        made.mkdir()
    folder.symlink_to(one)
    async with watching(folder) as heard:
        (one / "a.service").write_text("x")
        await heard.until(folder / "a.service")
        (folder.parent / "new").symlink_to(two)
        (folder.parent / "new").replace(folder)
        await heard.until(folder)
        (two / "b.service").write_text("x")
        await heard.until(folder / "b.service")


async def test_one_directory_by_two_paths_and_one_inside_another(tmp_path: Path) -> None:
    folder, link, inner = tmp_path / "user", tmp_path / "link", tmp_path / "user/inner"
    inner.mkdir(parents=True)
    link.symlink_to(folder)
    async with watching(inner, folder, link) as heard:
        (folder / "a.service").write_text("x")
        await heard.until(folder / "a.service", link / "a.service")
        (inner / "b.service").write_text("x")
        await heard.until(inner / "b.service")


async def test_one_directory_wanted_and_on_the_way_to_another_by_a_link(tmp_path: Path) -> None:
    folder, link = tmp_path / "user", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    (folder / "a.service").touch()
    async with watching(folder, link / "inner") as heard:
        (folder / "a.service").write_text("x")
        await heard.until(folder / "a.service")
        (folder / "inner").mkdir()
        await heard.until(link / "inner")


async def test_a_directory_that_comes_inside_a_wanted_one(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    async with watching(inner, tmp_path) as heard:
        inner.mkdir()
        await heard.until(inner)
        (inner / "a.service").write_text("x")
        await heard.until(inner / "a.service")


async def test_a_file_where_a_directory_is_expected(tmp_path: Path) -> None:
    folder = tmp_path / "user"
    folder.write_text("in the way")
    async with watching(folder) as heard:
        folder.unlink()
        folder.mkdir()
        await heard.until(folder)
        (folder / "a.service").write_text("x")
        await heard.until(folder / "a.service")


async def test_the_set_is_replaced(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    async with watching(one) as heard:
        heard.watch.watch([str(two)], heard.hear)
        (one / "a").write_text("x")
        await heard.quiet_until(one / "a", two / "marker")
        kept = Path(f"/proc/self/fdinfo/{heard.watch._fd}").read_text().count("inotify wd:")
        assert kept == len(two.parts), "no watch may stay behind"
