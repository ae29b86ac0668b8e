"""One verdict for each directive of a unit: what was declared, what systemd loaded, what the kernel does, why. Pure.

Evidence decides, never a version. "effective" is said only of what was seen to hold for every process of the unit;
what nothing shows is not-provable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agentd.core import dropin
from agentd.core.directives import lookup, section_of
from agentd.core.dropin import DropIn
from agentd.core.judge_context import Context, Item
from agentd.core.judge_directive import judge_directive
from agentd.core.judge_files import declared_text, of_expected, of_text, read_now
from agentd.core.judge_lists import credentials
from agentd.core.judge_paths import needed
from agentd.core.loaded import Asked, compare
from agentd.core.unitfile import Directive, Setting, merge, words
from agentd.evidence import HostEvidence, UnitEvidence, UnitView
from agentd.findings import Finding, Verdict, severity_of

__all__ = ["judge", "paths_to_read"]


def paths_to_read(view: UnitView, host: HostEvidence, expected: Sequence[DropIn], unit_dir: str) -> tuple[str, ...]:
    """Every path whose look from inside the unit's processes, and from our own side, `judge` wants."""
    files = [(file.path, file.text or "") for file in read_now(view)]
    ours = [(f"{unit_dir}/{drop.path}", drop.text) for drop in expected if drop.unit == view.state.name]
    section = section_of(view.state.name)
    folder = credentials(_context(view, None, host))
    found: dict[str, None] = {}
    for settings in (merge(files), merge(ours)):
        for (where, key), setting in settings.items():
            spec = lookup(key)
            if spec is not None and where == section:
                asked = Asked(spec, setting, view.properties, view.state.name, host)
                found.update(dict.fromkeys(path for path in needed(asked, folder) if path.startswith("/")))
    return tuple(found)


def judge(
    view: UnitView,
    evidence: UnitEvidence | None,
    host: HostEvidence,
    expected: Sequence[DropIn],
    unit_dir: str,
) -> tuple[Finding, ...]:
    """A finding for each directive of the table in the unit's files or in `expected`; more where entries of a path
    list differ; and one for each file that was edited, and for each line that systemd passes over."""
    context = _context(view, evidence, host)
    findings, settled = of_expected(context, expected, unit_dir)
    findings += of_text(context)
    ours = _our_files(view, expected, unit_dir)
    for (section, key), setting in context.settings.items():
        spec = lookup(key)
        if spec is None or section != context.section or key in settled:
            continue
        asked = Asked(spec, setting, view.properties, view.state.name, host)
        item = Item(spec, setting, compare(asked))
        found = judge_directive(context, item)
        lost = [directive for directive in setting.lost if directive.path in ours]
        findings += [_overridden(context, item, lost, f) for f in found] if _outdone(setting, lost) else found
    return tuple(findings)


def _context(view: UnitView, evidence: UnitEvidence | None, host: HostEvidence) -> Context:
    files = read_now(view)
    processes = evidence.processes if evidence is not None else ()
    main = view.state.main_pid
    return Context(
        view,
        evidence,
        host,
        merge([(file.path, file.text or "") for file in files]),
        section_of(view.state.name),
        {file.path: file.mtime for file in files},
        tuple(sorted(processes, key=lambda p: (p.pid != main, p.started, p.pid))),
    )


def _our_files(view: UnitView, expected: Sequence[DropIn], unit_dir: str) -> frozenset[str]:
    declared = {f"{unit_dir.rstrip('/')}/{drop.path}" for drop in expected}
    return frozenset(declared | {file.path for file in read_now(view) if dropin.is_ours(file.text or "")})


def _outdone(setting: Setting, lost: Sequence[Directive]) -> bool:
    """Something that we declared is not among what counts."""
    there = set(setting.values) | {word for value in setting.values for word in words(value)}
    return any(d.value not in there and not set(words(d.value)) <= there for d in lost if d.value)


def _overridden(context: Context, item: Item, lost: Sequence[Directive], found: Finding) -> Finding:
    winner = item.setting.reset if item.setting.reset is not None else item.setting.where[-1]
    if winner.path in {d.path for d in lost} or found.verdict is Verdict.NOT_LOADED:
        return found
    ours = Setting(tuple(d.value for d in lost), tuple(lost))
    value = declared_text(item.spec, item.setting)
    cause = f"{winner.place} sets {item.spec.key}={value}, and is read after {lost[-1].place}"
    return replace(
        found,
        verdict=Verdict.OVERRIDDEN,
        severity=severity_of(Verdict.OVERRIDDEN),
        declared=declared_text(item.spec, ours),
        cause=cause,
        fix=f"remove the line in {winner.place}, then: {context.systemctl('daemon-reload')}",
        source=winner.place,
    )
