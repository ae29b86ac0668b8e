"""Acts with paths, devices, addresses, namespaces and values. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence

from agentd.core.acts_types import Act, Expect
from agentd.evidence import HostEvidence

_PROTECTED = {"yes": ("/usr",), "full": ("/usr", "/etc"), "strict": ("/usr", "/etc", "/")}
_SAFE_DEVICES = ("/dev/fuse", "/dev/net/tun", "/dev/kvm", "/dev/kmsg")
_PORTS = (49151, 40961, 32999)
_NET_BIND_SERVICE = 1 << 10
_SMALL = 4096

_OWN: Mapping[str, str] = {
    "PrivateDevices": "/dev",
    "PrivateIPC": "ns/ipc",
    "PrivateMounts": "ns/mnt",
    "PrivateNetwork": "ns/net",
    "PrivateTmp": "/tmp",
    "PrivateUsers": "ns/user",
    "ProtectHostname": "ns/uts",
}


def strings(value: object) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, list | tuple) else ()


def paths(properties: Mapping[str, object], key: str) -> tuple[str, ...]:
    """Of a list of paths, without the prefixes that say what to do when one is missing."""
    return tuple(path.lstrip("-+") for path in strings(properties.get(key)))


def mounts(properties: Mapping[str, object], host: HostEvidence) -> Iterator[Act]:
    writable = paths(properties, "ReadWritePaths")

    def read_only(key: str, *places: str) -> Iterator[Act]:
        for place in places:
            if not any(place == path or place.startswith(path.rstrip("/") + "/") for path in writable):
                yield Act(f"mount:{place}", (key,), errno="EROFS")

    yield from read_only("ProtectSystem", *_PROTECTED.get(str(properties.get("ProtectSystem")), ()))
    yield from read_only("ReadOnlyPaths", *paths(properties, "ReadOnlyPaths"))
    if properties.get("ProtectKernelTunables") is True:
        yield from read_only("ProtectKernelTunables", "/proc/sys")
    if properties.get("ProtectControlGroups") is True:
        yield from read_only("ProtectControlGroups", "/sys/fs/cgroup")
    yield from (Act(f"read:{path}", ("InaccessiblePaths",)) for path in paths(properties, "InaccessiblePaths"))
    match properties.get("ProtectHome"):
        case "yes":
            yield from (Act(f"read:{path}", ("ProtectHome",)) for path in ("/home", "/root", "/run/user"))
        case "read-only":
            yield from read_only("ProtectHome", "/home", *([host.home] if _below_home(host.home) else []))
        case "tmpfs":
            yield Act("identity:/home", ("ProtectHome",), Expect.DIFFERS)


def own(properties: Mapping[str, object], host: HostEvidence) -> Iterator[Act]:
    """What the service has to itself, and whom it must not see."""
    for key, what in _OWN.items():
        if properties.get(key) is True:
            yield Act(f"identity:{what}", (key,), Expect.DIFFERS)
    if properties.get("KeyringMode") in ("private", "shared"):
        yield Act("identity:keyring", ("KeyringMode",), Expect.DIFFERS)
    if properties.get("PrivateDevices") is True:
        yield Act("exists:/dev/kmsg", ("PrivateDevices",))
        yield Act("call:ioperm", ("PrivateDevices",))
    if properties.get("PrivatePIDs") in (True, "yes"):
        yield Act("identity:ns/pid", ("PrivatePIDs",), Expect.DIFFERS)
        yield Act(f"signal:{host.manager_pid}", ("PrivatePIDs",), errno="ESRCH")
    elif properties.get("ProtectProc") in ("invisible", "noaccess") and host.uid != 0:
        yield Act("exists:/proc/1/cmdline", ("ProtectProc",))
    if properties.get("ProcSubset") == "pid":
        yield Act("exists:/proc/meminfo", ("ProcSubset",))


def devices(properties: Mapping[str, object]) -> Iterator[Act]:
    rows = properties.get("DeviceAllow")
    allowed = [str(row[0]) for row in rows] if isinstance(rows, list | tuple) else []
    for path in allowed:
        if path.startswith("/dev/"):
            yield Act(f"device:{path}", ("DeviceAllow",), Expect.ALLOWED)
    closed = properties.get("DevicePolicy") in ("closed", "strict") or bool(allowed)
    if closed and not {"char-misc", "char-mem", "char-*"} & set(allowed):
        keys = ("DevicePolicy", "DeviceAllow")
        yield from (Act(f"device:{path}", keys, errno="EPERM") for path in _SAFE_DEVICES if path not in allowed)


def network(properties: Mapping[str, object], addresses: Sequence[str]) -> Iterator[Act]:
    """`addresses`: the machine's own, which a packet filter judges like any other."""
    allow, deny = (_networks(properties.get(key)) for key in ("IPAddressAllow", "IPAddressDeny"))
    for text in addresses if deny else ():
        address = ipaddress.ip_address(text)
        if any(address in network for network in allow):
            yield Act(f"send:{text}", ("IPAddressAllow",), Expect.ALLOWED)
        elif any(address in network for network in deny):
            yield Act(f"send:{text}", ("IPAddressDeny",), errno="EPERM")
    allowed, denied = (_bindings(properties.get(key)) for key in ("SocketBindAllow", "SocketBindDeny"))
    for port in _PORTS:
        if _binds(denied, port) and not _binds(allowed, port):
            yield Act(f"bind:{port}", ("SocketBindDeny",), errno="EPERM")


def values(properties: Mapping[str, object]) -> Iterator[Act]:
    if properties.get("NoNewPrivileges") is True:
        yield Act("value:NoNewPrivs", ("NoNewPrivileges",), Expect.VALUE, "1")
    umask = properties.get("UMask")
    if isinstance(umask, int):
        yield Act("value:umask", ("UMask",), Expect.VALUE, f"{umask:04o}")
    bounding, ambient = properties.get("CapabilityBoundingSet"), properties.get("AmbientCapabilities")
    if isinstance(bounding, int):
        yield Act("value:CapBnd", ("CapabilityBoundingSet",), Expect.VALUE, f"<={bounding:x}")
    if isinstance(ambient, int) and ambient:
        yield Act("value:CapAmb", ("AmbientCapabilities",), Expect.VALUE, f">={ambient:x}")
        if ambient & _NET_BIND_SERVICE:
            yield Act("bind:1023", ("AmbientCapabilities",), Expect.GRANTED, errno="EACCES")
    files = properties.get("LimitNOFILE")
    if isinstance(files, int) and files <= _SMALL:
        yield Act(f"open-files:{files}", ("LimitNOFILE",))


def _below_home(home: str) -> bool:
    return home == "/root" or home.startswith("/home/")


def _networks(value: object) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    rows = value if isinstance(value, list | tuple) else ()
    found = []
    for _, address, prefix in rows:
        packed = bytes(address)
        if len(packed) in (4, 16):
            found.append(ipaddress.ip_network((packed, int(prefix)), strict=False))
    return found


def _bindings(value: object) -> list[tuple[int, int, int, int]]:
    rows = value if isinstance(value, list | tuple) else ()
    return [(int(row[0]), int(row[1]), int(row[2]), int(row[3])) for row in rows]


def _binds(rules: Sequence[tuple[int, int, int, int]], port: int) -> bool:
    """A rule (family, protocol, number of ports, first port; 0 is any) is about binding IPv4 TCP to this port."""
    return any(
        family in (0, 2) and protocol in (0, 6) and (count == 0 or first <= port < first + count)
        for family, protocol, count, first in rules
    )
