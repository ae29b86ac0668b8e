"""The packaged texts and the language that they are written in."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agentd import resources
from agentd.core.profile_text import Entry, Where, parse, render, resolve
from agentd.core.schema_hardening import PACKAGED
from agentd.errors import AgentdError

ROOT = Path(__file__).resolve().parents[2]
TEXTS = resources.profile_texts()
NEVER_EFFECTIVE_FOR_USERS = {
    *("DeviceAllow", "DevicePolicy", "IPAddressAllow", "IPAddressDeny", "ProcSubset", "ProtectProc"),
    *("RestrictNetworkInterfaces", "SocketBindAllow", "SocketBindDeny"),
}
BREAKS_THE_START = {"PrivateIPC", "PrivateNetwork"}
"""With a second command, such as the one of the readiness drop-in: 226, or the main process in the host's network."""

SAMPLE = """\
# About it.
# Two lines.

[Unit]
# Order.
After=x.socket

[Service]
# One.
A=1
# Two and three.
B=2
C=3
#@ scope=system network=localhost|private
C=4
#@ systemd>=257
D=5

# Six.
#@ systemd<257 scope=user
E=6
F=7
"""


def entries(where: Where) -> list[tuple[str, str]]:
    return [(entry.key, entry.value) for entry in resolve(parse("x", SAMPLE).entries, where)]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (Where("user", 252, "any"), "After A B C E F"),
        (Where("user", 257, "localhost"), "After A B C D"),
        (Where("system", 257, "private"), "After A B C C D"),
        (Where("system", 252, "any"), "After A B C"),
        (Where("system", 0, "localhost"), "After A B C C"),
    ],
)
def test_conditions(where: Where, expected: str) -> None:
    assert [key for key, _ in entries(where)] == expected.split()


def test_comments_go_with_their_directives() -> None:
    text = parse("x", SAMPLE)
    assert render(text.about, resolve(text.entries, Where("system", 257, "any"))) == (
        "# About it.\n# Two lines.\n\n[Unit]\n# Order.\nAfter=x.socket\n\n[Service]\n# One.\nA=1\n"
        "# Two and three.\nB=2\nC=3\nD=5\n"
    )


def test_a_note_stands_above_its_directive_alone() -> None:
    first = Entry("Service", "A", "1", ("# Both.",), 1)
    noted = Entry("Service", "B", "2", ("# Both.",), 1, note="# changed")
    last = Entry("Service", "C", "3", ("# Both.",), 1)
    assert render((), (first, noted, last)) == "\n[Service]\n# Both.\nA=1\n# changed\nB=2\nC=3\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("PrivateTmp", "f.conf:2: neither a directive nor a comment: PrivateTmp"),
        ("private_tmp=yes", "f.conf:2: neither a directive nor a comment: private_tmp=yes"),
        ("#@", "f.conf:2: not a condition: #@"),
        ("#@ scope=user version>3", "f.conf:2: not a condition: version>3"),
    ],
)
def test_a_broken_text_names_its_line(line: str, message: str) -> None:
    with pytest.raises(AgentdError) as caught:
        parse("f.conf", f"[Service]\n{line}\n")
    assert (caught.value.kind, caught.value.message) == ("profile-invalid", message)


def test_a_directive_needs_a_section() -> None:
    with pytest.raises(AgentdError, match=r"f\.conf:1"):
        parse("f.conf", "PrivateTmp=yes\n")


def test_the_packaged_files() -> None:
    assert sorted(TEXTS) == sorted(f"{name}.{kind}.conf" for name in PACKAGED for kind in ("security", "resources"))


@pytest.mark.parametrize("name", TEXTS)
def test_every_packaged_directive_is_explained(name: str) -> None:
    text = parse(name, TEXTS[name])
    assert text.about
    assert [entry.key for entry in text.entries if not entry.comment] == []
    assert [line for line in TEXTS[name].splitlines() if len(line) > 120 or line != line.rstrip()] == []
    assert {entry.section for entry in text.entries} <= {"Unit", "Service"}


@pytest.mark.parametrize("name", [name for name in TEXTS if ".security" in name])
@pytest.mark.parametrize("systemd", [252, 257])
def test_what_every_security_profile_has(name: str, systemd: int) -> None:
    for scope in ("user", "system"):
        for network in ("any", "localhost", "private", "internet"):
            found = resolve(parse(name, TEXTS[name]).entries, Where(scope, systemd, network))
            have = {(entry.key, entry.value) for entry in found}
            keys = {entry.key for entry in found}
            # The one fails closed, the other is not implied inside a user namespace.
            assert {("PrivateUsers", "yes"), ("NoNewPrivileges", "yes"), ("CapabilityBoundingSet", "")} <= have
            assert not keys & BREAKS_THE_START
            hidden = " ".join(entry.value for entry in found if entry.key == "InaccessiblePaths").split()
            if scope == "user":
                assert not keys & NEVER_EFFECTIVE_FOR_USERS
                assert {"-%t/bus", "-%t/systemd/private", "-%t/agentd", "-%h/.ssh"} <= set(hidden)
            else:
                assert {"-/run/systemd/private", "-/run/agentd"} <= set(hidden)
                assert ("IPAddressDeny" in keys) is (network != "any")
            # Type=notify needs %t/systemd/notify; without the dash a missing path is 226.
            assert not {"-%t", "-/run", "-%t/systemd", "-%t/systemd/notify"} & set(hidden)
            assert [path for path in hidden if not path.startswith("-")] == []


def test_a_wheel_carries_them() -> None:
    assert re.search(r'(?m)^dropins = "share/agentd/dropins"$', (ROOT / "pyproject.toml").read_text())
