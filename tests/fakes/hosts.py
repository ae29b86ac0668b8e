"""A host as it is found after an installation of Debian 12, and drop-ins that ask something of it."""

from __future__ import annotations

from agentd.core.dropin import DropIn, Purpose
from agentd.evidence import CgroupLevel, HostEvidence

GIB = 2**30


def level(path: str, **files: str) -> CgroupLevel:
    """`memory_max="1"` stands for the file memory.max."""
    return CgroupLevel(path, {name.replace("_", "."): text for name, text in files.items()})


def dropin(*lines: str, unit: str = "a.service", purpose: Purpose = Purpose.RESOURCES) -> DropIn:
    return DropIn(unit, purpose, "\n".join(("[Service]", *lines)) + "\n")


USER_LEVEL = level(
    "/user.slice/user-1000.slice/user@1000.service", cgroup_controllers="cpu memory pids", memory_max="max"
)
HOST = HostEvidence(
    systemd=252,
    kernel="6.1.0-50-cloud-amd64",
    uid=1000,
    delegated=("cpu", "memory", "pids"),
    available=("cpu", "cpuset", "io", "memory", "pids"),
    userns_allowed=True,
    linger=True,
    memory_total=16 * GIB,
    hard_limits={
        "Max open files": "1048576",
        "Max locked memory": "2084827136",
        "Max nice priority": "0",
        "Max realtime priority": "0",
    },
    manager_oom_score_adj=100,
    manager_nice=0,
    manager_pid=700,
    manager_started=1000.0,
    features="+PAM +SECCOMP -BPF_FRAMEWORK",
    ancestors=(USER_LEVEL,),
    sysctls={"fs.nr_open": "1048576"},
)
"""The user lingers already."""
