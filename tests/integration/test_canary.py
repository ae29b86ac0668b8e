"""The canary against a real systemd: it proves a directive exactly where the directive is at work.

As root in the sandbox's own user manager, where hardly anything is refused without a directive, and as an ordinary user
in a second one, where much is refused anyway.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from integration.proofs import SECCOMP, STARTED, UNITS, name_of, prepare, text_of
from integration.proved import RUNTIME
from integration.proved import prove as prove_all
from integration.seconduser import SecondUser, second_user
from userunits import UserUnits, systemctl

Proved = Mapping[str, Any]
"""{unit: {"report": ..., "findings": [...]}}"""


@pytest.fixture(scope="module")
def units() -> Iterator[UserUnits]:
    prepare()
    made = UserUnits("proof")
    for which in UNITS:
        made.write(f"{which}.service", text_of(which))
    systemctl("daemon-reload")
    systemctl("start", *map(name_of, STARTED))
    yield made
    made.remove()


@pytest.fixture(scope="module")
def as_root(units: UserUnits) -> Proved:
    return asyncio.run(prove_all([name_of(which) for which in UNITS]))


@pytest.fixture(scope="module")
def user(units: UserUnits) -> Iterator[SecondUser | None]:
    """None where the sandbox's own manager is an ordinary user's already."""
    if os.getuid() != 0:
        yield None
        return
    folder = Path("/run/second-user")
    folder.mkdir(mode=0o755)
    with second_user(folder) as one:
        one.write_units([(name_of(which), text_of(which)) for which in UNITS])
        one.run("systemctl", "--user", "start", *map(name_of, STARTED))
        yield one


@pytest.fixture(scope="module")
def as_user(user: SecondUser | None, as_root: Proved) -> Proved:
    if user is None:
        return as_root
    found: Proved = json.loads(user.python("integration.proved", *map(name_of, UNITS)))
    return found


@pytest.fixture(params=["as_root", "as_user"])
def proved(request: pytest.FixtureRequest) -> Proved:
    found: Proved = request.getfixturevalue(request.param)
    return found


def found(proved: Proved, which: str, aspect: str) -> list[dict[str, str]]:
    return [f for f in proved[name_of(which)]["findings"] if f["aspect"] == aspect]


def verdicts(proved: Proved, which: str, aspect: str) -> set[str]:
    return {f["verdict"] for f in found(proved, which, aspect)}


def act(proved: Proved, which: str, name: str, of: str = "acts") -> tuple[bool | None, str]:
    (one,) = [r for r in proved[name_of(which)]["report"][of] if r["act"] == name]
    return one["allowed"], one["errno"]


@pytest.mark.parametrize("key", SECCOMP)
def test_a_filter_is_proven(proved: Proved, key: str) -> None:
    which, name = key.lower(), SECCOMP[key][1]
    assert proved[name_of(which)]["report"]["failed"] == ""
    assert act(proved, which, name, "baseline")[0] is True
    assert act(proved, which, name)[0] is False
    assert verdicts(proved, which, key) == {"effective"}


@pytest.mark.parametrize("key", [*SECCOMP, "KeyringMode"])
def test_all_of_them_together(proved: Proved, key: str) -> None:
    """Though the system call filter refuses much of what the others are there for."""
    assert proved[name_of("whole")]["report"]["failed"] == ""
    assert verdicts(proved, "whole", key) == {"effective"}


def test_a_keyring_of_its_own(proved: Proved) -> None:
    assert verdicts(proved, "keyringmode", "KeyringMode") == {"effective"}


def test_a_filter_that_kills(proved: Proved) -> None:
    assert act(proved, "killing", "call:mount") == (False, "SIGSYS")
    assert act(proved, "killing", "call:ptrace") == (False, "SIGSYS")
    assert verdicts(proved, "killing", "SystemCallFilter") == {"effective"}


def test_each_of_two_that_refuse_the_same_is_proven(proved: Proved) -> None:
    assert act(proved, "masked", "realtime", "unfiltered") == (False, "EPERM")
    assert verdicts(proved, "masked", "RestrictRealtime") == {"effective"}


def test_a_command_outside_of_the_sandbox(proved: Proved) -> None:
    assert act(proved, "prefixed", "realtime") == (True, "")
    assert "effective" not in verdicts(proved, "prefixed", "RestrictRealtime")


def test_the_way_out_is_closed(proved: Proved) -> None:
    for which in ("hidden", "whole"):
        assert verdicts(proved, which, "escape") == {"effective"}
        (one,) = found(proved, which, "escape")
        assert "systemd-run --user: EACCES" in one["effective"]
    assert "effective" in verdicts(proved, "hidden", "InaccessiblePaths")


def test_the_way_out_is_open(proved: Proved) -> None:
    for which in ("restrictrealtime", "writable"):
        assert verdicts(proved, which, "escape") == {"not-effective"}
        assert act(proved, which, "systemd-run:--user") == (True, "")


def test_mounts_that_an_ordinary_users_systemd_does_not_do(as_root: Proved, as_user: Proved) -> None:
    """systemd 252 passes them over without PrivateUsers=yes, and says nothing; 257 makes a user namespace itself."""
    version = int(systemctl("--version").split()[1])
    if os.getuid() == 0:
        assert act(as_root, "open", "mount:/usr") == (False, "EROFS")
    expected = (True, "") if version < 257 else (False, "EROFS")
    assert act(as_user, "open", "mount:/usr") == expected
    assert verdicts(as_user, "open", "escape") == {"not-effective" if version < 257 else "effective"}
    assert ("effective" in verdicts(as_user, "open", "ProtectSystem")) == (version >= 257)


def test_what_the_service_may_write(proved: Proved) -> None:
    assert [f for f in proved[name_of("writable")]["findings"] if f["aspect"].startswith("needs")] == []
    writes = [r for r in proved[name_of("writable")]["report"]["acts"] if r["act"].startswith("write:")]
    assert [r["allowed"] for r in writes] == [True]


def test_what_does_not_start(proved: Proved) -> None:
    report = proved[name_of("broken")]["report"]
    assert report["exit_status"] == 226
    (one,) = found(proved, "broken", "canary")
    assert one["verdict"] == "not-effective"
    assert "ReadWritePaths=/nowhere/at/all" in one["cause"]


def test_nothing_is_left(as_root: Proved, as_user: Proved, user: SecondUser | None) -> None:
    listing = ("list-units", "--all", "--no-legend", "agentd-canary-*")
    assert systemctl(*listing) == ""
    assert list((Path(RUNTIME) / "agentd/canary").iterdir()) == []
    if user is not None:
        assert user.run("systemctl", "--user", *listing) == ""
        assert list((user.runtime / "agentd/canary").iterdir()) == []
