"""Verdicts from the files alone: not installed, not read by systemd, edited, emptied, masked, misspelt. Pure.

The order of the questions: does the unit take drop-ins at all, is our file there, is it what we declared, has systemd
read it. Where one is answered with no, each directive of the file gets that answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from agentd.core import dropin
from agentd.core.directives import known, lookup, section_of, suggest
from agentd.core.directives_spec import Spec
from agentd.core.dropin import DropIn
from agentd.core.judge_context import Context
from agentd.core.unitfile import Setting, merge, parse
from agentd.evidence import UnitFile, UnitView
from agentd.findings import Finding, Severity, Verdict, severity_of

Key = tuple[str, str]
Reason = tuple[Verdict, str, str]


def read_now(view: UnitView) -> tuple[UnitFile, ...]:
    """The unit file and what systemd would read of drop-ins now; what it once read where that is not known."""
    fragment = tuple(f for f in view.files if f.path == view.state.fragment_path and f.text is not None)
    rest = view.on_disk or tuple(f for f in view.files if f.path != view.state.fragment_path)
    return (*fragment, *(f for f in rest if f.text is not None and f.path != view.state.fragment_path))


def finding(
    context: Context, aspect: str, verdict: Verdict, cause: str, fix: str = "", *,
    declared: str = "", loaded: str = "", effective: str = "", source: str = "", severity: Severity | None = None,
) -> Finding:  # fmt: skip
    return Finding(
        context.unit, aspect, verdict, severity or severity_of(verdict), declared, loaded, effective, cause, fix, source
    )


def declared_text(spec: Spec, setting: Setting) -> str:
    """For a reader: never a credential's content, and "(empty)" for a reset."""
    if spec.key.startswith("SetCredential"):
        return " ".join(value.partition(":")[0] + ":..." for value in setting.values)
    return setting.text or "(empty)"


def of_expected(context: Context, expected: Sequence[DropIn], unit_dir: str) -> tuple[list[Finding], frozenset[str]]:
    """Findings about our drop-ins that are not in force as declared, and the keys that they settle."""
    found: list[Finding] = []
    settled: set[str] = set()
    names = {context.unit, *_aliases(context.view)}
    for drop in expected:
        if drop.unit not in names:
            continue
        path = f"{unit_dir.rstrip('/')}/{drop.path}"
        whole = _whole_file(context, path)
        found += _file_findings(context, path, drop, whole)
        for spec, setting, reason in _missing(context, path, drop, whole):
            verdict, cause, fix = reason
            source = setting.place if whole is None or context.changed.get(path) else path
            text = declared_text(spec, setting)
            found.append(finding(context, spec.key, verdict, cause, fix, declared=text, source=source))
            settled.add(spec.key)
    return found, frozenset(settled)


def _aliases(view: UnitView) -> list[str]:
    names = view.properties.get("Names")
    return [str(name) for name in names] if isinstance(names, list | tuple) else []


def _on_disk(view: UnitView, path: str) -> UnitFile | None:
    found = next((f for f in view.on_disk or view.files if f.path == path), None)
    return found if found is not None and (found.text is not None or found.link) else None


def _whole_file(context: Context, path: str) -> Reason | None:
    """Why nothing of the file counts; None when it does."""
    state, view = context.view.state, context.view
    if not state.exists:
        return Verdict.NOT_LOADED, f"systemd knows no unit {state.name}", "install the unit, or correct its name"
    if state.load_state == "masked":
        link = next((f.path for f in view.files if f.link), state.fragment_path)
        return Verdict.NOT_LOADED, f"the unit is masked by {link or 'a link to /dev/null'}", context.systemctl(
            f"unmask {state.name}"
        )  # fmt: skip
    if state.load_state in ("error", "bad-setting"):
        cause = f"systemd refuses the unit file: {state.load_error or state.load_state}"
        return Verdict.NOT_LOADED, cause, context.systemctl(f"status {state.name}")
    file = _on_disk(view, path)
    if file is None:
        return _no_file(context, path)
    if file.link.endswith("/dev/null"):
        return Verdict.NOT_LOADED, f"{path} is a link to /dev/null, which switches the drop-in off", f"rm {path}"
    if not (file.text or "").strip():
        return Verdict.NOT_LOADED, f"{path} is empty", "agentctl dropins apply --force"
    return None if path in state.dropin_paths else not_read(context, path)


