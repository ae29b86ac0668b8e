"""The directives of systemd.resource-control, and what belongs to them: the limits of a cgroup. Pure data."""

from __future__ import annotations

from agentd.core.directives_spec import Check, Kind, Spec


def _limit(key: str, file: str, kind: Kind = Kind.SIZE, since: int = 0) -> Spec:
    return Spec(key, kind, Check.CGROUP_LIMIT, file, since=since)


def _device(key: str, arg: str) -> Spec:
    return Spec(key, Kind.FIRST, Check.CGROUP_DEVICE, arg)


def _startup(key: str, since: int = 0) -> Spec:
    return Spec(key, Kind.ANY, Check.UNSEEN, "a value that counts only while the host starts up", since=since)


CGROUP = (
    _limit("MemoryMax", "memory.max"),
    _limit("MemoryHigh", "memory.high"),
    _limit("MemorySwapMax", "memory.swap.max"),
    _limit("MemoryZSwapMax", "memory.zswap.max", since=253),
    Spec("MemoryZSwapWriteback", Kind.BOOL, Check.CGROUP_FLAG, "memory.zswap.writeback", since=256),
    Spec("MemoryLow", Kind.SIZE, Check.CGROUP_PROTECTION, "memory.low"),
    Spec("MemoryMin", Kind.SIZE, Check.CGROUP_PROTECTION, "memory.min"),
    Spec("DefaultMemoryLow", Kind.SIZE, Check.UNSEEN, "a default for the units below"),
    Spec("DefaultMemoryMin", Kind.SIZE, Check.UNSEEN, "a default for the units below"),
    _limit("TasksMax", "pids.max", Kind.TASKS),
    Spec("CPUQuota", Kind.QUOTA, Check.CGROUP_QUOTA, "cpu.max", ("CPUQuotaPerSecUSec",)),
    Spec("CPUQuotaPeriodSec", Kind.SPAN, Check.CGROUP_QUOTA, "cpu.max period", ("CPUQuotaPeriodUSec",)),
    Spec("CPUWeight", Kind.WEIGHT, Check.CGROUP_WEIGHT, "cpu.weight"),
    Spec("IOWeight", Kind.WEIGHT, Check.CGROUP_WEIGHT, "io.weight"),
    _device("IODeviceWeight", "io.weight"),
    _device("IOReadBandwidthMax", "io.max rbps"),
    _device("IOWriteBandwidthMax", "io.max wbps"),
    _device("IOReadIOPSMax", "io.max riops"),
    _device("IOWriteIOPSMax", "io.max wiops"),
    Spec(
        "IODeviceLatencyTargetSec", Kind.FIRST, Check.CGROUP_DEVICE, "io.latency target", ("IODeviceLatencyTargetUSec",)
    ),
    Spec("AllowedCPUs", Kind.BITMAP, Check.CGROUP_CPUS, "cpuset.cpus"),
    Spec("AllowedMemoryNodes", Kind.BITMAP, Check.CGROUP_CPUS, "cpuset.mems"),
    Spec("CPUAccounting", Kind.BOOL, Check.CGROUP_PRESENT, "cpu.stat"),
    Spec("MemoryAccounting", Kind.BOOL, Check.CGROUP_PRESENT, "memory.current"),
    Spec("TasksAccounting", Kind.BOOL, Check.CGROUP_PRESENT, "pids.current"),
    Spec("IOAccounting", Kind.BOOL, Check.CGROUP_PRESENT, "io.stat"),
    Spec("IPAccounting", Kind.BOOL, Check.BPF),
    Spec("OOMPolicy", Kind.CHOICE, Check.OOM_POLICY, words=("continue", "stop", "kill")),
    Spec("Delegate", Kind.DELEGATE, Check.DELEGATE),
    Spec("DisableControllers", Kind.WORDS, Check.UNSEEN, "which controllers the units below may have"),
    Spec(
        "ManagedOOMPreference", Kind.CHOICE, Check.OOMD_PREFERENCE, words=("none", "avoid", "omit"), off=("none",)
    ),
    Spec(
        "ManagedOOMMemoryPressure", Kind.CHOICE, Check.UNSEEN, "whether systemd-oomd watches it (see: oomctl)",
        words=("auto", "kill"), off=("auto",),
    ),
    Spec(
        "ManagedOOMSwap", Kind.CHOICE, Check.UNSEEN, "whether systemd-oomd watches it (see: oomctl)",
        words=("auto", "kill"), off=("auto",),
    ),
    Spec("ManagedOOMMemoryPressureLimit", Kind.ANY, Check.UNSEEN, "a limit of systemd-oomd (see: oomctl)"),
    Spec("ManagedOOMMemoryPressureDurationSec", Kind.ANY, Check.UNSEEN, "a limit of systemd-oomd", since=257),
    Spec("MemoryPressureWatch", Kind.ANY, Check.UNSEEN, "what the program is told of memory pressure", since=254),
    Spec("MemoryKSM", Kind.ANY, Check.UNSEEN, "whether its pages are merged", since=254),
    Spec("IPAddressDeny", Kind.NETWORKS, Check.BPF),
    Spec("IPAddressAllow", Kind.NETWORKS, Check.BPF),
    Spec("IPIngressFilterPath", Kind.NONEMPTY, Check.BPF),
    Spec("IPEgressFilterPath", Kind.NONEMPTY, Check.BPF),
    Spec("BPFProgram", Kind.NONEMPTY, Check.BPF),
    Spec("SocketBindDeny", Kind.NONEMPTY, Check.BPF, "framework"),
    Spec("SocketBindAllow", Kind.NONEMPTY, Check.BPF, "framework"),
    Spec("RestrictNetworkInterfaces", Kind.NONEMPTY, Check.BPF, "framework"),
    Spec("DevicePolicy", Kind.CHOICE, Check.BPF, "devices", words=("auto", "closed", "strict"), off=("auto",)),
    Spec("DeviceAllow", Kind.FIRST, Check.BPF, "devices"),
    *(
        _startup(key)
        for key in ("StartupCPUWeight", "StartupIOWeight", "StartupAllowedCPUs", "StartupAllowedMemoryNodes")
    ),
    *(
        _startup(f"StartupMemory{what}", 254)
        for what in ("Max", "High", "Low", "SwapMax", "ZSwapMax")
    ),
    *(
        Spec(key, Kind.ANY, Check.UNSEEN, "an interface of cgroup v1, which is not looked at")
        for key in ("MemoryLimit", "CPUShares", "StartupCPUShares", "BlockIOWeight", "StartupBlockIOWeight",
                    "BlockIODeviceWeight", "BlockIOReadBandwidth", "BlockIOWriteBandwidth")
    ),
)  # fmt: skip
