"""A unit to be judged: its files, what systemd says of it, and processes that have a sandbox or have not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agentd.core.directives import Kind, lookup
from agentd.core.dropin import DropIn, Purpose
from agentd.core.judge import judge
from agentd.core.loaded_values import INFINITY
from agentd.core.unitfile import Setting, merge
from agentd.evidence import (
    CgroupLevel,
    HostEvidence,
    Mount,
    PathEvidence,
    ProcessEvidence,
    UnitEvidence,
    UnitFile,
    UnitView,
)
from agentd.findings import Finding, Verdict
from agentd.types import ActiveState, Scope, UnitState

UNIT = "web.service"
DIR = "/home/ai/.config/systemd/user"
FRAGMENT = f"{DIR}/{UNIT}"
DROPIN = f"{DIR}/{UNIT}.d/90-agentd-security.conf"
OWN_NAMESPACES = {name: f"{name}:[1]" for name in ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")}
LIMITS = {"Max open files": ("1024", "1048576"), "Max locked memory": ("8388608", "8388608"),
          "Max core file size": ("0", "unlimited")}  # fmt: skip
FOLDERS = ("/", "/usr", "/boot", "/etc", "/var", "/opt", "/home", "/root", "/run/user", "/tmp", "/var/tmp", "/dev",
           "/proc/sys", "/proc/kmsg", "/usr/lib/modules", "/sys/fs/cgroup", "/srv/data", "/srv/from")  # fmt: skip
OWN_PATHS = {path: PathEvidence(True, mode=0o755, device=1, inode=n) for n, path in enumerate(FOLDERS, 10)}
OWN_PATHS["/efi"] = PathEvidence(False)
CGROUP = {
    "memory.max": "max", "memory.high": "max", "memory.swap.max": "max", "memory.low": "0", "memory.min": "0",
    "memory.oom.group": "0", "memory.current": "1", "pids.max": "max", "cpu.max": "max 100000", "cpu.weight": "100",
    "cpu.idle": "0", "cpu.stat": "usage_usec 1",
}  # fmt: skip
GROUP = "/user.slice/user-1000.slice/user@1000.service/app.slice/web.service"
NOW = 1_000_000.0


def host(scope: Scope = Scope.USER, systemd: int = 252, **more: Any) -> HostEvidence:
    user = scope is Scope.USER
    usual: dict[str, Any] = {
        "uid": 1000 if user else 0,
        "home": "/home/ai" if user else "/root",
        "runtime_dir": "/run/user/1000" if user else "/run",
        "delegated": ("cpu", "memory", "pids"),
        "available": ("cpuset", "cpu", "io", "memory", "pids"),
        "userns_allowed": True,
        "hard_limits": {"Max open files": "1048576", "Max locked memory": "8388608"} if user else {},
        "manager_oom_score_adj": 100 if user else 0,
        "manager_nice": 0,
        "sysctls": {"fs.nr_open": "1048576"},
        "features": "+SECCOMP -BPF_FRAMEWORK" if systemd == 252 else "+SECCOMP +BPF_FRAMEWORK",
        "unit_dirs": (DIR,),
    }
    return HostEvidence(scope=scope, systemd=systemd, **{**usual, **more})


def bare(pid: int = 7, comm: str = "web", **more: Any) -> ProcessEvidence:
    """A process without any protection, which shares every namespace with the reader."""
    usual: dict[str, Any] = {
        "started": NOW,
        "uid_map": "0 0 4294967295",
        "status": {
            "NoNewPrivs": "0", "Seccomp": "0", "Seccomp_filters": "0", "CapBnd": "000001ffffffffff",
            "CapAmb": "0000000000000000", "Cpus_allowed_list": "0-3", "Umask": "0022", "Uid": "1000\t1000\t1000\t1000",
        },
        "limits": LIMITS,
        "oom_score_adj": 200,
        "nice": 0,
        "scheduler": 0,
        "namespaces": OWN_NAMESPACES,
        "mounts": (Mount("/", "ext4", ("rw",), ("rw",), "/"), Mount("/proc", "proc", ("rw",), ("rw",), "/")),
        "paths": OWN_PATHS,
    }  # fmt: skip
    return ProcessEvidence(pid=pid, comm=comm, **{**usual, **more})


def status(process: ProcessEvidence, **values: str) -> ProcessEvidence:
    return replace(process, status={**process.status, **values})


def namespaced(process: ProcessEvidence, *names: str) -> ProcessEvidence:
    return replace(process, namespaces={**process.namespaces, **{name: f"{name}:[2]" for name in names}})


def seen(process: ProcessEvidence, *paths: str, **change: Any) -> ProcessEvidence:
    """`paths` looked at from inside are changed that way: readonly=True, mode=0, device=9."""
    known = {path: process.paths.get(path, PathEvidence(True, mode=0o755, device=1, inode=99)) for path in paths}
    return replace(process, paths={**process.paths, **{p: replace(e, **change) for p, e in known.items()}})


def mounted(process: ProcessEvidence, *mounts: Mount) -> ProcessEvidence:
    return replace(process, mounts=(*process.mounts, *mounts))


def sandboxed(process: ProcessEvidence, *, userns: bool = True) -> ProcessEvidence:
    """With mount (and user) namespaces of its own, in which nothing is changed yet."""
    process = namespaced(process, "mnt", *(("user",) if userns else ()))
    return replace(process, uid_map="1000 1000 1") if userns else process


@dataclass(frozen=True)
class Unit:
    """What is judged; `lines` are those of the drop-in, `base` those of the unit file."""

    lines: Sequence[str] = ()
    base: Sequence[str] = ("ExecStart=/usr/bin/web",)
    host: HostEvidence = field(default_factory=host)
    processes: Sequence[ProcessEvidence] = (bare(),)
    cgroup: Mapping[str, str] = field(default_factory=lambda: dict(CGROUP))
    above: Sequence[CgroupLevel] = ()
    xattrs: Mapping[str, str] = field(default_factory=dict)
    own_paths: Mapping[str, PathEvidence] = field(default_factory=lambda: OWN_PATHS)
    properties: Mapping[str, object] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)
    mtime: float = NOW - 100
    others: Sequence[UnitFile] = ()
    """More drop-ins, loaded and on the disk."""
    on_disk: Sequence[UnitFile] | None = None
    files: Sequence[UnitFile] | None = None
    loaded_at: float = NOW - 50
    expected: bool = False
    declared: Sequence[str] | None = None
    """Lines that are declared now, where the file's are not."""

    @property
    def dropin(self) -> DropIn:
        lines = self.lines if self.declared is None else self.declared
        return DropIn(UNIT, Purpose.SECURITY, "[Service]\n" + "\n".join(lines) + "\n")

    def view(self) -> UnitView:
        ours = UnitFile(DROPIN, replace_body(self.dropin, self.lines).text, mtime=self.mtime)
        fragment = UnitFile(FRAGMENT, "[Service]\n" + "\n".join(self.base) + "\n", mtime=NOW - 1000)
        drops = sorted([ours, *self.others], key=lambda f: f.path.rpartition("/")[2])
        usual: dict[str, Any] = {
            "load_state": "loaded", "active_state": ActiveState.ACTIVE, "sub_state": "running",
            "fragment_path": FRAGMENT, "dropin_paths": tuple(f.path for f in drops),
            "main_pid": self.processes[0].pid if self.processes else 0, "control_group": GROUP,
        }  # fmt: skip
        return UnitView(
            UnitState(UNIT, **{**usual, **self.state}),
            {**as_loaded(fragment, *drops), **self.properties},
            tuple(self.files) if self.files is not None else (fragment, *drops),
            tuple(self.on_disk) if self.on_disk is not None else tuple(drops),
            NOW,
            self.loaded_at,
        )

    def evidence(self) -> UnitEvidence | None:
        if not self.processes:
            return None
        levels = (CgroupLevel(GROUP, self.cgroup, self.xattrs), *self.above)
        return UnitEvidence(GROUP, levels, tuple(self.processes), OWN_NAMESPACES, self.own_paths, NOW)

    def findings(self) -> tuple[Finding, ...]:
        return judge(self.view(), self.evidence(), self.host, [self.dropin] if self.expected else [], DIR)

    def one(self, aspect: str) -> Finding:
        found = [f for f in self.findings() if f.aspect == aspect]
        assert len(found) == 1, [(f.aspect, f.verdict) for f in self.findings()]
        return found[0]


