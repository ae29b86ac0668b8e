"""What a canary's report does to the verdicts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentd.canary import calls
from agentd.core import acts_filters
from agentd.core.acts import acts_for, names
from agentd.core.acts_types import FAMILIES, Act, Expect
from agentd.core.proof import combine
from agentd.evidence import ActResult, CanaryReport, HostEvidence, UnitFile, UnitView
from agentd.findings import Finding, Severity, Verdict
from agentd.types import Scope, UnitState

UNIT = "a.service"
HOST = HostEvidence(scope=Scope.USER, uid=1000, home="/home/user", runtime_dir="/run/user/1000", manager_pid=700)
ALL_NAMESPACES = 0x7E020000
OPEN, SHUT, UNKNOWN = (True, ""), (False, "EPERM"), (None, "")


def view(**properties: object) -> UnitView:
    return UnitView(UnitState(UNIT), properties)


def finding(aspect: str, verdict: Verdict = Verdict.NOT_PROVABLE, **more: str) -> Finding:
    return Finding(UNIT, aspect, verdict, Severity.INFO, **more)


def result(act: str, allowed: bool | None, errno: str = "", detail: str = "") -> ActResult:
    return ActResult(act, allowed, errno, detail)


def report(before: ActResult, after: ActResult, *given: str, unfiltered: ActResult | None = None) -> CanaryReport:
    extra = (unfiltered,) if unfiltered is not None else ()
    return CanaryReport(UNIT, (after,), baseline=(before,), unfiltered=extra, given=given)


def verdict_of(found: tuple[Finding, ...], aspect: str) -> Finding:
    (one,) = [f for f in found if f.aspect == aspect]
    return one


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (OPEN, SHUT, Verdict.EFFECTIVE),
        (OPEN, OPEN, Verdict.NOT_EFFECTIVE),
        (SHUT, SHUT, Verdict.NOT_PROVABLE),
        (SHUT, OPEN, Verdict.NOT_EFFECTIVE),
        (OPEN, UNKNOWN, Verdict.NOT_PROVABLE),
        (UNKNOWN, SHUT, Verdict.NOT_PROVABLE),
        (SHUT, UNKNOWN, Verdict.NOT_PROVABLE),
    ],
)
def test_only_a_difference_proves(
    before: tuple[bool | None, str], after: tuple[bool | None, str], verdict: Verdict
) -> None:
    told = report(result("realtime", *before), result("realtime", *after), "RestrictRealtime")
    (found,) = combine([finding("RestrictRealtime")], told, view(RestrictRealtime=True), HOST)
    assert found.verdict is verdict
    assert (found.effective == "realtime scheduling: EPERM") == (verdict is Verdict.EFFECTIVE)
    assert bool(found.cause) == (found.verdict is Verdict.NOT_EFFECTIVE or SHUT in (before,) or after == UNKNOWN)


def test_one_act_that_goes_through_is_enough_to_contradict() -> None:
    told = CanaryReport(
        UNIT,
        (result("mmap-wx", False, "EPERM"), result("mprotect-x", True)),
        baseline=(result("mmap-wx", True), result("mprotect-x", True)),
        given=("MemoryDenyWriteExecute",),
    )
    seen = view(MemoryDenyWriteExecute=True)
    for verdict in (Verdict.NOT_PROVABLE, Verdict.EFFECTIVE):
        (found,) = combine([finding("MemoryDenyWriteExecute", verdict)], told, seen, HOST)
        assert (found.verdict, found.severity) == (Verdict.NOT_EFFECTIVE, Severity.ERROR)
        assert found.effective == "mprotect W to X: allowed"


def test_an_act_that_could_not_be_tried_keeps_the_others_from_proving() -> None:
    told = CanaryReport(
        UNIT,
        (result("mmap-wx", False, "EPERM"), result("mprotect-x", None, detail="no ctypes")),
        baseline=(result("mmap-wx", True), result("mprotect-x", True)),
        given=("MemoryDenyWriteExecute",),
    )
    (found,) = combine([finding("MemoryDenyWriteExecute")], told, view(MemoryDenyWriteExecute=True), HOST)
    assert found.verdict is Verdict.NOT_PROVABLE
    assert found.cause == "could not be tried: mprotect W to X: no ctypes"


def test_a_directive_that_the_canary_did_not_get_is_not_judged() -> None:
    told = report(result("realtime", True), result("realtime", False, "EPERM"))
    told = replace(told, left_out=("RestrictRealtime: systemd did not take it over",))
    (found,) = combine([finding("RestrictRealtime")], told, view(RestrictRealtime=True), HOST)
    assert found.verdict is Verdict.NOT_PROVABLE
    assert found.cause == "the canary could not be given it: systemd did not take it over"


@pytest.mark.parametrize(
    "verdict", [v for v in Verdict if v not in (Verdict.NOT_PROVABLE, Verdict.EFFECTIVE)], ids=lambda v: str(v)
)
def test_other_verdicts_stay(verdict: Verdict) -> None:
    told = report(result("realtime", True), result("realtime", False, "EPERM"), "RestrictRealtime")
    before = finding("RestrictRealtime", verdict)
    assert combine([before], told, view(RestrictRealtime=True), HOST) == (before,)


def test_what_the_filter_refuses_is_not_another_directives_doing() -> None:
    """RestrictRealtime is without effect, but SystemCallFilter refuses the call that it is about."""
    told = report(
        result("realtime", True),
        result("realtime", False, "EPERM"),
        "RestrictRealtime",
        "SystemCallFilter",
        unfiltered=result("realtime", True),
    )
    seen = view(RestrictRealtime=True, SystemCallFilter=[True, ["read"]])
    (found,) = combine([finding("RestrictRealtime")], told, seen, HOST)
    assert found.verdict is Verdict.NOT_EFFECTIVE


def test_what_another_directive_refuses_is_not_the_filters_doing() -> None:
    told = report(
        result("call:adjtimex", True),
        result("call:adjtimex", False, "EPERM"),
        "SystemCallFilter",
        unfiltered=result("call:adjtimex", False, "EPERM"),
    )
    seen = view(SystemCallFilter=[False, ["adjtimex"]], SystemCallErrorNumber=1)
    (found,) = combine([finding("SystemCallFilter")], told, seen, HOST)
    assert found.verdict is Verdict.NOT_PROVABLE


def test_the_filters_canary_that_failed_proves_nothing() -> None:
    told = replace(report(result("realtime", True), result("realtime", False, "EPERM"), "RestrictRealtime"))
    told = replace(told, given=("RestrictRealtime", "SystemCallFilter"), unfiltered=())
    seen = view(RestrictRealtime=True, SystemCallFilter=[True, ["read"]])
    (found,) = combine([finding("RestrictRealtime")], told, seen, HOST)
    assert found.verdict is Verdict.NOT_PROVABLE


def test_a_refusal_for_another_reason_proves_nothing() -> None:
    """The node is not there (PrivateDevices), which is not the device policy's doing."""
    seen = view(DevicePolicy="closed")
    acts = ("device:/dev/fuse", "device:/dev/net/tun", "device:/dev/kvm", "device:/dev/kmsg")
    told = CanaryReport(
        UNIT,
        tuple(result(act, False, "ENOENT") for act in acts),
        baseline=tuple(result(act, True) for act in acts),
        given=("DevicePolicy",),
    )
    (found,) = combine([finding("DevicePolicy")], told, seen, HOST)
    assert found.verdict is Verdict.NOT_PROVABLE
    told = replace(told, acts=tuple(result(act, False, "EPERM") for act in acts))
    (found,) = combine([finding("DevicePolicy")], told, seen, HOST)
    assert found.verdict is Verdict.EFFECTIVE