def _no_file(context: Context, path: str) -> Reason:
    name = path.rpartition("/")[2]
    other = next((f.path for f in context.view.on_disk if f.path.endswith("/" + name)), None)
    if other is not None:
        return Verdict.NOT_LOADED, f"{other} has the same name and takes its place", f"rename or remove {other}"
    if path in context.view.state.dropin_paths:
        cause = f"{path} was removed; what systemd still has of it ends with the next daemon-reload"
        return Verdict.DRIFT, cause, "agentctl dropins apply"
    return Verdict.NOT_INSTALLED, f"{path} does not exist", "agentctl dropins apply"


def not_read(context: Context, path: str) -> Reason:
    """The file is there, and systemd has not taken it in."""
    cause = f"systemd has not read {path} yet"
    if not context.view.state.need_daemon_reload:
        cause += ", and does not notice it (its directory is new, or the file kept an old time)"
    return Verdict.NOT_LOADED, cause, context.systemctl("daemon-reload")


def _file_findings(context: Context, path: str, drop: DropIn, whole: Reason | None) -> Iterator[Finding]:
    file = _on_disk(context.view, path)
    if whole is not None:
        if whole[0] is Verdict.DRIFT or not _judged(context, merge([(path, drop.text)])):
            yield finding(context, path, *whole, source=path)
    elif file is not None and file.text is not None and file.text != drop.text:
        reason = _difference(file.text, path)
        if reason[0] is Verdict.DRIFT:
            yield finding(context, path, *reason, source=path)


def _difference(text: str, path: str) -> Reason:
    """Why our file is not what is declared now."""
    parsed = dropin.parse(text)
    if parsed is None:
        return Verdict.DRIFT, f"{path} was not written by agentd, and is kept", "agentctl dropins adopt"
    if parsed.edited:
        fix = "agentctl dropins adopt, or agentctl dropins apply --force"
        return Verdict.DRIFT, f"{path} was changed by hand, and is kept", fix
    return Verdict.NOT_INSTALLED, f"{path} holds what was declared before", "agentctl dropins apply"


def _judged(context: Context, settings: Mapping[Key, Setting]) -> list[tuple[Spec, Setting]]:
    section = section_of(context.unit)
    pairs = ((lookup(key), setting) for (where, key), setting in settings.items() if where == section)
    return [(spec, setting) for spec, setting in pairs if spec is not None]


def _missing(context: Context, path: str, drop: DropIn, whole: Reason | None) -> Iterator[tuple[Spec, Setting, Reason]]:
    """Directives that we declared and that the file, as it is, does not put in force."""
    wanted = _judged(context, merge([(path, drop.text)]))
    if whole is not None:
        yield from ((spec, setting, whole) for spec, setting in wanted)
        return
    file = _on_disk(context.view, path)
    if file is None or file.text is None or file.text == drop.text:
        return
    there = merge([(path, file.text)])
    reason = _difference(file.text, path)
    for spec, setting in wanted:
        other = there.get((section_of(context.unit), spec.key))
        if other is None or other.values != setting.values:
            has = f"{other.place} says {declared_text(spec, other)}" if other is not None else "the line is gone"
            yield spec, setting, (reason[0], f"{reason[1]}: {has}", reason[2])


def of_text(context: Context) -> Iterator[Finding]:
    """Lines that systemd passes over: outside of a section, misspelt, or in the wrong section."""
    for file in read_now(context.view):
        if file.path not in (*context.view.state.dropin_paths, context.view.state.fragment_path):
            continue
        parsed = parse(file.text or "", file.path)
        for problem in parsed.problems:
            cause = f"systemd passes over the line: {problem.text}"
            yield finding(context, file.path, Verdict.NOT_LOADED, cause, "correct the line",
                          source=f"{problem.path}:{problem.line}")  # fmt: skip
        for directive in parsed.directives:
            if known(directive.section, directive.key):
                continue
            meant = suggest(directive.section, directive.key)
            home = section_of(context.unit) if lookup(directive.key) is not None else ""
            cause = f'"{directive.key}" is unknown to systemd in section [{directive.section}]'
            fix = f"did you mean {meant}=?" if meant else "correct or remove the line"
            if home and home != directive.section:
                fix = f"move it to section [{home}]"
            yield finding(context, directive.key, Verdict.NOT_LOADED, cause, fix, declared=directive.value,
                          source=directive.place)  # fmt: skip
