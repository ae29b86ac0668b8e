"""The host of the private user manager as it is found, against what the kernel does for a unit there.

That manager lives on cgroup v2 without controllers, wherever the machine keeps them in v1; on a machine with v2
alone it has what was delegated. What is found must be true on both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from userunits import UserUnits, manager_pid, systemctl

from agentd.adapters.user_manager import account, look
from agentd.core.dropin import DropIn, Purpose
from agentd.core.hostcheck import host_findings
from agentd.core.hostneeds import CONTROLLERS
from agentd.evidence import HostEvidence
from agentd.findings import Finding, Verdict

LIMITS = {
    "memory": ("MemoryMax=64M", "memory.max"),
    "cpu": ("CPUQuota=50%", "cpu.max"),
    "pids": ("TasksMax=50", "pids.max"),
    "io": ("IOWeight=50", "io.weight"),
    "cpuset": ("AllowedCPUs=0", "cpuset.cpus"),
}
"""Controller -> a directive that asks for it, and the file by which the kernel enforces it."""


@pytest.fixture
def units() -> Iterator[UserUnits]:
    found = UserUnits("host")
    yield found
    found.remove()


@pytest.fixture
def host() -> HostEvidence:
    return look(account(str(os.getuid())))


def declared(*lines: str) -> list[DropIn]:
    return [DropIn("host-limited.service", Purpose.RESOURCES, "\n".join(("[Service]", *lines)) + "\n")]


def test_a_controller_counts_as_there_only_when_a_unit_gets_it(units: UserUnits) -> None:
    """The unit asks for all of them and runs, so that systemd has enabled what it can."""
    lines = [line for line, _ in LIMITS.values()]
    unit = units.service("limited", "ExecStart=/bin/sleep 1000", *lines)
    systemctl("daemon-reload")
    systemctl("start", unit)
    group = Path("/sys/fs/cgroup" + systemctl("show", "-P", "ControlGroup", unit))
    assert (group / "cgroup.procs").read_text().strip()
    host = look(account(str(os.getuid())))
    found = {f.aspect: f for f in host_findings(host, declared(*lines))}
    for controller, (_, file) in LIMITS.items():
        finding = found[f"controller {controller}"]
        assert (finding.verdict is Verdict.EFFECTIVE) == (group / file).exists(), finding
        if finding.verdict is not Verdict.EFFECTIVE:
            _explained(finding, host)
    assert LIMITS.keys() == CONTROLLERS.keys()


def _explained(finding: Finding, host: HostEvidence) -> None:
    assert finding.verdict is Verdict.NOT_EFFECTIVE
    assert "is not delegated" in finding.cause
    if host.cgroup != "v2":
        assert f"cgroup {host.cgroup}" in finding.cause
        assert "reboot" in finding.fix
    assert finding.declared.endswith("(host-limited.service)")


def test_the_bus_and_the_files_tell_the_same_manager(host: HostEvidence) -> None:
    assert host.manager_pid == manager_pid()
    assert host.manager_control_group == systemctl("show", "-P", "ControlGroup") + "/init.scope"
    rows = Path(f"/proc/{host.manager_pid}/limits").read_text().splitlines()[1:]
    limits = {row[:26].strip(): row[26:].split()[1] for row in rows}
    assert dict(host.hard_limits) == limits
    assert host.manager_started > 0


def test_a_limit_that_is_found_to_be_cut_really_is(units: UserUnits, host: HostEvidence) -> None:
    unit = units.service("files", "ExecStart=/bin/sleep 1000", "LimitNOFILE=2147483584")
    systemctl("daemon-reload")
    systemctl("start", unit)
    pid = systemctl("show", "-P", "MainPID", unit)
    line = next(row for row in Path(f"/proc/{pid}/limits").read_text().splitlines() if row.startswith("Max open files"))
    (finding,) = [f for f in host_findings(host, declared("LimitNOFILE=2147483584")) if f.aspect == "limit NOFILE"]
    assert finding.verdict is Verdict.NOT_EFFECTIVE
    assert finding.effective == line.split()[4]


def test_the_command_looks_at_the_running_manager() -> None:
    name = account(str(os.getuid())).name
    argv = [sys.executable, "-m", "agentd.cli.main", "host-setup", "--json", "--user", name]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["uid"] == os.getuid()
    aspects = {finding["aspect"]: finding["verdict"] for finding in found["findings"]}
    assert aspects["lingering"] == "not-effective", "there is no logind here"
    assert not any("does not run" in note for note in found["notes"])
    assert [step["commands"] for step in found["steps"]][:1] == [[f"loginctl enable-linger {name}"]]