def test_a_process_older_than_the_file_is_not_proven_by_a_canary() -> None:
    told = report(result("realtime", True), result("realtime", False, "EPERM"), "RestrictRealtime")
    file = UnitFile("/etc/x.conf", "[Service]\nRestrictRealtime=yes\n", mtime=200.0)
    seen = replace(view(RestrictRealtime=True), files=(file,), started=100.0)
    (found,) = combine([finding("RestrictRealtime")], told, seen, HOST)
    assert found.verdict is Verdict.NOT_PROVABLE
    assert "/etc/x.conf" in found.cause
    (found,) = combine([finding("RestrictRealtime")], told, replace(seen, started=300.0), HOST)
    assert found.verdict is Verdict.EFFECTIVE


def test_a_namespace_is_shown_by_the_process_alone() -> None:
    """PrivateNetwork= with a second command leaves the main process in the host's network."""
    seen = view(PrivateNetwork=True)
    one, other = result("identity:ns/net", True, detail="net:[1]"), result("identity:ns/net", True, detail="net:[2]")
    (found,) = combine([finding("PrivateNetwork")], report(one, other, "PrivateNetwork"), seen, HOST)
    assert found.verdict is Verdict.NOT_PROVABLE
    (found,) = combine([finding("PrivateNetwork")], report(one, one, "PrivateNetwork"), seen, HOST)
    assert found.verdict is Verdict.NOT_EFFECTIVE


