"""The score of what is in effect."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agentd.core.exposure import BEYOND, WEIGHTS, exposure, parts
from agentd.findings import Finding, Verdict, severity_of

DOC = Path(__file__).resolve().parents[2] / "docs" / "hardening-host.md"
STRONG = {"ProtectSystem": "strict", "CapabilityBoundingSet": "", "ProtectHome": "tmpfs", "KeyringMode": "private"}


def finding(aspect: str, declared: str = "yes", verdict: Verdict = Verdict.EFFECTIVE) -> Finding:
    return Finding("a.service", aspect, verdict, severity_of(verdict), declared=declared)


def everything(verdict: Verdict = Verdict.EFFECTIVE) -> list[Finding]:
    return [finding(name, STRONG.get(name, "1"), verdict) for name in WEIGHTS]


def test_the_ends() -> None:
    assert exposure([]) == 10.0
    assert exposure(everything()) == 0.0


@pytest.mark.parametrize("verdict", [v for v in Verdict if v is not Verdict.EFFECTIVE])
def test_only_what_is_in_effect_counts(verdict: Verdict) -> None:
    assert exposure(everything(verdict)) == 10.0
    lost = [f for f in everything() if f.aspect != "ProtectSystem"]
    assert exposure([*lost, finding("ProtectSystem", "strict", verdict)]) == exposure(lost) > 0


@pytest.mark.parametrize("name", WEIGHTS)
def test_every_directive_counts(name: str) -> None:
    assert exposure([finding(name, STRONG.get(name, "1"))]) < 10.0
    # An effective "off" is no protection; a limit or a umask of 0 is the tightest there is.
    off = "infinity" if name in ("MemoryMax", "TasksMax") else "no"
    if name not in ("CapabilityBoundingSet", "LimitCORE", "UMask"):
        assert exposure([finding(name, off)]) == 10.0


def test_weaker_values_earn_less() -> None:
    scores = [exposure([finding("ProtectSystem", value)]) for value in ("strict", "full", "yes", "no")]
    assert scores == sorted(set(scores))
    assert exposure([finding("SystemCallFilter", "~@clock")]) > exposure(
        [finding("SystemCallFilter", "@system-service")]
    )
    assert exposure([finding("CapabilityBoundingSet", "CAP_NET_RAW")]) > exposure(
        [finding("CapabilityBoundingSet", "")]
    )


def test_of_several_paths_the_weakest_counts() -> None:
    held, open_ = finding("InaccessiblePaths", "-%t/bus"), finding("InaccessiblePaths", "/x", Verdict.NOT_EFFECTIVE)
    assert exposure([held, held]) < 10.0
    assert exposure([held, open_]) == 10.0


def test_what_not_every_manager_has_makes_up_for_the_rest_but_never_beyond_it() -> None:
    assert exposure([*everything(), *(finding(name) for name in BEYOND)]) == 0.0
    assert exposure([finding("IPAddressDeny", "any")]) < 10.0
    assert {part.directive for part in parts([finding("IPAddressDeny", "any")])} == {*WEIGHTS, "IPAddressDeny"}
    assert exposure([finding("Description"), finding("/etc/systemd/system/x.d/90-y.conf")]) == 10.0


def test_the_manual_has_the_same_table() -> None:
    rows = dict(re.findall(r"^\| `([A-Za-z]+)=` \| (\d+) \|", DOC.read_text(), re.MULTILINE))
    assert {name: int(weight) for name, weight in rows.items()} == {**WEIGHTS, **BEYOND}
    assert f"earned / {sum(WEIGHTS.values())}" in DOC.read_text()
