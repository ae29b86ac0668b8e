"""Real processes as the inspector finds them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from inspected import GROUP, Children, Tree, one

from agentd.adapters.inspect_process import Reader
from agentd.adapters.inspector import LinuxInspector
from agentd.evidence import PathEvidence


async def test_a_process_as_the_kernel_shows_it(tree: Tree, children: Children) -> None:
    code = """
import ctypes, os, resource
os.nice(5)
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 256))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
open("/proc/self/oom_score_adj", "w").write("300")
os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.umask(0o27)
ctypes.CDLL(None).prctl(15, b"a) (b c")
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
"""
    before = time.time()
    tree.make(GROUP, [children.run(code)])
    process = one(await LinuxInspector(mountinfo=tree.mountinfo()).unit(GROUP, ()))
    assert process.comm == "a) (b c"
    assert before - 1 <= process.started <= time.time() + 1
    assert process.nice == os.getpriority(os.PRIO_PROCESS, 0) + 5
    assert (process.scheduler, process.oom_score_adj) == (3, 300)
    assert process.limits["Max open files"] == ("128", "256")
    assert process.limits["Max core file size"] == ("0", "0")
    assert process.limits["Max cpu time"] == ("unlimited", "unlimited")
    assert (process.status["NoNewPrivs"], process.status["Umask"]) == ("1", "0027")
    assert process.status["Cpus_allowed_list"] == str(min(os.sched_getaffinity(0)))
    assert process.uid_map == " ".join(Path("/proc/self/uid_map").read_text().split("\n")[0].split())
    assert process.problem == ""


async def test_namespaces_and_mounts_of_its_own(tree: Tree, children: Children) -> None:
    pid = children.run(
        "", "unshare", "--user", "--map-root-user", "--mount", "--uts", "--ipc", "--propagation", "slave"
    )
    tree.make(GROUP, [pid])
    evidence = await LinuxInspector(mountinfo=tree.mountinfo()).unit(GROUP, ["/usr"])
    process, own = one(evidence), evidence.own_namespaces
    different = {name for name in own if process.namespaces[name] != own[name]}
    assert different == {"user", "mnt", "uts", "ipc"}
    assert process.uid_map == f"0 {os.getuid()} 1"
    assert any(mount.point == "/proc" and mount.fstype == "proc" for mount in process.mounts)


async def test_processes_that_are_gone_are_left_out(tree: Tree, children: Children) -> None:
    zombie, alive = children.run(""), children.run("")
    gone = children.run("")
    children.kill(zombie, reap=False)
    children.kill(gone)
    tree.make(GROUP, [zombie, alive, gone, 0])
    evidence = await LinuxInspector(mountinfo=tree.mountinfo()).unit(GROUP, ["/usr"])
    assert [process.pid for process in evidence.processes] == [alive]


async def test_a_process_whose_main_thread_has_ended(tree: Tree, children: Children) -> None:
    code = """
import ctypes, threading, time
def wait():
    while open("/proc/self/stat").read().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.005)
    print("ready", flush=True)
    time.sleep(600)
threading.Thread(target=wait).start()
ctypes.CDLL(None).pthread_exit(None)
"""
    pid = children.run(code)
    tree.make(GROUP, [pid])
    process = one(await LinuxInspector(mountinfo=tree.mountinfo()).unit(GROUP, ["/usr"]))
    assert process.problem.startswith("its root directory cannot be opened: ")
    assert not process.paths["/usr"].exists
    assert process.paths["/usr"].problem


async def test_all_processes_below_the_unit(tree: Tree, children: Children) -> None:
    """A service that was delegated its cgroup makes others below."""
    pids = sorted(children.run("") for _ in range(3))
    tree.make(GROUP, pids[:1])
    tree.make(GROUP + "/inner", pids[1:2])
    tree.make(GROUP + "/inner/most", pids[2:])
    evidence = await LinuxInspector(mountinfo=tree.mountinfo()).unit(GROUP, ())
    assert [process.pid for process in evidence.processes] == pids


async def test_a_process_that_hides_itself(children: Children) -> None:
    """PR_SET_DUMPABLE 0: only root and who may trace it can look through its root."""
    pid = children.run("import ctypes\nctypes.CDLL(None).prctl(4, 0, 0, 0, 0)")
    (process,) = Reader(["/usr"]).read_all([pid])
    if os.getuid() == 0:
        assert process.problem == ""
        assert process.paths["/usr"].exists
    else:
        assert process.problem == "its root directory cannot be opened: EACCES"
        assert process.paths["/usr"] == PathEvidence(exists=False, problem="EACCES")
        assert process.namespaces == {}
    assert process.status["NoNewPrivs"] == "0"
    assert process.limits


async def test_fifty_processes_cost_little(tree: Tree, children: Children) -> None:
    """What all of them must see alike is looked at once. CPU time of the one thread, so that others do not count."""
    code = "import os\nfor _ in range(49):\n    if os.fork() == 0:\n        import time; time.sleep(600)"
    first = children.run(code)
    listed = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    try:
        tree.make(GROUP, [first, *map(int, listed)])
        paths = [f"/usr/lib/{number}" for number in range(20)]
        evidence = await LinuxInspector(mountinfo=tree.mountinfo()).unit(GROUP, paths)
        assert len(evidence.processes) == 50
        assert len({id(process.paths) for process in evidence.processes}) == 1
        assert 0 < evidence.cpu_seconds < 0.2
    finally:
        for pid in listed:
            os.kill(int(pid), signal.SIGKILL)
