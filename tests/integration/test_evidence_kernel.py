"""What the kernel says of real units."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.looked import SLEEP, looking, seen, started
from userunits import UserUnits, manager_pid

from agentd.adapters.inspector import LinuxInspector
from agentd.adapters.systemd import SystemdControl
from agentd.adapters.unit_files import LocalUnitFiles
from agentd.errors import AgentdError
from agentd.managers.hardening.look import Looker
from agentd.types import JobResult, Scope


@pytest.fixture
def units() -> Iterator[UserUnits]:
    made = UserUnits(f"look{os.getpid()}")
    yield made
    made.remove()


SANDBOXED = (
    *("PrivateUsers=yes", "ProtectSystem=strict", "PrivateTmp=yes", "PrivateDevices=yes", "ReadWritePaths=/srv"),
    *("InaccessiblePaths=/etc/passwd", "NoNewPrivileges=yes", "RestrictSUIDSGID=yes", "CapabilityBoundingSet="),
    *("OOMScoreAdjust=500", "CPUAffinity=0", "UMask=0027", "ProtectHostname=yes", "CPUSchedulingPolicy=batch"),
    *("LimitNOFILE=256", "Nice=5"),
)
PATHS = ("/usr", "/etc/passwd", "/tmp", "/dev", "/srv", "/var/lib", "/no/such")


async def test_a_sandbox_that_works(units: UserUnits) -> None:
    if os.getuid() == 0:  # The system's manager would have made it; the one of a plain user makes its own.
        Path("/run/systemd/inaccessible").mkdir(exist_ok=True)
        Path("/run/systemd/inaccessible/reg").touch(0)
    unit = units.service("strict", "Type=exec", SLEEP, *SANDBOXED)
    async with looking() as (systemd, looker):
        await started(systemd, unit)
        view, evidence = await seen(looker, unit, *PATHS)
    assert evidence is not None
    (process,) = evidence.processes
    own, paths = evidence.own_paths, process.paths
    assert process.pid == view.state.main_pid
    assert abs(process.started - view.started) < 1
    assert process.problem == ""
    assert process.status["NoNewPrivs"] == "1"
    assert process.status["Seccomp"] == "2"
    assert int(process.status["CapBnd"], 16) == 0
    assert process.status["Cpus_allowed_list"] == "0"
    assert process.status["Umask"] == "0027"
    assert process.uid_map is not None
    assert process.uid_map.endswith(" 1")
    assert (process.nice, process.oom_score_adj, process.scheduler) == (5, 500, 3)
    assert process.limits["Max open files"] == ("256", "256")
    shared = process.namespaces.items() & evidence.own_namespaces.items()
    assert {name for name, _ in shared} == {"cgroup", "ipc", "net", "pid", "time"}
    assert (paths["/usr"].readonly, paths["/var/lib"].readonly, paths["/srv"].readonly) == (True, True, False)
    assert not own["/usr"].readonly
    assert (paths["/etc/passwd"].exists, paths["/etc/passwd"].mode) == (True, 0)
    assert own["/etc/passwd"].mode != 0
    for path in ("/tmp", "/dev"):
        assert (paths[path].device, paths[path].inode) != (own[path].device, own[path].inode)
    assert not paths["/no/such"].exists
    assert any(mount.point == "/" and "ro" in mount.options for mount in process.mounts)


async def test_a_unit_without_a_sandbox_sees_what_we_see(units: UserUnits) -> None:
    unit = units.service("plain", SLEEP)
    async with looking() as (systemd, looker):
        await started(systemd, unit)
        _, evidence = await seen(looker, unit, *PATHS)
    assert evidence is not None
    (process,) = evidence.processes
    assert process.paths == evidence.own_paths
    assert process.namespaces == evidence.own_namespaces
    assert process.uid_map == " ".join(Path("/proc/self/uid_map").read_text().split())
    assert 0 < evidence.cpu_seconds < 0.05


async def test_nothing_to_look_at(units: UserUnits) -> None:
    never = units.service("never", SLEEP)
    over = units.service("over", "Type=oneshot", "RemainAfterExit=yes", "ExecStart=/bin/true")
    async with looking() as (systemd, looker):
        await started(systemd, over)
        view, evidence = await seen(looker, never, "/usr")
        assert (view.started, evidence) == (0.0, None)
        view, evidence = await seen(looker, over, "/usr")
        assert (view.started, evidence) == (0.0, None)
        view, evidence = await seen(looker, f"{units.prefix}-none.service")
        assert (view.state.exists, view.files, evidence) == (False, (), None)


async def test_every_process_of_a_unit_and_its_levels(units: UserUnits) -> None:
    command = "ExecStart=/bin/sh -c 'for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; systemd-notify --ready; wait'"
    unit = units.service("many", "Type=notify", "NotifyAccess=all", command, "ManagedOOMPreference=avoid")
    async with looking() as (systemd, looker):
        await started(systemd, unit)
        view, evidence = await seen(looker, unit, "/usr")
    assert evidence is not None
    group = view.state.control_group
    assert len([process for process in evidence.processes if process.comm == "sleep"]) == 9
    paths = [level.path for level in evidence.levels]
    assert paths[0] == group
    assert paths[1] == group.rpartition("/")[0]
    assert evidence.levels[0].files["cgroup.events"].startswith("populated 1")
    assert "cgroup.controllers" in evidence.levels[0].files
    assert evidence.levels[0].xattrs["user.oomd_avoid"] == "1"


async def test_processes_that_come_and_go_meanwhile(units: UserUnits) -> None:
    """No half-read process is ever shown."""
    unit = units.service("churn", "ExecStart=/bin/sh -c 'while :; do /bin/true & /bin/true; done'")
    async with looking() as (systemd, looker):
        await started(systemd, unit)
        host = await looker.host(Scope.USER)
        view = await looker.view(unit, host)
        for _ in range(50):
            evidence = await looker.evidence(view, ["/usr"])
            assert evidence is not None
            for process in evidence.processes:
                assert process.problem == ""
                assert process.status["NoNewPrivs"] == "0"
                assert process.limits
                assert process.paths["/usr"].exists
                assert "mnt" in process.namespaces


async def test_two_hundred_threads(units: UserUnits) -> None:
    code = (
        "import threading, time, subprocess; "
        "[threading.Thread(target=time.sleep, args=(1000,), daemon=True).start() for _ in range(200)]; "
        "subprocess.run(['systemd-notify', '--ready']); time.sleep(1000)"
    )
    unit = units.service("threads", "Type=notify", "NotifyAccess=all", f'ExecStart=/usr/bin/python3 -c "{code}"')
    async with looking() as (systemd, looker):
        await started(systemd, unit)
        _, evidence = await seen(looker, unit, *PATHS)
    assert evidence is not None
    (process,) = evidence.processes
    assert process.status["Threads"] == "201"
    assert evidence.cpu_seconds < 0.05


async def test_the_host() -> None:
    async with looking() as (systemd, looker):
        manager = await systemd.manager()
        host = await looker.host(Scope.USER)
        assert await looker.host(Scope.USER) is host
        looker.forget()
        assert await looker.host(Scope.USER) is not host
    assert host.scope is Scope.USER
    assert str(manager["Version"]).startswith(str(host.systemd))
    assert host.manager_pid == manager_pid()
    assert host.manager_control_group == f"{manager['ControlGroup']}/init.scope"
    assert host.uid == os.getuid()
    assert host.home == os.environ["HOME"]
    assert host.runtime_dir == os.environ["XDG_RUNTIME_DIR"]
    assert list(host.unit_dirs) == manager["UnitPath"]
    assert host.kernel == os.uname().release
    assert host.memory_total > 0
    assert host.hard_limits["Max open files"]
    assert host.manager_nice is not None
    assert host.manager_oom_score_adj is not None
    assert host.manager_started > 0
    assert host.ancestors[0].path == manager["ControlGroup"]
    assert host.cgroup in ("v2", "hybrid")
    assert host.userns_allowed is True, host.userns_reason
    assert host.linger is False
    assert host.sysctls["fs.nr_open"].isdigit()


async def test_a_bus_that_is_away_is_said(units: UserUnits) -> None:
    systemd = SystemdControl(address="unix:path=/no/such/bus")
    await systemd.start_up(0.01)
    looker = Looker(systemd, systemd, LinuxInspector(), LocalUnitFiles())
    try:
        for asked in (
            looker.host(Scope.USER),
            systemd.properties("a.service"),
            systemd.start_transient("a.service", []),
        ):
            with pytest.raises(AgentdError) as caught:
                await asked
            assert caught.value.kind == "bus-down"
    finally:
        await systemd.close()


OWN = ("NoNewPrivileges=", "LockPersonality=", "MemoryDenyWriteExecute=", "Restrict", "SystemCall")
UNDER_A_FILTER = """
import asyncio, os, sys
from agentd.adapters.inotify import Inotify
from agentd.adapters.inspector import LinuxInspector
from agentd.types import Scope

