"""Two hundred switches in one run: never two models at once, nothing left behind, nothing that grows."""

from __future__ import annotations

import os
import re
import shutil
import socket
import time
from pathlib import Path

import pytest
from integration.stack import PORTS, Stack, unit_of
from integration.watcher import Watcher
from userunits import systemctl

SWITCHES = 200
WARM_UP = 50
GROWTH = 8 * 1024**2
"""Bytes that 150 more switches may add: the history in memory, which is bounded (10 kB a switch), and up to a megabyte
for every thread that the pool gets meanwhile, which the allocator gives an arena of its own."""
THREADS = 3 + min(32, (os.cpu_count() or 1) + 4)
"""The main one, the journal's, one that inspects; the loop's own pool grows to its bound as it is needed."""


class Footprint:
    """What agentd holds, as the kernel says."""

    def __init__(self, pid: int) -> None:
        proc = Path(f"/proc/{pid}")
        pss = re.search(r"^Pss:\s+(\d+) kB", (proc / "smaps_rollup").read_text(), re.MULTILINE)
        assert pss is not None
        self.pss = int(pss[1]) * 1024
        self.fds = sorted(_link(fd) for fd in (proc / "fd").iterdir())
        self.threads = len(list((proc / "task").iterdir()))


def _link(fd: Path) -> str:
    try:
        return re.sub(r"\d+", "N", str(fd.readlink()))
    except OSError:
        return "gone"


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def quiet_footprint(stack: Stack) -> Footprint:
    """After the probes that follow a switch have closed their connections: the smallest of a few looks."""
    looks = []
    for _ in range(8):
        looks.append(Footprint(stack.pid("agentd.service")))
        time.sleep(0.25)  # between two looks at something that no event tells of
    return min(looks, key=lambda look: (len(look.fds), look.pss))


@pytest.mark.timeout(600)
def test_two_hundred_switches(stack: Stack) -> None:
    agentd = stack.pid("agentd.service")
    warm = None
    begun = time.monotonic()
    with Watcher(stack) as seen:
        for number in range(SWITCHES):
            target, other = ("dolphin", "qwen") if number % 2 == 0 else ("qwen", "dolphin")
            change = stack.ended(stack.post("/v1/switch", target=target))
            assert (change["outcome"], change["exit_code"]) == ("done", 0), change["message"]
            up = stack.models_up()
            assert list(up) == [target], f"after switch {number} to {target}: {up}"
            assert set(stack.claims()) <= up[target]
            assert not listens(PORTS[other])
            assert f"this is {target} speaking" in stack.complete(target)
            if number == WARM_UP - 1:
                warm = quiet_footprint(stack)
        end = quiet_footprint(stack)
    seen.check()
    assert seen.starts == {"qwen": SWITCHES // 2 + 1, "dolphin": SWITCHES // 2}
    assert stack.pid("agentd.service") == agentd
    assert stack.open_changes() == []
    assert warm is not None
    print(f"{SWITCHES} switches in {time.monotonic() - begun:.0f} s, {seen.samples} looks at the cgroups; Pss after "
          f"{WARM_UP}: {warm.pss / 1024**2:.1f} MiB, after all: {end.pss / 1024**2:.1f} MiB; {len(end.fds)} files, "
          f"{end.threads} threads")  # fmt: skip
    assert len(end.fds) <= len(warm.fds), f"open files grew: {warm.fds} -> {end.fds}"
    assert end.threads <= THREADS
    assert end.pss - warm.pss < GROWTH


@pytest.mark.timeout(180)
def test_a_unit_that_systemd_never_forgets_does_not_hit_its_start_limit(stack: Stack) -> None:
    """Wanted by a target, a unit keeps its count of starts: five in half an hour are allowed, crashes or not."""
    wants = stack.units / "default.target.wants"
    wants.mkdir()
    for name in PORTS:
        (wants / unit_of(name)).symlink_to(stack.units / unit_of(name))
    systemctl("daemon-reload")
    try:
        for number in range(14):
            target = "dolphin" if number % 2 == 0 else "qwen"
            code, change = stack.switch(target)
            assert code == 0, change["message"]
    finally:
        shutil.rmtree(wants)