def replace_body(dropin: DropIn, lines: Sequence[str]) -> DropIn:
    return replace(dropin, body="[Service]\n" + "\n".join(lines) + "\n")


def as_loaded(*files: UnitFile) -> dict[str, object]:
    """Properties that agree with the files, for the kinds whose loaded form is plain."""
    found: dict[str, object] = {}
    for (_, key), setting in merge([(f.path, f.text or "") for f in files]).items():
        spec = lookup(key)
        if spec is not None and not spec.since and setting.values:
            value = _plain(spec.kind, setting)
            if value is not None:
                found[spec.property] = value
    return found


def _plain(kind: Kind, setting: Setting) -> object:
    text = setting.text
    if kind is Kind.BOOL or (kind is Kind.CHOICE and text in ("yes", "no")):
        return text == "yes"
    if kind is Kind.CHOICE:
        return text
    if kind is Kind.NUMBER:
        return int(text)
    if kind is Kind.SIZE and text in ("infinity", "0"):
        return INFINITY if text == "infinity" else 0
    return None


ZZ = f"{DIR}/{UNIT}.d/99-mine.conf"
NNP = status(bare(), NoNewPrivs="1")
INSIDE = sandboxed(bare())
DEAD = {"active_state": ActiveState.INACTIVE, "main_pid": 0}


def says(found: Finding, verdict: Verdict, cause: str, fix: str = "") -> None:
    assert (found.verdict, cause in found.cause, fix in found.fix) == (verdict, True, True), found


def drop(path: str, *lines: str, **more: Any) -> UnitFile:
    return UnitFile(path, "[Service]\n" + "\n".join(lines) + "\n", **{"mtime": NOW - 200, **more})
