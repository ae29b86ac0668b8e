"""A canary's results, compared: what a directive refuses that is possible without it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agentd.core.acts_types import Act, Expect, told
from agentd.evidence import ActResult, CanaryReport

FILTER = "SystemCallFilter"
_FILTERING = frozenset({FILTER, "SystemCallErrorNumber"})


@dataclass(frozen=True, slots=True)
class Proof:
    """`proven` is None where the acts show neither."""

    proven: bool | None
    text: str
    cause: str = ""


class Results:
    """A report's results by act: with all directives, without the filter, without any."""

    def __init__(self, report: CanaryReport) -> None:
        self.full = _by_name(report.acts)
        self.before = _by_name(report.baseline)
        self.unfiltered = _by_name(report.unfiltered) if FILTER in report.given else self.full

    def pair(self, act: Act) -> tuple[ActResult, ActResult]:
        """Without and with the directive. SystemCallFilter is what makes the difference between everything and
        everything but it; the others are compared without it, since it may refuse the same."""
        if act.expect in (Expect.ALLOWED, Expect.VALUE):
            return result_of(self.before, act), result_of(self.full, act)
        if _FILTERING & set(act.keys):
            return result_of(self.unfiltered, act), result_of(self.full, act)
        return result_of(self.before, act), result_of(self.unfiltered, act)


def _by_name(results: Sequence[ActResult]) -> Mapping[str, ActResult]:
    return {result.act: result for result in results}


def result_of(results: Mapping[str, ActResult], act: Act) -> ActResult:
    return results.get(act.name) or ActResult(act.name, None, detail="not in the report")


def prove(acts: Sequence[Act], results: Results) -> Proof:
    """All acts of one directive together."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for act in acts:
        before, after = results.pair(act)
        outcome = _outcome(act, before, after)
        result = {"anyway": shown_as(act, before), "untried": after.detail or after.errno}.get(outcome)
        groups.setdefault(outcome, []).append((act.words, shown_as(act, after) if result is None else result))
    if "disproved" in groups:
        return Proof(False, told(groups["disproved"]))
    shown = told(groups.get("proven", ()))
    if "untried" in groups:
        return Proof(None, shown, f"could not be tried: {told(groups['untried'], most=3)}")
    if shown:
        return Proof(True, shown)
    if "anyway" in groups:
        return Proof(None, "", f"without the directive it is the same: {told(groups['anyway'], most=3)}")
    return Proof(None, "")


def _outcome(act: Act, before: ActResult, after: ActResult) -> str:
    """ "proven", "disproved", "anyway" (the same without the directive), "untried", or "" (nothing there to try)."""
    match act.expect:
        case Expect.VALUE:
            return "untried" if after.allowed is not True else ("proven" if _equals(act, after) else "disproved")
        case Expect.DIFFERS:
            if before.allowed is not True or after.allowed is not True:
                return "untried"
            return "proven" if before.detail != after.detail else "disproved"
        case Expect.GRANTED:
            if before.allowed is None or after.allowed is None:
                return "untried"
            if after.allowed:
                return "anyway" if before.allowed else "proven"
            return "disproved" if after.errno == act.errno else "untried"
        case _:
            if before.allowed is None:
                return ""
            if before.allowed is False:
                return "anyway" if not after.allowed else "disproved"
            if after.allowed:
                return "disproved"
            other_reason = act.errno and after.errno != act.errno
            return "untried" if after.allowed is None or other_reason else "proven"


def _equals(act: Act, result: ActResult) -> bool:
    if act.value[:2] in ("<=", ">="):
        wanted, found = int(act.value[2:], 16), int(result.detail, 16)
        return not found & ~wanted if act.value.startswith("<=") else not wanted & ~found
    return result.detail == act.value


def shown_as(act: Act, result: ActResult) -> str:
    if act.expect in (Expect.VALUE, Expect.DIFFERS):
        return result.detail
    return "allowed" if result.allowed else result.errno
