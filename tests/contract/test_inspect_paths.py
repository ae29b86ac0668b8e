"""Paths looked up below the root of another process."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from inspected import GROUP, Children, Tree, one

from agentd.adapters.inspector import LinuxInspector
from agentd.evidence import PathEvidence

MOUNTS = """
import os, subprocess, sys
sys.argv = ["", *{arguments!r}]
new, old = sys.argv[1:]
for command in (["mount", "-t", "tmpfs", "none", new], ["mount", "--bind", old, new + "/ro"]):
    os.makedirs(command[-1], exist_ok=True)
    subprocess.run(command, check=True)
os.makedirs(new + "/with blank")
subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", new + "/with blank"], check=True)
subprocess.run(["mount", "-o", "remount,bind,ro", new + "/ro"], check=True)
os.mkdir(new + "/closed", 0)
os.symlink(new + "/ro", new + "/absolute")
os.symlink("../../../../../../../.." + new + "/ro", new + "/relative")
os.symlink("loop", new + "/loop")
"""


async def test_paths_are_those_of_the_process(tree: Tree, children: Children, tmp_path: Path) -> None:
    """Links are followed to where they lead inside, not here."""
    new, old = tmp_path / "new", tmp_path / "old"
    new.mkdir()
    old.mkdir()
    (new / "ro").mkdir()
    code = MOUNTS.format(arguments=(str(new), str(old)))
    tree.make(GROUP, [children.run(code, "unshare", "--user", "--map-root-user", "--mount")])
    names = ("ro", "absolute", "relative", "loop", "closed", "ro/../ro/./", "ro/..", "with blank", "closed/x/y", "ro/")
    evidence = await LinuxInspector(mountinfo=tree.mountinfo()).unit(GROUP, [f"{new}/{name}" for name in names])
    process = one(evidence)
    seen = {name: process.paths[f"{new}/{name}"] for name in names}
    where = old.stat()
    for name in ("ro", "absolute", "relative", "ro/../ro/./", "ro/"):
        assert (seen[name].device, seen[name].inode) == (where.st_dev, where.st_ino), name
        assert seen[name].readonly, name
    assert seen["loop"].problem == "ELOOP"
    assert (seen["closed"].exists, seen["closed"].mode, seen["closed"].readonly) == (True, 0, False)
    assert seen["with blank"].readonly
    assert str(new / "with blank") in {mount.point for mount in process.mounts}
    own = evidence.own_paths
    assert not own[f"{new}/ro"].readonly
    assert own[f"{new}/ro"].inode == (new / "ro").stat().st_ino
    assert not own[f"{new}/absolute"].exists


ROOT = """
import os
os.chroot({root!r})
os.chdir("/")
"""


async def test_no_way_leads_out_of_a_root_directory(tree: Tree, children: Children, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/mark").touch()
    (root / "out").symlink_to("../../../../../etc/mark")
    (root / "absolute").symlink_to("/etc/mark")
    (root / "up").symlink_to("/..")
    (root / "dangling").symlink_to(str(tmp_path))
    (root / "file").touch()
    code = ROOT.format(root=str(root))
    tree.make(GROUP, [children.run(code, "unshare", "--user", "--map-root-user")])
    paths = ("/", "/..", "/out", "/absolute", "/up", "/up/etc/mark", "/dangling", "/file/x", "/file/", str(tmp_path))
    seen = one(
        await LinuxInspector(mountinfo=tree.mountinfo()).unit(GROUP, [*paths, "relative", "/nul\0", "/\ud800"])
    ).paths
    inode = {path: evidence.inode for path, evidence in seen.items()}
    mark = (root / "etc/mark").stat().st_ino
    assert [inode[path] for path in ("/out", "/absolute", "/up/etc/mark")] == [mark] * 3
    assert [inode[path] for path in ("/", "/..", "/up")] == [root.stat().st_ino] * 3
    for path in ("/dangling", "/file/x", "/file/", str(tmp_path)):
        assert seen[path] == PathEvidence(exists=False), path
    assert [seen[path].problem for path in ("relative", "/nul\0", "/\ud800")] == ["EINVAL"] * 3


ROOTS = """
import os, time
if os.fork() == 0:
    os.chroot({root!r})
    open("/there", "w").close()
    time.sleep(600)
while not os.path.exists({root!r} + "/there"):
    time.sleep(0.005)
"""


async def test_two_roots_in_one_namespace(tree: Tree, children: Children, tmp_path: Path) -> None:
    """What is looked at once is so only for processes that really see the same."""
    root = tmp_path / "root"
    root.mkdir()
    first = children.run(ROOTS.format(root=str(root)), "unshare", "--user", "--map-root-user", "--mount")
    second = int(Path(f"/proc/{first}/task/{first}/children").read_text())
    try:
        tree.make(GROUP, [first, second])
        evidence = await LinuxInspector(mountinfo=tree.mountinfo()).unit(GROUP, ["/there", "/usr"])
        seen = {process.pid: process.paths for process in evidence.processes}
        assert (seen[first]["/there"].exists, seen[first]["/usr"].exists) == (False, True)
        assert (seen[second]["/there"].exists, seen[second]["/usr"].exists) == (True, False)
    finally:
        os.kill(second, signal.SIGKILL)


async def test_looking_leaves_nothing_open(tree: Tree) -> None:
    tree.make(GROUP, [os.getpid()])
    inspected = LinuxInspector(mountinfo=tree.mountinfo())
    paths = ["/usr/bin/../lib", "/no/such", "/proc/self/exe", "/etc/hostname/x", "relative"]
    await inspected.unit(GROUP, paths)
    before = len(list(Path("/proc/self/fd").iterdir()))
    await inspected.unit(GROUP, paths)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