async def main(folder, group, manager_group):
    inspector = LinuxInspector()
    evidence = await inspector.unit(group, ["/usr", "/bin/sh"])
    (process,) = evidence.processes
    host = await inspector.host(Scope.USER, {"ControlGroup": manager_group})
    watch, told = Inotify(), asyncio.get_running_loop().create_future()
    watch.watch([folder], lambda path: told.done() or told.set_result(path))
    open(folder + "/told", "w").close()
    await asyncio.wait_for(told, 5)
    watch.close()
    looked = [process.problem, process.paths == evidence.own_paths, process.namespaces == evidence.own_namespaces]
    print(*looked, process.paths["/usr"].exists, process.nice, host.userns_allowed, host.manager_pid, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_agentd_s_own_sandbox_lets_it_look(units: UserUnits, tmp_path: Path) -> None:
    """Its system call filter, and no namespaces."""
    unit = units.service("plain", SLEEP)
    text = (Path(__file__).parents[2] / "units/agentd.service").read_text()
    hardened = [line for line in text.splitlines() if line.startswith(OWN)]
    assert len(hardened) >= 9
    async with looking() as (systemd, looker):
        await started(systemd, unit)
        host = await looker.host(Scope.USER)
        group = (await systemd.show(unit)).control_group
        (tmp_path / "look.py").write_text(UNDER_A_FILTER)
        arguments = f"{tmp_path} {group} {host.manager_control_group.removesuffix('/init.scope')}"
        command = f"{sys.executable} {tmp_path}/look.py {arguments}"
        lines = (f"ExecStart={command}", f"StandardOutput=file:{tmp_path}/out", "StandardError=inherit")
        paths = f"Environment=PYTHONPATH={Path(__file__).parents[2]}"
        looks = units.service("looks", "Type=oneshot", "TimeoutStartSec=20", paths, *lines, *hardened)
        await systemd.reload()
        result = await (await systemd.start(looks)).wait(30)
    said = (tmp_path / "out").read_text()
    assert result is JobResult.DONE, said
    assert said.split() == ["True", "True", "True", "0", "True", str(host.manager_pid)]