def test_a_keyring_of_its_own() -> None:
    seen = view(KeyringMode="private")
    one, other = result("identity:keyring", True, detail="17"), result("identity:keyring", True, detail="18")
    (found,) = combine([finding("KeyringMode")], report(one, other, "KeyringMode"), seen, HOST)
    assert (found.verdict, found.effective) == (Verdict.EFFECTIVE, "own keyring: 18")
    (found,) = combine([finding("KeyringMode")], report(one, one, "KeyringMode"), seen, HOST)
    assert found.verdict is Verdict.NOT_EFFECTIVE


@pytest.mark.parametrize(
    ("bounding", "found", "verdict"),
    [
        (0, "0000000000000000", Verdict.EFFECTIVE),
        (0, "0000000000000400", Verdict.NOT_EFFECTIVE),
        (0x401, "0000000000000400", Verdict.EFFECTIVE),
        (0x401, "000001ffffffffff", Verdict.NOT_EFFECTIVE),
    ],
)
def test_no_capability_beyond_those_wanted(bounding: int, found: str, verdict: Verdict) -> None:
    told = report(
        result("value:CapBnd", True, detail="1"), result("value:CapBnd", True, detail=found), "CapabilityBoundingSet"
    )
    (one,) = combine([finding("CapabilityBoundingSet")], told, view(CapabilityBoundingSet=bounding), HOST)
    assert one.verdict is verdict


def test_a_capability_that_is_granted() -> None:
    seen = view(AmbientCapabilities=0x400)
    bound = result("value:CapAmb", True, detail="0000000000000400")

    def judged(before: bool, after: bool, errno: str = "EACCES") -> Verdict:
        told = CanaryReport(
            UNIT,
            (bound, result("bind:1023", after, "" if after else errno)),
            baseline=(result("bind:1023", before, "" if before else "EACCES"),),
            given=("AmbientCapabilities",),
        )
        return combine([finding("AmbientCapabilities")], told, seen, HOST)[0].verdict

    assert judged(False, True) is Verdict.EFFECTIVE
    assert judged(False, False) is Verdict.NOT_EFFECTIVE
    assert judged(False, False, "EPERM") is Verdict.NOT_PROVABLE  # that is SocketBindDeny=


@pytest.mark.parametrize(
    ("denied", "allowed", "verdict"),
    [(False, True, Verdict.EFFECTIVE), (True, True, Verdict.NOT_PROVABLE), (False, False, Verdict.NOT_PROVABLE)],
)
def test_an_exception_counts_beside_a_rule_that_holds(denied: bool, allowed: bool, verdict: Verdict) -> None:
    seen = view(IPAddressDeny=[[2, bytes(4), 0]], IPAddressAllow=[[2, bytes([127, 0, 0, 0]), 8]])
    acts = {"send:127.0.0.1": allowed, "send:10.1.2.3": denied}
    told = CanaryReport(
        UNIT,
        tuple(result(act, ok, "" if ok else "EPERM") for act, ok in acts.items()),
        baseline=tuple(result(act, True) for act in acts),
        given=("IPAddressDeny", "IPAddressAllow"),
    )
    found = combine([finding("IPAddressAllow"), finding("IPAddressDeny")], told, seen, HOST)
    assert found[0].verdict is verdict
    assert found[1].verdict is (Verdict.NOT_EFFECTIVE if denied else Verdict.EFFECTIVE)


