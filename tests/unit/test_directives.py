"""What is declared, beside what systemd 252 really had of it after reading the same lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.core.directives import TABLE, Check, known, lookup, section_of, since, suggest
from agentd.core.directives_known import KNOWN, LISTS
from agentd.core.loaded import Asked, Loaded, compare
from agentd.core.loaded_text import human, ranges
from agentd.core.loaded_values import ALL_NAMESPACES, INFINITY
from agentd.core.unitfile import merge
from agentd.evidence import HostEvidence
from agentd.types import Scope

DATA: dict[str, Any] = json.loads((Path(__file__).parent / "data/properties252.json").read_text())
HOST = HostEvidence(scope=Scope.USER, systemd=252, uid=0, home="/home/sandbox", runtime_dir="/run/user/0")
BY_KEY: dict[str, list[str]] = {}
for _line in DATA["lines"]:
    BY_KEY.setdefault(_line.partition("=")[0], []).append(_line)
UNCOMPARED = ("IOSchedulingClass", "ManagedOOMMemoryPressureLimit", "SecureBits", "Personality", "TimerSlackNSec",
              "NUMAPolicy", "MountFlags", "CoredumpFilter", "RestrictFileSystems")  # fmt: skip
PERCENT = ("MemoryMax", "TasksMax")
DEFAULT = ("OOMPolicy",)
"""What the lines ask for is the default anyway."""


def compared(lines: list[str], properties: dict[str, Any]) -> Loaded:
    ((_, key), setting) = next(iter(merge([("/f", "[Service]\n" + "\n".join(lines))]).items()))
    spec = lookup(key)
    assert spec is not None
    return compare(Asked(spec, setting, properties, "a-test.service", HOST))


@pytest.mark.parametrize("key", sorted(BY_KEY))
def test_the_real_properties_agree_and_the_defaults_do_not(key: str) -> None:
    loaded = compared(BY_KEY[key], DATA["loaded"])
    unset = compared(BY_KEY[key], DATA["unset"])
    assert loaded.wrong == ""
    if key in UNCOMPARED:
        assert loaded.agrees is None
        return
    assert loaded.agrees is (None if key in PERCENT else True), loaded
    assert unset.agrees is (True if key in DEFAULT else None if key == "TasksMax" else False), unset
    assert loaded.text or key in ("CapabilityBoundingSet",)


@pytest.mark.parametrize(
    ("line", "properties", "agrees"),
    [
        ("NoNewPrivileges=true", {"NoNewPrivileges": True}, True),
        ("NoNewPrivileges=on", {"NoNewPrivileges": False}, False),
        ("ProtectHome=1", {"ProtectHome": "yes"}, True),
        ("ProtectSystem=strict", {"ProtectSystem": "full"}, False),
        ("PrivateTmp=disconnected", {"PrivateTmp": True, "PrivateTmpEx": "disconnected"}, True),
        ("PrivateTmp=yes", {"PrivateTmp": True, "PrivateTmpEx": "connected"}, True),
        ("PrivateUsers=yes", {"PrivateUsers": True, "PrivateUsersEx": "self"}, True),
        ("PrivateUsers=yes", {"PrivateUsers": True, "PrivateUsersEx": "identity"}, False),
        ("PrivatePIDs=yes", {"PrivatePIDs": "yes"}, True),
        ("ProtectControlGroups=strict", {"ProtectControlGroups": True, "ProtectControlGroupsEx": "strict"}, True),
        ("MemoryMax=1G", {"MemoryMax": 1 << 30}, True),
        ("MemoryMax=1.5K", {"MemoryMax": 1536}, True),
        ("MemoryMax=infinity", {"MemoryMax": INFINITY}, True),
        ("MemoryMax=10%", {"MemoryMax": INFINITY}, False),
        ("MemoryMax=10%", {"MemoryMax": 12345}, None),
        ("MemoryMax=1G", {}, None),
        ("CPUQuota=20%", {"CPUQuotaPerSecUSec": 200_000}, True),
        ("CPUWeight=idle", {"CPUWeight": 0}, True),
        ("TasksMax=infinity", {"TasksMax": INFINITY}, True),
        ("LimitNOFILE=65536", {"LimitNOFILE": 65536, "LimitNOFILESoft": 65536}, True),
        ("LimitNOFILE=1024:65536", {"LimitNOFILE": 65536, "LimitNOFILESoft": 1024}, True),
        ("LimitNOFILE=65536", {"LimitNOFILE": 65536, "LimitNOFILESoft": 1024}, False),
        ("LimitMEMLOCK=infinity", {"LimitMEMLOCK": INFINITY, "LimitMEMLOCKSoft": INFINITY}, True),
        ("LimitCPU=90s", {"LimitCPU": 90, "LimitCPUSoft": 90}, True),
        ("LimitNICE=-5", {"LimitNICE": 25, "LimitNICESoft": 25}, True),
        ("Nice=-5", {"Nice": -5}, True),
        ("UMask=077", {"UMask": 0o77}, True),
        ("CapabilityBoundingSet=CAP_CHOWN", {"CapabilityBoundingSet": 1}, True),
        ("CapabilityBoundingSet=~CAP_CHOWN", {"CapabilityBoundingSet": (1 << 41) - 2}, True),
        # ProtectKernelLogs= takes CAP_SYSLOG out as well
        ("CapabilityBoundingSet=CAP_CHOWN CAP_SYSLOG", {"CapabilityBoundingSet": 1}, True),
        ("CapabilityBoundingSet=CAP_CHOWN CAP_KILL", {"CapabilityBoundingSet": 1}, False),
        ("CapabilityBoundingSet=CAP_CHOWN", {"CapabilityBoundingSet": 3}, False),
        ("RestrictAddressFamilies=none", {"RestrictAddressFamilies": [True, []]}, True),
        ("RestrictAddressFamilies=~AF_PACKET", {"RestrictAddressFamilies": [False, ["AF_PACKET"]]}, True),
        ("RestrictAddressFamilies=AF_UNIX", {"RestrictAddressFamilies": [False, ["AF_UNIX"]]}, False),
        ("SystemCallFilter=~ptrace", {"SystemCallFilter": [False, ["ptrace"]]}, True),
        ("SystemCallFilter=~ptrace", {"SystemCallFilter": [False, []]}, False),
        ("SystemCallFilter=~ptrace:EPERM", {"SystemCallFilter": [False, ["ptrace:1"]]}, True),
        ("SystemCallFilter=@system-service", {"SystemCallFilter": [True, ["read"]]}, False),
        ("RestrictNamespaces=no", {"RestrictNamespaces": INFINITY}, True),
        ("RestrictNamespaces=user", {"RestrictNamespaces": 0x10000000}, True),
        ("IPAddressAllow=10.1.2.3", {"IPAddressAllow": [[2, bytes([10, 0, 0, 0]), 8]]}, True),
        ("IPAddressAllow=10.1.2.3", {"IPAddressAllow": [[2, [11, 0, 0, 0], 8]]}, False),
        ("AllowedCPUs=0-2,8", {"AllowedCPUs": bytes([7, 1])}, True),
        ("CPUAffinity=numa", {"CPUAffinity": b""}, None),
        ("ReadWritePaths=/a//b/ /c", {"ReadWritePaths": ["/c", "/a/b", "/d"]}, True),
        ("ReadWritePaths=/a", {"ReadWritePaths": ["-/a"]}, False),
        ("ReadWritePaths=/%H", {"ReadWritePaths": []}, True),
        ("Delegate=memory pids", {"Delegate": True, "DelegateControllers": ["memory", "pids", "cpu"]}, True),
        ("Delegate=io", {"Delegate": True, "DelegateControllers": ["memory"]}, False),
        ("Delegate=no", {"Delegate": True, "DelegateControllers": []}, False),
        ("SystemCallErrorNumber=kill", {"SystemCallErrorNumber": 2147483646}, True),
        ("LoadCredential=a:/x", {"LoadCredential": [["b", "/x"]]}, False),
    ],
)  # fmt: skip
def test_comparisons(line: str, properties: dict[str, Any], agrees: bool | None) -> None:
    found = compared([line], properties)
    assert (found.agrees, found.wrong) == (agrees, "")


@pytest.mark.parametrize(
    "line",
    ["ProtectSystem=maybe", "NoNewPrivileges=perhaps", "MemoryMax=much", "UMask=9", "CapabilityBoundingSet=CAP_NOTHING",
     "RestrictNamespaces=usr", "IPAddressDeny=1.2.3.4.5", "CPUAffinity=a-b", "CPUWeight=0", "CPUQuota=20",
     "LimitNOFILE=many", "ReadWritePaths=relative", "SystemCallErrorNumber=EWHAT", "CPUSchedulingPolicy=fast"],
)  # fmt: skip
def test_what_systemd_would_not_take_is_wrong(line: str) -> None:
    found = compared([line], {})
    assert found.agrees is False
    assert line.partition("=")[2] in found.wrong


@pytest.mark.parametrize(
    ("line", "off"),
    [
        ("PrivateTmp=no", True), ("PrivateTmp=yes", False), ("ProtectProc=default", True), ("DevicePolicy=auto", True),
        ("CapabilityBoundingSet=", False), ("AmbientCapabilities=", True), ("ReadWritePaths=", True),
        ("RestrictNamespaces=no", True), ("RestrictNamespaces=yes", False), ("MemoryMax=infinity", False),
        ("RestrictAddressFamilies=none", False), ("Delegate=no", True), ("ManagedOOMPreference=none", True),
    ],
)  # fmt: skip
def test_what_asks_for_nothing(line: str, off: bool) -> None:
    assert compared([line], {}).off is off


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(TABLE)),
    st.text(max_size=20),
    st.sampled_from([None, True, 5, "yes", [], [[1]], [True, ["a"]]]),
)
def test_no_text_and_no_property_makes_it_fail(key: str, text: str, value: object) -> None:
    merged = merge([("/f", f"[Service]\n{key}={text}")])
    for (_, found), setting in merged.items():
        spec = lookup(found)
        if spec is not None:
            compare(Asked(spec, setting, {spec.property: value}, "a.service", HOST))


def test_every_directive_is_a_key_that_systemd_reads() -> None:
    assert {key for key in TABLE if key not in KNOWN["Service"]} == set()
    assert KNOWN["Service"] | KNOWN["Unit"] >= LISTS
    assert len(TABLE) >= 100
    assert {spec.arg for spec in TABLE.values() if spec.check is Check.UNSEEN} & {""} == set()


def test_names() -> None:
    assert known("Service", "MemoryMax")
    assert known("Service", "X-Mine")
    assert not known("Unit", "MemoryMax")
    assert known("Timer", "OnCalendar")
    assert suggest("Service", "ProtectHomes") == "ProtectHome"
    assert suggest("Unit", "MemryMax") == "MemoryMax"
    assert suggest("Service", "Quite different") == ""
    assert section_of("a.slice") == "Slice"
    assert (since("PrivatePIDs"), since("PrivateTmp", "disconnected"), since("PrivateTmp", "yes")) == (257, 257, 0)
    assert lookup("ReadWriteDirectories") is TABLE["ReadWritePaths"]


def test_texts_for_a_reader() -> None:
    assert human(TABLE["RestrictNamespaces"].kind, ALL_NAMESPACES & ~0x10000000) == "~user"
    assert human(TABLE["LimitNOFILE"].kind, (1024, INFINITY)) == "1024:infinity"
    assert human(TABLE["MemoryMax"].kind, 3 << 30) == "3G"
    assert human(TABLE["CPUQuota"].kind, 1_500_000) == "150%"
    assert human(TABLE["SetCredential"].kind, [["name", b"secret"]]) == "name"
    assert ranges(frozenset((0, 1, 2, 5))) == "0-2,5"
    assert ranges(frozenset()) == ""
