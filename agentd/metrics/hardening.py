"""Families about what is verified of every unit; from the snapshot alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from prometheus_client.core import Metric

from agentd.findings import Finding, Severity, Verdict
from agentd.metrics.families import gauge
from agentd.metrics.view import MetricsView

UNDECIDED = (Verdict.NOT_PROVABLE, Verdict.NOT_RUNNING)
SEVERITIES = (Severity.INFO, Severity.WARNING, Severity.ERROR)


def hardening(view: MetricsView) -> Iterable[Metric]:
    units = view.hardening
    yield gauge(
        "agentd_directive_effective",
        "1 where a declared directive is in effect for every process of the unit, 0 where not; absent while unknown.",
        ("unit", "directive"),
        [
            (key, float(all(values)))
            for key, values in _by_directive(f for unit in units for f in unit.findings).items()
        ],
    )
    counted = [
        ((unit.unit, severity.value), float(sum(f.severity is severity for f in unit.findings)))
        for unit in units
        for severity in SEVERITIES
    ]
    yield gauge("agentd_unit_findings", "Findings about a unit by severity.", ("unit", "severity"), counted)
    host = Counter(f.severity for f in view.host_findings)
    yield gauge(
        "agentd_host_findings",
        "Findings about the host by severity.",
        ("severity",),
        [((severity.value,), float(host[severity])) for severity in SEVERITIES],
    )
    drift = [((u.unit,), float(sum(f.verdict is Verdict.DRIFT for f in u.findings))) for u in units]
    yield gauge("agentd_dropin_drift", "Drop-ins of agentd that somebody edited.", ("unit",), drift)
    verified = [((u.unit,), u.at) for u in units if u.at]
    yield gauge("agentd_hardening_verified_timestamp_seconds", "When the unit was last verified.", ("unit",), verified)
    cost = [((u.unit,), u.cpu_seconds) for u in units if u.at]
    yield gauge("agentd_hardening_verify_cpu_seconds", "CPU time of the last verification.", ("unit",), cost)
    scores = [((u.unit, "agentd"), u.score) for u in units if u.running]
    scores += [((u.unit, "systemd"), u.systemd_score) for u in units if u.systemd_score is not None]
    yield gauge(
        "agentd_exposure_score",
        "Exposure from 0 to 10: by what is in effect (agentd), and by what is written (systemd).",
        ("unit", "source"),
        scores,
    )


def _by_directive(findings: Iterable[Finding]) -> dict[tuple[str, str], list[bool]]:
    """One series per directive, also where it has several findings (one per path)."""
    found: dict[tuple[str, str], list[bool]] = {}
    for finding in findings:
        if finding.verdict not in UNDECIDED and "/" not in finding.aspect:
            key = (finding.subject, finding.aspect)
            found.setdefault(key, []).append(finding.verdict is Verdict.EFFECTIVE)
    return found