def test_findings_about_several_paths_are_told_apart() -> None:
    seen = view(InaccessiblePaths=["-/home/user/.ssh", "/srv"])
    told = CanaryReport(
        UNIT,
        (result("read:/home/user/.ssh", True), result("read:/srv", False, "EACCES")),
        baseline=(result("read:/home/user/.ssh", True), result("read:/srv", True)),
        given=("InaccessiblePaths",),
    )
    both = [
        finding("InaccessiblePaths", Verdict.EFFECTIVE, effective="/srv hidden, /etc/x hidden"),
        finding("InaccessiblePaths", declared="/home/user/.ssh"),
        finding("InaccessiblePaths", declared="-%h/.gnupg", cause="it does not exist"),
    ]
    first, second, third = combine(both, told, seen, HOST)
    assert first == both[0]
    assert (second.verdict, second.effective) == (Verdict.NOT_EFFECTIVE, "read /home/user/.ssh: allowed")
    assert third == both[2]


def test_what_the_service_needs_and_cannot_do() -> None:
    seen = view(ReadWritePaths=["-/srv"], ExecStart=[["/usr/bin/x", ["x"], False]])
    told = CanaryReport(
        UNIT,
        (result("write:/srv", False, "EROFS"), result("execute:/usr/bin/x", True)),
        baseline=(result("write:/srv", True), result("execute:/usr/bin/x", True)),
        given=("ReadWritePaths",),
    )
    (found,) = combine([], told, seen, HOST)
    assert (found.aspect, found.verdict, found.severity) == (
        "needs: write /srv",
        Verdict.NOT_EFFECTIVE,
        Severity.ERROR,
    )
    assert found.effective == "EROFS"
    assert "ReadWritePaths=/srv" in found.fix
    told = replace(told, baseline=(result("write:/srv", False, "EACCES"), result("execute:/usr/bin/x", True)))
    assert combine([], told, seen, HOST) == ()


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (OPEN, (False, "EACCES"), Verdict.EFFECTIVE),
        (OPEN, OPEN, Verdict.NOT_EFFECTIVE),
        (SHUT, SHUT, None),
        (OPEN, UNKNOWN, None),
    ],
)
def test_the_way_out_through_the_manager(
    before: tuple[bool | None, str], after: tuple[bool | None, str], verdict: Verdict | None
) -> None:
    act = "bus:/run/user/1000/bus"
    told = report(result(act, *before), result(act, *after), "ProtectSystem")
    found = [f.verdict for f in combine([], told, view(), HOST) if f.aspect == "escape"]
    assert found == ([verdict] if verdict else [])


def test_nothing_to_get_out_of() -> None:
    act = "bus:/run/user/1000/bus"
    assert combine([], report(result(act, True), result(act, True)), view(), HOST) == ()


def test_a_canary_that_systemd_did_not_start() -> None:
    line = "a.service: Failed to set up mount namespacing: /run/systemd/unit-root/nowhere: No such file or directory"
    told = CanaryReport(UNIT, failed="226/NAMESPACE: ...", exit_status=226, journal=(line,))
    file = UnitFile("/etc/x.conf", "[Service]\nReadWritePaths=/nowhere\n")
    before = finding("RestrictRealtime")
    first, second = combine([before], told, replace(view(), files=(file,)), HOST)
    assert first == before
    assert (second.aspect, second.verdict, second.severity) == ("canary", Verdict.NOT_EFFECTIVE, Severity.ERROR)
    assert "ReadWritePaths=/nowhere (/etc/x.conf:2)" in second.cause


def test_a_canary_that_ended_by_itself() -> None:
    told = CanaryReport(UNIT, failed="killed by signal 31", exit_status=31)
    (found,) = combine([], told, view(), HOST)
    assert (found.verdict, found.severity) == (Verdict.NOT_PROVABLE, Severity.WARNING)
    assert "Python" in found.cause


