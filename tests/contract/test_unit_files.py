"""The UnitFiles port: the disk and its fake."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fakes.unit_files import FakeUnitFiles

from agentd.adapters.unit_files import LARGEST, LocalUnitFiles
from agentd.ports_hardening import UnitFiles


class Disk:
    """Writes for either implementation."""

    def __init__(self, files: UnitFiles, root: Path) -> None:
        self.files = files
        self._root = root

    def write(self, path: str, text: str) -> None:
        if isinstance(self.files, FakeUnitFiles):
            self.files.texts[path] = text
        else:
            self._place(path).write_text(text)

    def link(self, path: str, target: str) -> None:
        if isinstance(self.files, FakeUnitFiles):
            self.files.links[path] = target
        else:
            self._place(path).symlink_to(target)

    def _place(self, path: str) -> Path:
        place = self._root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        return place


@pytest.fixture(params=["disk", "fake"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    root = tmp_path / "root"
    return Disk(LocalUnitFiles(str(root)) if request.param == "disk" else FakeUnitFiles(), root)


async def test_files_as_they_lie(disk: Disk) -> None:
    disk.write("/etc/a.service", "[Service]\nä\n")
    disk.link("/etc/masked.service", "/dev/null")
    disk.link("/etc/dangling.service", "/no/such")
    plain, masked, dangling, missing = await disk.files.read_all(
        ["/etc/a.service", "/etc/masked.service", "/etc/dangling.service", "/etc/none.service"]
    )
    assert (plain.path, plain.text, plain.link) == ("/etc/a.service", "[Service]\nä\n", "")
    assert plain.mtime > 0
    assert (masked.text, masked.link) == ("", "/dev/null")
    assert (dangling.text, dangling.link) == (None, "/no/such")
    assert (missing.text, missing.link, missing.mtime) == (None, "", 0.0)


ORDERED = {
    "/home/a-b@x.service.d/60.conf": "own",
    "/etc/a-b@x.service.d/60.conf": "hidden by /home",
    "/etc/a-b@x.service.d/50.conf": "own, of the second directory",
    "/etc/a-b@.service.d/50.conf": "hidden by what is more special",
    "/etc/a-b@.service.d/70.conf": "template",
    "/etc/a-@x.service.d/70.conf": "hidden by the template",
    "/etc/a-@x.service.d/20.conf": "prefix",
    "/home/a-@.service.d/20.conf": "the first directory counts more than what is more special",
    "/home/service.d/60.conf": "hidden: of all services",
    "/etc/service.d/99.conf": "of all services",
    "/etc/a-b@y.service.d/10.conf": "another instance",
    "/etc/a-b.service.d/10.conf": "not of the template",
    "/etc/a-b@x.service.d/.40.conf": "hidden file",
    "/etc/a-b@x.service.d/40.conf~": "a backup",
    "/usr/lib/a-b@x.service.d/10.conf": "not among the directories",
    "/etc/a-b@x.service.d/B.conf": "capitals come first",
    "/etc/a-b@x.service.d/a.conf": "small letters",
}


async def test_drop_ins_in_the_order_of_their_names(disk: Disk) -> None:
    for path, text in ORDERED.items():
        disk.write(path, text)
    disk.link("/home/a-b@x.service.d/80.conf", "/dev/null")
    disk.write("/etc/a-b@x.service.d/80.conf", "masked")
    found = await disk.files.dropins_of("a-b@x.service", ["/home", "/etc"])
    assert [(file.path, file.text) for file in found] == [
        (path, "" if path.endswith("80.conf") else ORDERED[path])
        for path in (
            "/home/a-@.service.d/20.conf",
            "/etc/a-b@x.service.d/50.conf",
            "/home/a-b@x.service.d/60.conf",
            "/etc/a-b@.service.d/70.conf",
            "/home/a-b@x.service.d/80.conf",
            "/etc/service.d/99.conf",
            "/etc/a-b@x.service.d/B.conf",
            "/etc/a-b@x.service.d/a.conf",
        )
    ]


async def test_no_drop_ins(disk: Disk) -> None:
    assert await disk.files.dropins_of("a.service", ["/home", "/etc"]) == ()


async def test_what_cannot_be_read_has_no_text(tmp_path: Path) -> None:
    files = LocalUnitFiles()
    big, folder, pipe, latin = (tmp_path / name for name in ("big", "folder", "pipe", "latin"))
    big.write_bytes(b"x" * (LARGEST + 1))
    folder.mkdir()
    os.mkfifo(pipe)
    latin.write_bytes(b"Description=\xe4\n")
    found = await files.read_all([str(path) for path in (big, folder, pipe, latin)])
    assert [file.text for file in found] == [None, None, None, "Description=\ufffd\n"]
    assert all(file.mtime > 0 for file in found)


async def test_a_drop_in_directory_that_is_a_link(tmp_path: Path) -> None:
    """systemd lists the files by the place where they really are."""
    real = tmp_path / "real"
    real.mkdir()
    (real / "50.conf").write_text("x")
    (tmp_path / "user").mkdir()
    (tmp_path / "user/a.service.d").symlink_to(real)
    found = await LocalUnitFiles().dropins_of("a.service", [str(tmp_path / "user")])
    assert [file.path for file in found] == [str(real / "50.conf")]
