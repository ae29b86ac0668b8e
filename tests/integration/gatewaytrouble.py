"""A gateway whose units or whose directory are not as they should be, for the length of a block."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from integration.gatewayed import GATEWAY, SOCKET, Gateway
from userunits import systemctl

PAGE = 4096
ROOM = 64 * PAGE


@contextlib.contextmanager
def without_file(gateway: Gateway, unit: str) -> Iterator[Path]:
    """systemd does not find the unit's file; where it was."""
    place = gateway.stack.units / unit
    aside = place.with_name(f"{unit}.aside")
    place.rename(aside)
    systemctl("daemon-reload")
    try:
        yield place
    finally:
        place.unlink(missing_ok=True)
        aside.rename(place)
        systemctl("daemon-reload")


@contextlib.contextmanager
def missing(gateway: Gateway) -> Iterator[None]:
    with without_file(gateway, GATEWAY):
        yield


@contextlib.contextmanager
def masked(gateway: Gateway) -> Iterator[None]:
    with without_file(gateway, GATEWAY) as place:
        place.symlink_to("/dev/null")
        systemctl("daemon-reload")
        yield


@contextlib.contextmanager
def read_only(gateway: Gateway) -> Iterator[None]:
    folder = gateway.file.parent
    with _mounted(folder, "--bind", "-o", "ro", str(folder)):
        yield


@contextlib.contextmanager
def full(gateway: Gateway) -> Iterator[None]:
    with _small(gateway) as filler:
        _fill(filler)
        yield


@contextlib.contextmanager
def full_after_the_candidate(gateway: Gateway) -> Iterator[None]:
    """There is room for one more text of the file's length."""
    with _small(gateway) as filler:
        _fill(filler)
        needed = (gateway.file.stat().st_size // PAGE + 2) * PAGE
        with filler.open("r+b") as file:
            file.truncate(filler.stat().st_size - needed)
        yield


@contextlib.contextmanager
def socket_stopped(_: Gateway) -> Iterator[None]:
    systemctl("stop", SOCKET)
    yield


@contextlib.contextmanager
def socket_missing(gateway: Gateway) -> Iterator[None]:
    systemctl("stop", SOCKET)
    with without_file(gateway, SOCKET):
        yield


@contextlib.contextmanager
def _small(gateway: Gateway) -> Iterator[Path]:
    """The directory is a small file system with the file in it; the filler's place."""
    folder = gateway.file.parent
    text = gateway.file.read_bytes()
    with _mounted(folder, "-t", "tmpfs", "-o", f"size={ROOM},mode=0700", "tmpfs"):
        gateway.file.write_bytes(text)
        gateway.file.chmod(0o600)
        yield folder / "filler"


@contextlib.contextmanager
def _mounted(folder: Path, *options: str) -> Iterator[None]:
    subprocess.run(["mount", *options, folder], check=True, timeout=30)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True, timeout=30)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * PAGE):
            pass