# -- which acts ------------------------------------------------------------------------------------------------------


def test_the_program_knows_every_act() -> None:
    assert set(acts_filters.CALLS) == set(calls.CALLS)
    assert dict(acts_filters.NAMESPACES) == calls.NAMESPACES


def named(kind: str, **properties: object) -> set[str]:
    return {a.argument for a in acts_for(view(**properties), HOST) if a.kind == kind and a.expect is Expect.DENIED}


def test_a_filter_is_tried_with_what_it_refuses() -> None:
    assert named("call", SystemCallFilter=[True, ["mount", "ptrace:1"]]) == set(acts_filters.CALLS) - {"mount"}
    assert named("call", SystemCallFilter=[False, ["mount", "read"]]) == {"mount"}
    assert named("call", SystemCallFilter=[False, []]) == set()
    # Refused with what the kernel says to wrong arguments, it cannot be told from a call that got through.
    assert named("call", SystemCallFilter=[False, ["mount"]], SystemCallErrorNumber=22) == set()
    assert named("call", SystemCallFilter=[False, ["mount:EINVAL", "bpf"]]) == {"bpf"}


def test_the_answer_of_a_filter() -> None:
    seen = view(SystemCallFilter=[False, ["mount"]], SystemCallErrorNumber=13)
    assert Act("call:mount", ("SystemCallErrorNumber",), errno="EACCES") in acts_for(seen, HOST)


def test_families_and_namespaces() -> None:
    numbers = {str(number) for number in FAMILIES.values()}
    assert named("family", RestrictAddressFamilies=[True, ["AF_UNIX", "AF_INET"]]) == numbers - {"1", "2"}
    assert named("family", RestrictAddressFamilies=[True, []]) == numbers
    assert named("family", RestrictAddressFamilies=[False, ["AF_PACKET"]]) == {"17"}
    assert named("family", RestrictAddressFamilies=[False, []]) == set()
    assert named("unshare", RestrictNamespaces=ALL_NAMESPACES) == set()
    assert named("unshare", RestrictNamespaces=ALL_NAMESPACES - 0x10000000) == {"user"}
    assert len(named("unshare", RestrictNamespaces=0)) == 7


def test_what_is_writable_is_not_expected_to_be_read_only() -> None:
    assert named("mount", ProtectSystem="full", ReadWritePaths=["-/etc"]) == {"/usr"}
    assert named("mount", ReadOnlyPaths=["/srv/a"], ReadWritePaths=["/srv"]) == set()


def test_policies_on_addresses_and_ports() -> None:
    deny = {"IPAddressDeny": [[2, bytes(4), 0], [10, bytes(16), 0]]}
    seen = view(**deny, IPAddressAllow=[[2, bytes([127, 0, 0, 0]), 8]])
    acts = {a.name: a.expect for a in acts_for(seen, HOST, ("127.0.0.1", "10.1.2.3", "fe80::1")) if a.kind == "send"}
    assert acts == {"send:127.0.0.1": "allowed", "send:10.1.2.3": "denied", "send:fe80::1": "denied"}
    assert not [a for a in acts_for(view(), HOST, ("127.0.0.1",)) if a.kind == "send"]
    assert named("bind", SocketBindDeny=[[0, 0, 0, 0]], SocketBindAllow=[[2, 6, 1, 49151]]) == {"40961", "32999"}


def test_what_lasts_is_tried_last() -> None:
    seen = view(LockPersonality=True, UMask=0o77, LimitNOFILE=256, RestrictRealtime=True, NoNewPrivileges=True)
    assert names(acts_for(seen, HOST))[-3:] == ("personality", "value:umask", "open-files:256")


def test_no_escape_from_a_system_service_of_an_ordinary_user() -> None:
    system = replace(HOST, scope=Scope.SYSTEM)
    assert not [a for a in acts_for(view(User="ai"), system) if "escape" in a.keys]
    assert [a for a in acts_for(view(User=""), system) if "escape" in a.keys]
