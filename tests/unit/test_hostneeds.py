"""What declared drop-ins ask of a host, as it is read from their text."""

from __future__ import annotations

import pytest
from fakes.hosts import GIB, dropin

from agentd import resources
from agentd.core.dropin import Purpose
from agentd.core.hostneeds import Need, cpus_of, joined, limit_of, memory_of, needs, quota_of


def test_the_last_assignment_counts() -> None:
    declared = [
        dropin("# MemoryMax=1G", "MemoryMax=2G", "TasksMax=5", "TasksMax=", "[Unit]", "MemoryHigh=1G"),
        dropin("MemoryMax=3G", "CapabilityBoundingSet=", purpose=Purpose.SECURITY),
    ]
    assert needs(declared) == (Need("a.service", "CapabilityBoundingSet", ""), Need("a.service", "MemoryMax", "3G"))
    assert joined(range(6)) == "0, 1, 2, 3 and 2 more"


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("LimitNOFILE", "1024:524288", 524288),
        ("LimitNOFILE", "infinity", float("inf")),
        ("LimitNOFILE", "many", None),
        ("LimitMEMLOCK", "64M", 64 * 2**20),
        ("LimitMEMLOCK", "x", None),
        ("LimitCPU", "1min", 60),
        ("LimitRTTIME", "2", 2),
        ("LimitRTTIME", "2s", 2e6),
        ("LimitNICE", "-5", 25),
        ("LimitNICE", "+3", 17),
        ("LimitNICE", "30", 30),
    ],
)
def test_limits_are_read_as_systemd_does(key: str, text: str, expected: float | None) -> None:
    assert limit_of(key, text) == expected


def test_quantities() -> None:
    assert cpus_of("0-2,5 7") == frozenset({0, 1, 2, 5, 7})
    assert cpus_of("all") is None
    assert quota_of("150%") == 1.5
    assert quota_of("150") is None
    assert memory_of("50%", GIB) == GIB / 2
    assert memory_of("50%", 0) is None
    assert memory_of("lots", GIB) is None


def test_the_packaged_profiles_are_understood() -> None:
    """No quantity in them is passed over because it cannot be read."""
    for name, text in resources.profile_texts().items():
        for need in needs([dropin(*text.splitlines(), unit=f"{name}.service")]):
            if need.key.startswith("Limit"):
                assert limit_of(need.key, need.value) is not None, need
            if need.key in ("MemoryHigh", "MemoryMax", "MemorySwapMax"):
                assert memory_of(need.value, GIB) is not None, need
            if need.key == "CPUQuota":
                assert quota_of(need.value) is not None, need
