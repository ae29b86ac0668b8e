"""The Inspector port: the real one and its fake, then what only the real one can show.

Its processes are real; the cgroup tree is a folder, so that the tests run on every machine.
"""

from __future__ import annotations

import os
import threading

import pytest
from fakes.inspector import FakeInspector
from inspected import GROUP, Tree, one

from agentd.adapters import inspector
from agentd.adapters.inspector import LinuxInspector
from agentd.errors import AgentdError
from agentd.evidence import PathEvidence, ProcessEvidence, UnitEvidence
from agentd.ports_hardening import Inspector
from agentd.types import Scope

PATHS = ("/usr", "/no/such", "/usr")


@pytest.fixture(params=["linux", "fake"])
def port(request: pytest.FixtureRequest, tree: Tree) -> Inspector:
    """With one process of ours in GROUP."""
    tree.make(GROUP, [os.getpid()])
    if request.param == "linux":
        return LinuxInspector(mountinfo=tree.mountinfo())
    made = FakeInspector()
    usr = {"/usr": PathEvidence(True, False, 0o755, 1, 2)}
    made.units[GROUP] = UnitEvidence(GROUP, processes=(ProcessEvidence(os.getpid(), paths=usr),), own_paths=usr)
    return made


async def test_every_process_answers_for_every_path(port: Inspector) -> None:
    evidence = await port.unit(GROUP, PATHS)
    assert evidence.control_group == GROUP
    assert one(evidence).pid == os.getpid()
    for paths in (one(evidence).paths, evidence.own_paths):
        assert set(paths) == set(PATHS)
        assert paths["/usr"].exists
        assert paths["/no/such"] == PathEvidence(exists=False)


@pytest.mark.parametrize("group", ["/user.slice/gone.service", "/", ""])
async def test_a_cgroup_that_is_not_there_is_empty(port: Inspector, group: str) -> None:
    evidence = await port.unit(group, PATHS)
    assert (evidence.control_group, evidence.levels, evidence.processes) == (group, (), ())
    assert set(evidence.own_paths) == set(PATHS)


async def test_the_host_is_of_the_scope_and_the_manager_s_unit_path(port: Inspector) -> None:
    host = await port.host(Scope.SYSTEM, {"UnitPath": ["/etc/systemd/system", "/run/systemd/system"]})
    assert host.scope is Scope.SYSTEM
    assert host.unit_dirs == ("/etc/systemd/system", "/run/systemd/system")


async def test_levels_from_the_unit_up(tree: Tree) -> None:
    tree.make(GROUP, memory__max="1000", memory__events="oom_kill 0", cpu__stat="usage_usec 1", memory__stat="big")
    tree.make("/user.slice", memory__max="max", cpu__stat="usage_usec 9")
    evidence = await LinuxInspector(mountinfo=tree.mountinfo()).unit(GROUP, ())
    assert [level.path for level in evidence.levels] == [GROUP, "/user.slice/app.slice", "/user.slice"]
    assert [level.files["memory.max"] for level in evidence.levels] == ["1000", "4000", "max"]
    own = evidence.levels[0].files
    assert (own["memory.events"], own["cpu.stat"]) == ("oom_kill 0", "usage_usec 1")
    assert own["cgroup.controllers"] == "memory pids"
    assert {"cpu.max", "memory.stat", "cgroup.procs"} & own.keys() == set()
    assert "cpu.stat" not in evidence.levels[2].files, "it would cost a sum over the whole slice"


async def test_a_visible_root_that_is_none_is_a_level(tree: Tree) -> None:
    """In a container the hierarchy begins below the real root, and that cgroup may have limits."""
    tree.make(GROUP)
    (tree.folder / "cgroup.events").write_text("populated 1\n")
    (tree.folder / "memory.max").write_text("500\n")
    evidence = await LinuxInspector(mountinfo=tree.mountinfo()).unit(GROUP, ())
    assert (evidence.levels[-1].path, evidence.levels[-1].files["memory.max"]) == ("/", "500")


async def test_cgroup_v1_has_processes_and_no_levels(tree: Tree) -> None:
    tree.make(GROUP, [os.getpid()])
    only_v1 = LinuxInspector(mountinfo=tree.mountinfo("cgroup", "rw,xattr,name=systemd"))
    evidence = await only_v1.unit(GROUP, ())
    assert [process.pid for process in evidence.processes] == [os.getpid()]
    assert evidence.levels == ()
    host = await only_v1.host(Scope.USER, {"ControlGroup": "/user.slice"})
    assert (host.cgroup, host.delegated, host.available, host.ancestors) == ("v1", (), (), ())


async def test_extended_attributes(tree: Tree) -> None:
    tree.make(GROUP)
    folder = str(tree.folder / GROUP.strip("/"))
    try:
        os.setxattr(folder, "user.delegate", b"1")
    except OSError:
        pytest.fail(f"the file system of {folder} takes no extended attributes: give pytest another --basetemp")
    os.setxattr(folder, "user.other", b"1")
    evidence = await LinuxInspector(mountinfo=tree.mountinfo()).unit(GROUP, ())
    assert evidence.levels[0].xattrs == {"user.delegate": "1"}


async def test_a_kernel_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a path on a network mount whose server is gone; no further thread is given to it."""
    release = threading.Event()
    monkeypatch.setattr(inspector, "read_unit", lambda *_: release.wait(10))
    stuck = LinuxInspector(timeout=0.05)
    with pytest.raises(AgentdError, match="within 0\\.05 s") as first:
        await stuck.unit(GROUP, ())
    with pytest.raises(AgentdError, match="still hangs") as second:
        await stuck.unit(GROUP, ())
    assert first.value.kind == second.value.kind == "inspection-stuck"
    release.set()
    monkeypatch.undo()
    assert stuck._thread is not None
    stuck._thread.join(5)
    assert (await stuck.unit(GROUP, ())).processes == ()


async def test_no_thread_is_kept() -> None:
    before = threading.active_count()
    await LinuxInspector().unit(GROUP, ())
    assert threading.active_count() == before
