"""Declared texts as values: numbers, masks, sets. A parser raises ValueError for what systemd does not take. Pure."""

from __future__ import annotations

import errno
import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence

from agentd.core.quantities import QuantityError, parse_bytes, parse_seconds

INFINITY = 2**64 - 1
"""systemd's "no limit", and "not set" for weights."""
ALL_NAMESPACES = 0x7E020000
KILL = 2147483646
"""SystemCallErrorNumber=kill as a property."""

_NAMESPACES = {
    "mnt": 0x00020000, "cgroup": 0x02000000, "uts": 0x04000000, "ipc": 0x08000000,
    "user": 0x10000000, "pid": 0x20000000, "net": 0x40000000,
}  # fmt: skip
_NAMES = (
    "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service "
    "net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct sys_admin "
    "sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control setfcap mac_override "
    "mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore"
)
_CAPABILITIES = _NAMES.split()
CAPABILITY = {f"CAP_{name.upper()}": bit for bit, name in enumerate(_CAPABILITIES)}
ALL_CAPABILITIES = (1 << len(_CAPABILITIES)) - 1
SCHEDULERS = {"other": 0, "fifo": 1, "rr": 2, "batch": 3, "idle": 5}
_TRUE = frozenset(("1", "yes", "y", "true", "t", "on"))
_FALSE = frozenset(("0", "no", "n", "false", "f", "off"))
_BYTES = frozenset(("AS", "CORE", "DATA", "FSIZE", "MEMLOCK", "MSGQUEUE", "RSS", "STACK"))
_NETWORKS = {
    "any": ("0.0.0.0/0", "::/0"),
    "localhost": ("127.0.0.0/8", "::1/128"),
    "link-local": ("169.254.0.0/16", "fe80::/64"),
    "multicast": ("224.0.0.0/4", "ff00::/8"),
}
_RANGE = re.compile(r"([0-9]+)(?:-([0-9]+))?")

Network = tuple[int, bytes, int]
"""(address family 2 or 10, address, prefix length), as in a(iayu)."""


def boolean(text: str) -> bool:
    word = text.lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise ValueError("is neither yes nor no")


def is_boolean(text: str) -> bool:
    return text.lower() in _TRUE or text.lower() in _FALSE


def size(text: str) -> int | None:
    """Bytes, INFINITY, or None for a percentage, which only systemd turns into bytes."""
    if text == "infinity":
        return INFINITY
    if text.endswith(("%", "‰", "‱")):
        _percent(text)
        return None
    try:
        return parse_bytes(text)
    except QuantityError as error:
        raise ValueError(str(error)) from error


def decimal_size(text: str) -> int:
    """Of I/O bandwidths: K, M, G, T are powers of 1000."""
    if text == "infinity":
        return INFINITY
    power = "KMGTPE".find(text[-1:]) + 1 if text[-1:] else 0
    number = text[:-1] if power else text
    return int(float(number) * 1000**power)


def quota(text: str) -> int:
    """Microseconds of CPU time for each second."""
    return round(_percent(text) * 1e6)


def weight(text: str) -> int:
    if text == "idle":
        return 0
    value = int(text)
    if not 1 <= value <= 10000:
        raise ValueError("is not a number from 1 to 10000")
    return value


def octal(text: str) -> int:
    value = int(text, 8)
    if not 0 <= value <= 0o7777:
        raise ValueError("is not an octal mode")
    return value


def span(text: str) -> int:
    """Microseconds."""
    if text == "infinity":
        return INFINITY
    try:
        return round(parse_seconds(text) * 1_000_000)
    except QuantityError as error:
        raise ValueError(str(error)) from error


def limit(name: str, text: str) -> tuple[int, int]:
    """(soft, hard) of LimitNAME=, in the unit of setrlimit."""
    soft, colon, hard = text.partition(":")
    low = _limit(name, soft)
    return low, _limit(name, hard) if colon else low


