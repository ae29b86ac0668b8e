"""What a canary's report changes in the verdicts about its unit. Pure.

A directive is proven when what it should refuse is possible without it and refused with it. A refusal alone proves
nothing, since the same user may not do most of these things anyway; an act that could not be tried proves nothing
either, and keeps the directive from being called effective.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from agentd.core.acts import ESCAPE, LOOPBACK, acts_for
from agentd.core.acts_types import Act, Expect, key_of, told
from agentd.core.exit_status import SIGSYS, STATUS, diagnose
from agentd.core.proof_results import Results, prove, result_of, shown_as
from agentd.core.unitfile import parse
from agentd.evidence import CanaryReport, HostEvidence, UnitView
from agentd.findings import Finding, Severity, Verdict, severity_of

_CAUSE = "a process with the same directives could do it"
_READ_OUTSIDE = frozenset(
    {"PrivateNetwork", "PrivateIPC", "ProtectHostname", "PrivateUsers", "PrivateMounts", "PrivatePIDs"}
)
"""Namespaces that another command of the unit may get while the main process does not: the process itself has to be
looked at, and the canary may only contradict."""
_PATH_LISTS = frozenset({"InaccessiblePaths", "ReadOnlyPaths", "ReadWritePaths"})
_EXCEPTIONS = {"IPAddressAllow": "IPAddressDeny"}


def combine(
    findings: Sequence[Finding], report: CanaryReport, view: UnitView, host: HostEvidence
) -> tuple[Finding, ...]:
    """The findings with what the canary showed, and findings of its own: "escape", "needs: ..." and "canary"."""
    if report.failed:
        return (*findings, _failed(report, view))
    acts = acts_for(view, host, _addresses(report))
    results = Results(report)
    changed = [_apply(finding, acts, results, report, view) for finding in findings]
    return (*changed, *_needs(acts, results, report), *_escape(acts, results, report))


def _addresses(report: CanaryReport) -> tuple[str, ...]:
    sent = [result.act.partition(":")[2] for result in report.acts if result.act.startswith("send:")]
    return tuple(sent) or (LOOPBACK,)


def _apply(finding: Finding, acts: Sequence[Act], results: Results, report: CanaryReport, view: UnitView) -> Finding:
    key = key_of(finding)
    if finding.verdict not in (Verdict.EFFECTIVE, Verdict.NOT_PROVABLE):
        return finding
    if key in _EXCEPTIONS:
        return _exception(finding, key, acts, results)
    mine = _about(finding, key, acts)
    if not mine:
        return finding
    if key not in report.given:
        return _left_out(finding, key, report)
    proof = prove(mine, results)
    if proof.proven is False:
        cause = proof.cause or _CAUSE
        return _changed(finding, Verdict.NOT_EFFECTIVE, effective=proof.text, cause=cause)
    if finding.verdict is Verdict.EFFECTIVE:
        return finding
    if proof.proven is None:
        return finding if key in _PATH_LISTS or not proof.cause else replace(finding, cause=proof.cause)
    if key in _READ_OUTSIDE or (younger := _younger(view, key)):
        why = f"the process may have been started before {younger} was written" if key not in _READ_OUTSIDE else ""
        return replace(finding, cause=why or finding.cause)
    return _changed(finding, Verdict.EFFECTIVE, effective=proof.text, cause="", fix="")


def _exception(finding: Finding, key: str, acts: Sequence[Act], results: Results) -> Finding:
    """What is let through shows something only where the rest is refused."""
    rule = prove([act for act in acts if _EXCEPTIONS[key] in act.keys], results)
    let = [act for act in acts if key in act.keys and act.expect is Expect.ALLOWED]
    after = [result_of(results.full, act) for act in let]
    if not rule.proven or not let or not all(result.allowed for result in after):
        return finding
    text = told((act.words, "allowed") for act in let)
    return _changed(finding, Verdict.EFFECTIVE, effective=text, cause="", fix="")


def _about(finding: Finding, key: str, acts: Sequence[Act]) -> list[Act]:
    """The acts that show what the finding says. A list of paths has several findings, and each names its own."""
    mine = [act for act in acts if key in act.keys and act.expect is not Expect.ALLOWED]
    if key not in _PATH_LISTS:
        return mine
    named = {word.strip(",;") for text in (finding.declared, finding.effective) for word in text.split()}
    return [act for act in mine if act.argument in named]


def _changed(finding: Finding, verdict: Verdict, **values: str) -> Finding:
    return replace(finding, verdict=verdict, severity=severity_of(verdict), **values)


def _left_out(finding: Finding, key: str, report: CanaryReport) -> Finding:
    why = next((text.partition(": ")[2] for text in report.left_out if text.startswith(f"{key}: ")), "")
    if finding.verdict is not Verdict.NOT_PROVABLE or not why:
        return finding
    return replace(finding, cause=f"the canary could not be given it: {why}")


def _younger(view: UnitView, key: str) -> str:
    """A file with this directive that was written after the process was started; "" when there is none."""
    if not view.started:
        return ""
    for file in view.files:
        if file.mtime > view.started and any(d.key == key for d in parse(file.text or "", file.path).directives):
            return file.path
    return ""


def _needs(acts: Sequence[Act], results: Results, report: CanaryReport) -> Iterator[Finding]:
    """What the service needs, could do without its directives and cannot do with them."""
    for act in acts:
        before, after = results.pair(act)
        if act.expect is Expect.ALLOWED and before.allowed and after.allowed is False:
            verdict = Verdict.NOT_EFFECTIVE
            yield Finding(
                report.unit,
                f"needs: {act.words}",
                verdict,
                severity_of(verdict),
                effective=after.errno,
                cause="the directives of this unit refuse what the service needs",
                fix=_remedy(act),
            )


def _remedy(act: Act) -> str:
    return {
        "write": f"the directory has to exist before the service starts, and to stand in ReadWritePaths={act.argument}",
        "execute": f"BindReadOnlyPaths={act.argument}, or a place that the sandbox does not hide",
        "notify": "leave %t/systemd/notify visible, and AF_UNIX in RestrictAddressFamilies=",
        "device": f"DeviceAllow={act.argument} rw, and PrivateDevices=no",
    }.get(act.kind, "")


def _escape(acts: Sequence[Act], results: Results, report: CanaryReport) -> Iterator[Finding]:
    """The way out through the manager. Without any directive in force there is nothing to get out of."""
    mine = [act for act in acts if ESCAPE in act.keys]
    if not mine or not report.given:
        return
    after = [(act, result_of(results.before, act), result_of(results.full, act)) for act in mine]
    there = [(act, full) for act, before, full in after if before.allowed or full.allowed]
    text = told((act.words, shown_as(act, full)) for act, full in there if full.allowed is not None)
    if any(full.allowed for _, full in there):
        verdict = Verdict.NOT_EFFECTIVE
        cause = "whoever breaks into the service can let the manager start a process outside of this sandbox"
        fix = "InaccessiblePaths=-%t/bus -%t/systemd/private -%t/agentd, with PrivateUsers=yes in a user manager"
        yield Finding(report.unit, ESCAPE, verdict, Severity.WARNING, effective=text, cause=cause, fix=fix)
    elif text:
        yield Finding(report.unit, ESCAPE, Verdict.EFFECTIVE, Severity.OK, effective=text)


def _failed(report: CanaryReport, view: UnitView) -> Finding:
    """The canary did not come to trying anything. When systemd refused, it would refuse the service as well."""
    directives = [d for file in view.files for d in parse(file.text or "", file.path).directives]
    ours = report.exit_status in STATUS
    told = str(diagnose(report.exit_status, report.journal, directives)) if ours else ""
    verdict = Verdict.NOT_EFFECTIVE if ours else Verdict.NOT_PROVABLE
    severity = Severity.ERROR if ours else Severity.WARNING
    cause = told or report.failed
    if report.exit_status == SIGSYS and not ours:
        cause += "; the system call filter leaves too little for a Python program, so nothing can be proven this way"
    return Finding(report.unit, "canary", verdict, severity, effective=report.failed, cause=cause)
