"""What the kernel does to a service of the user's manager: its limits, and the walls of its sandbox."""

from __future__ import annotations

from pathlib import Path

import pytest
from system.guest.services import Inside, limits, profile, show, systemctl

HOME = Path("/home/ai")
FUSE, VIDEO = "/dev/fuse", "/dev/card-of-video"
"""Stand-ins for a GPU's device nodes: one for everybody, one for the group video."""
BUS = "/run/user/1000/bus"


# -- limits ---------------------------------------------------------------------------------------------------


def test_a_service_over_its_memory_limit_is_killed(tmp_path: Path) -> None:
    service = Inside("memory", ["eat:120"])
    limits(service.unit, "gateway", tmp_path, '[services.it.hardening]\nmemory_max = "64M"\nunset = ["MemoryHigh"]\n')
    assert service.run() == {}
    assert show(service.unit, "Result") == "oom-kill"
    assert Inside("memory-free", ["eat:120"]).run() == {"eat:120": "120"}


def test_the_kernel_counts_the_kill() -> None:
    limits = ("MemoryMax=64M", "MemorySwapMax=0", "OOMPolicy=continue")
    found = Inside("events", ["child_eats:120", "cgroup:memory.events"], *limits).run()
    assert found["child_eats:120"] == "SIGKILL"
    events = dict(line.split() for line in found["cgroup:memory.events"].splitlines())
    assert int(events["oom_kill"]) == 1
    assert int(events["max"]) > 0


def test_a_fork_bomb_stops_at_the_limit(tmp_path: Path) -> None:
    service = Inside("forks", ["fork:60", "cgroup:pids.events"])
    limits(service.unit, "gateway", tmp_path, "[services.it.hardening]\ntasks_max = 25\n")
    found = service.run()
    assert found["fork:60"] == "24 EAGAIN"
    assert int(found["cgroup:pids.events"].removeprefix("max ")) >= 1
    assert Inside("forks-free", ["fork:60"]).run() == {"fork:60": "60 ok"}


def test_a_cpu_quota_holds(tmp_path: Path) -> None:
    """For more than three seconds, within 15 percent; how much less it may be is the host's business."""
    service = Inside("cpu", ["spin:3.5"])
    limits(service.unit, "gateway", tmp_path, '[services.it.hardening]\ncpu_quota = "40%"\n')
    share, throttled = map(float, service.run()["spin:3.5"].split())
    assert 0.40 * 0.5 < share < 0.40 * 1.15
    assert throttled > 20
    free = float(Inside("cpu-free", ["spin:2"]).run()["spin:2"].split()[0])
    assert free > 0.6


# -- the sandbox ----------------------------------------------------------------------------------------------

ACTS = {
    "write:/usr/open-to-all/file": "EROFS",
    "write:/home/ai/data/file": "EROFS",
    "read:/home/ai/.ssh/id_test": "EACCES",
    f"connect:{BUS}": "EACCES",
    "escape:/home/ai/data/escaped": "refused",
    "write:/tmp/file": "ok",
}


@pytest.mark.parametrize(
    ("role", "more"),
    [
        ("gateway", {f"device:{FUSE}": "ENOENT", f"device:{VIDEO}": "ENOENT", "write:/home/ai/.ollama/file": "EROFS"}),
        ("runtime", {f"device:{FUSE}": "ok", f"device:{VIDEO}": "ok", "write:/home/ai/.ollama/file": "ok"}),
    ],
)
def test_what_a_profile_forbids_and_leaves(role: str, more: dict[str, str], tmp_path: Path) -> None:
    wanted = ACTS | more
    service = Inside(f"walls-{role}", list(wanted))
    profile(service.unit, role, tmp_path)
    assert service.run() == wanted
    assert not (HOME / "data/escaped").exists()


def test_without_a_profile_all_of_it_is_possible() -> None:
    """Otherwise the test above would prove nothing."""
    acts = [*ACTS, f"device:{FUSE}", f"device:{VIDEO}", "write:/home/ai/.ollama/file"]
    assert Inside("no-walls", acts).run() == dict.fromkeys(acts, "ok")
    assert (HOME / "data/escaped").exists()
    (HOME / "data/escaped").unlink()


# -- the manager ------------------------------------------------------------------------------------------------


def test_limits_are_delegated_to_the_user() -> None:
    manager = Path("/sys/fs/cgroup") / systemctl("show", "-P", "ControlGroup").lstrip("/")
    assert set((manager.parent / "cgroup.subtree_control").read_text().split()) >= {"cpu", "memory", "pids"}
