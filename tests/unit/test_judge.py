"""One verdict for each directive: from the files and from what systemd loaded of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from unit.judge_rig import (
    DEAD,
    DIR,
    DROPIN,
    FRAGMENT,
    NNP,
    NOW,
    UNIT,
    ZZ,
    Unit,
    bare,
    drop,
    sandboxed,
    says,
    seen,
)

from agentd.core.dropin import DropIn, Purpose
from agentd.core.judge import judge
from agentd.evidence import UnitFile
from agentd.findings import Finding, Severity, Verdict


def test_a_finding_says_everything() -> None:
    found = Unit(["NoNewPrivileges=yes"], processes=(NNP,), expected=True).one("NoNewPrivileges")
    assert found == Finding(
        UNIT, "NoNewPrivileges", Verdict.EFFECTIVE, Severity.OK, "yes", "yes", "NoNewPrivs: 1", "", "", f"{DROPIN}:5"
    )


def test_every_unit_file_counts_not_only_ours() -> None:
    unit = Unit(base=["ExecStart=/x", "LimitCORE=0"], others=[drop(ZZ, "Nice=0")])
    assert unit.one("LimitCORE").source == f"{FRAGMENT}:3"
    assert unit.one("Nice").verdict is Verdict.EFFECTIVE


def test_a_file_that_was_never_written_is_not_installed() -> None:
    unit = Unit(["NoNewPrivileges=yes"], expected=True, on_disk=(), files=(drop(FRAGMENT, "ExecStart=/x"),))
    unit = replace(unit, state={"dropin_paths": ()})
    says(unit.one("NoNewPrivileges"), Verdict.NOT_INSTALLED, "does not exist", "agentctl dropins apply")


def test_a_file_that_systemd_has_not_read() -> None:
    unit = Unit(["NoNewPrivileges=yes"], processes=(NNP,), expected=True, state={"dropin_paths": ()})
    found = unit.one("NoNewPrivileges")
    says(found, Verdict.NOT_LOADED, "does not notice it (its directory is new", "systemctl --user daemon-reload")
    noticed = replace(unit, state={"dropin_paths": (), "need_daemon_reload": True})
    assert "notice" not in noticed.one("NoNewPrivileges").cause
    of_the_user = replace(unit, expected=False)
    says(of_the_user.one("NoNewPrivileges"), Verdict.NOT_LOADED, "has not read")


def test_a_removed_file_is_drift_while_systemd_still_has_it() -> None:
    gone = Unit(["NoNewPrivileges=yes"], processes=(NNP,), expected=True)
    view = gone.view()
    view = replace(view, files=(view.files[0], UnitFile(DROPIN, None)), on_disk=())
    found = judge(view, gone.evidence(), gone.host, [gone.dropin], DIR)
    assert {(f.aspect, f.verdict) for f in found} == {
        (DROPIN, Verdict.DRIFT), ("NoNewPrivileges", Verdict.DRIFT),
    }  # fmt: skip


def test_a_file_edited_by_hand_is_drift_and_only_the_changed_lines_are() -> None:
    unit = Unit(["NoNewPrivileges=yes", "Nice=5"], processes=(replace(NNP, nice=5),), expected=True,
                declared=["NoNewPrivileges=yes", "Nice=9"])  # fmt: skip
    text = unit.dropin.text.replace("Nice=9", "Nice=5")
    unit = replace(unit, on_disk=[UnitFile(DROPIN, text, mtime=NOW - 100)])
    found = {f.aspect: f for f in unit.findings()}
    says(found[DROPIN], Verdict.DRIFT, "changed by hand", "agentctl dropins adopt")
    says(found["Nice"], Verdict.DRIFT, "says 5", "--force")
    assert found["Nice"].declared == "9"
    assert found["NoNewPrivileges"].verdict is Verdict.EFFECTIVE


def test_an_older_text_of_ours_is_not_installed_yet() -> None:
    unit = Unit(["Nice=5"], processes=(replace(NNP, nice=5),), expected=True, declared=["Nice=9", "UMask=0077"])
    found = {f.aspect: f for f in unit.findings()}
    says(found["Nice"], Verdict.NOT_INSTALLED, "declared before", "agentctl dropins apply")
    says(found["UMask"], Verdict.NOT_INSTALLED, "the line is gone")
    assert DROPIN not in found


def test_somebody_elses_file_in_our_place_is_drift() -> None:
    unit = Unit(["Nice=5"], expected=True, on_disk=[drop(DROPIN, "Nice=1")])
    says(unit.one(DROPIN), Verdict.DRIFT, "not written by agentd")


@pytest.mark.parametrize(
    ("file", "cause"),
    [
        (UnitFile(DROPIN, ""), "is empty"),
        (UnitFile(DROPIN, "", link="/dev/null"), "a link to /dev/null"),
        (UnitFile(DROPIN, None, link="/dev/null"), "a link to /dev/null"),
    ],
)
def test_an_emptied_or_masked_file(file: UnitFile, cause: str) -> None:
    unit = Unit(["NoNewPrivileges=yes"], processes=(NNP,), expected=True, on_disk=[file])
    says(unit.one("NoNewPrivileges"), Verdict.NOT_LOADED, cause)


def test_a_file_of_the_same_name_elsewhere_takes_its_place() -> None:
    other = drop(f"{DIR}.control/{UNIT}.d/90-agentd-security.conf", "Nice=1")
    unit = Unit(["NoNewPrivileges=yes"], expected=True, on_disk=[other], state={"dropin_paths": (other.path,)})
    says(unit.one("NoNewPrivileges"), Verdict.NOT_LOADED, "has the same name and takes its place")
    before_the_reload = replace(unit, state={})
    says(before_the_reload.one("NoNewPrivileges"), Verdict.NOT_LOADED, "takes its place")


@pytest.mark.parametrize(
    ("state", "cause", "fix"),
    [
        ({"load_state": "not-found", "fragment_path": ""}, "knows no unit", "install the unit"),
        ({"load_state": "masked"}, "is masked by", "systemctl --user unmask"),
        ({"load_state": "bad-setting", "load_error": "no ExecStart"}, "no ExecStart", "systemctl --user status"),
    ],
)
def test_a_unit_that_takes_no_dropins(state: Mapping[str, Any], cause: str, fix: str) -> None:
    unit = Unit(["NoNewPrivileges=yes"], processes=(), expected=True, state={**DEAD, "dropin_paths": (), **state})
    says(unit.one("NoNewPrivileges"), Verdict.NOT_LOADED, cause, fix)


def test_dropins_without_judged_directives_are_told_as_files() -> None:
    drop_in = DropIn(UNIT, Purpose.READINESS, "[Service]\nTimeoutStartSec=5\n")
    unit = Unit()
    (found,) = judge(unit.view(), unit.evidence(), unit.host, [drop_in], DIR)
    assert (found.aspect, found.verdict) == (f"{DIR}/{drop_in.path}", Verdict.NOT_INSTALLED)


def test_slips_of_the_pen() -> None:
    unit = Unit(["ProtectHomes=yes", "Nonsense"], others=[UnitFile(ZZ, "[Unit]\nMemoryMax=1G\n")])
    says(unit.one("ProtectHomes"), Verdict.NOT_LOADED, "unknown to systemd", "did you mean ProtectHome=?")
    says(unit.one("MemoryMax"), Verdict.NOT_LOADED, "in section [Unit]", "move it to section [Service]")
    says(unit.one(DROPIN), Verdict.NOT_LOADED, 'no "="')
    assert unit.one("ProtectHomes").source == f"{DROPIN}:5"


def test_a_value_that_systemd_refuses() -> None:
    says(Unit(["ProtectSystem=maybe"]).one("ProtectSystem"), Verdict.NOT_LOADED, 'cannot read "maybe"', DROPIN)


def test_a_later_file_overrides_ours() -> None:
    unit = Unit(["Nice=5"], processes=(replace(NNP, nice=1),), others=[drop(ZZ, "", "Nice=1")], expected=True)
    found = unit.one("Nice")
    says(found, Verdict.OVERRIDDEN, f"{ZZ}:3 sets Nice=1", f"remove the line in {ZZ}:3")
    assert (found.declared, found.loaded, found.effective, found.source) == ("5", "1", "nice 1", f"{ZZ}:3")
    same = replace(unit, others=[drop(ZZ, "Nice=5")], processes=(replace(NNP, nice=5),))
    assert same.one("Nice").verdict is Verdict.EFFECTIVE


def test_a_later_reset_of_a_list_overrides_ours() -> None:
    inside = seen(sandboxed(bare()), "/srv/data", mode=0, inode=77)
    unit = Unit(["PrivateUsers=yes", "InaccessiblePaths=/srv/data"], processes=(inside,), expected=True)
    assert unit.one("InaccessiblePaths").verdict is Verdict.EFFECTIVE
    reset = replace(unit, others=[drop(ZZ, "InaccessiblePaths=")])
    says(reset.one("InaccessiblePaths"), Verdict.OVERRIDDEN, f"{ZZ}:2 sets InaccessiblePaths=(empty)")


def test_set_property_is_in_force_until_the_next_reload() -> None:
    control = f"{DIR}.control/{UNIT}.d/50-MemoryMax.conf"
    unit = Unit(["MemoryMax=2G"], others=[drop(control, "MemoryMax=1073741824")], properties={"MemoryMax": 1 << 30})
    says(unit.one("MemoryMax"), Verdict.OVERRIDDEN, "set-property put", f"rm {control}")


def test_systemd_still_has_the_old_value() -> None:
    unit = Unit(["Nice=5"], properties={"Nice": 1})
    says(unit.one("Nice"), Verdict.NOT_LOADED, "kept an old time", "systemctl --user daemon-reload")
    late = replace(unit, mtime=NOW - 10)
    says(late.one("Nice"), Verdict.NOT_LOADED, "which systemd does not notice")
    assert "old time" not in late.one("Nice").cause
    noticed = replace(late, state={"need_daemon_reload": True})
    assert noticed.one("Nice").cause.endswith("was changed since")