def _limit(name: str, text: str) -> int:
    if text == "infinity":
        return INFINITY
    if name in _BYTES:
        return size(text) or 0
    if name == "CPU":
        return -(-span(text) // 1_000_000)
    if name == "RTTIME":
        return int(text) if text.isdigit() else span(text)
    if name == "NICE" and text[:1] in ("+", "-"):
        return 20 - int(text)
    return int(text)


def capabilities(values: Sequence[str], start: int, *, reset: bool) -> int:
    """The mask after all lines; `start` is what counts as not set yet."""
    mask = 0 if reset else start
    for value in values:
        inverted = value.startswith("~")
        bits = _capability_bits(value.removeprefix("~").split())
        if mask in (start, 0) and not (reset and mask == 0 and inverted):
            mask = ALL_CAPABILITIES & ~bits if inverted else bits
        else:
            mask = mask & ~bits if inverted else mask | bits
    return mask


def _capability_bits(names: Iterable[str]) -> int:
    bits = 0
    for name in names:
        number = CAPABILITY.get(name.upper(), int(name) if name.isdigit() else -1)
        if number < 0:
            raise ValueError(f"holds no capability: {name}")
        bits |= 1 << number
    return bits


def capability_names(mask: int) -> str:
    """ "none", "all", or names."""
    mask &= ALL_CAPABILITIES
    if mask == ALL_CAPABILITIES:
        return "all"
    return " ".join(name for name, bit in CAPABILITY.items() if mask >> bit & 1) or "none"


def namespaces(values: Sequence[str]) -> int:
    """The mask of those that may still be made."""
    mask = ALL_NAMESPACES
    fresh = True
    for value in values:
        if is_boolean(value):
            mask = 0 if boolean(value) else ALL_NAMESPACES
        else:
            bits = 0
            for name in value.removeprefix("~").split():
                if name not in _NAMESPACES:
                    raise ValueError(f"holds no namespace type: {name}")
                bits |= _NAMESPACES[name]
            inverted = value.startswith("~")
            if fresh:
                mask = ALL_NAMESPACES & ~bits if inverted else bits
            else:
                mask = mask & ~bits if inverted else mask | bits
        fresh = False
    return mask


def denied_namespaces(allowed: int) -> str:
    """ "yes" when none is allowed, else "~" and those that are not."""
    return "~" + " ".join(name for name, bit in _NAMESPACES.items() if not allowed & bit) if allowed else "yes"


def bitmap(values: Sequence[str]) -> frozenset[int]:
    found: set[int] = set()
    for word in " ".join(values).replace(",", " ").split():
        match = _RANGE.fullmatch(word)
        if match is None:
            raise ValueError(f"holds no number or range: {word}")
        first, last = int(match[1]), int(match[2] or match[1])
        if last - first > 8192:
            raise ValueError(f"holds too large a range: {word}")
        found.update(range(first, last + 1))
    return frozenset(found)


def networks(values: Sequence[str]) -> frozenset[Network]:
    found: set[Network] = set()
    for word in " ".join(values).split():
        for text in _NETWORKS.get(word, (word,)):
            net = ipaddress.ip_network(text, strict=False)
            found.add((2 if net.version == 4 else 10, net.network_address.packed, net.prefixlen))
    return frozenset(found)


def covered(net: Network, by: Iterable[Network]) -> bool:
    family, address, prefix = net
    bits = int.from_bytes(address, "big")
    for other_family, other, other_prefix in by:
        if other_family == family and other_prefix <= prefix and len(other) == len(address):
            shift = len(address) * 8 - other_prefix
            if bits >> shift == int.from_bytes(other, "big") >> shift:
                return True
    return False


def error_number(text: str) -> int:
    if text == "kill":
        return KILL
    number = int(text) if text.isdigit() else getattr(errno, text, None)
    if not isinstance(number, int):
        raise ValueError(f"is no errno name: {text}")  # noqa: TRY004 (a text, not a type)
    return number


def _percent(text: str) -> float:
    for sign, parts in (("%", 100), ("‰", 1000), ("‱", 10000)):
        if text.endswith(sign):
            return float(text.removesuffix(sign)) / parts
    raise ValueError("is not a percentage")


FIRST_OF_GROUP: Mapping[str, str] = {
    "@aio": "io_submit", "@basic-io": "read", "@chown": "chown", "@clock": "adjtimex", "@cpu-emulation": "modify_ldt",
    "@debug": "ptrace", "@file-system": "openat", "@io-event": "epoll_create1", "@ipc": "memfd_create",
    "@keyring": "keyctl", "@memlock": "mlock", "@module": "init_module", "@mount": "mount", "@network-io": "bind",
    "@pkey": "pkey_alloc", "@privileged": "acct", "@process": "clone", "@raw-io": "iopl", "@reboot": "reboot",
    "@resources": "sched_setattr", "@setuid": "setresuid", "@signal": "rt_sigaction", "@swap": "swapon",
    "@sync": "fsync", "@system-service": "getcpu", "@timer": "timer_create", "@known": "read",
}  # fmt: skip
"""A system call of each group, by which a loaded list shows that it holds the group."""
