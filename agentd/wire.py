"""Requests, responses and the JSON codec that the API and the client share. Standard library only: the CLI uses it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any

from agentd.types import ExitCode, Outcome

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SwitchRequest:
    """POST /v1/switch. `drain` in seconds (None: the model's own; 0: do not wait)."""

    target: str
    drain: float | None = None
    on_busy: str | None = None
    force: bool = False
    rollback: bool = True
    dry_run: bool = False
    automatic: bool = False
    """A program asks for somebody's request, not a person: the slot's thrash protection applies."""
    origin: str = "api"


@dataclass(frozen=True, slots=True)
class UnloadRequest:
    """POST /v1/unload. An empty `slot` means the only slot there is."""

    slot: str = ""
    drain: float | None = None
    on_busy: str | None = None


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """POST /v1/lease. `seconds` from the moment the slot is free."""

    seconds: float
    slot: str = ""
    drain: float | None = None
    on_busy: str | None = None


@dataclass(frozen=True, slots=True)
class SleepCheckRequest:
    """POST /v1/models/sleep-check. `level` 0: the one that the model is configured for, else 1."""

    model: str
    level: int = 0
    drain: float | None = None
    on_busy: str | None = None


@dataclass(frozen=True, slots=True)
class DropinsRequest:
    """POST /v1/dropins/apply. `unit`: a service or a unit; "" for all."""

    unit: str = ""
    restart: bool = False
    """Restart the services whose drop-ins changed, one at a time, and undo those that do not come back."""
    force: bool = False
    """Also replace files of ours that somebody edited."""


@dataclass(frozen=True, slots=True)
class RollbackRequest:
    """POST /v1/dropins/rollback. `set`: the id of an earlier set, or "previous"."""

    set: str = "previous"
    restart: bool = False


@dataclass(frozen=True, slots=True)
class UnitRequest:
    """POST /v1/dropins/verify, /v1/dropins/prove and /v1/dropins/adopt. `unit`: a service or a unit; "" for all,
    where that makes sense."""

    unit: str = ""


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """POST /v1/redis/enforce, /v1/redis/verify and /v1/redis/drill. `store`: a name; "" for all where that only looks
    (verify, a dry run), else for the only one."""

    store: str = ""
    dry_run: bool = False
    """enforce only: what would be done, and nothing is."""
    accept_loss: bool = False
    """enforce only: the data set that is there now is the right one, although it was found empty."""


@dataclass(frozen=True, slots=True)
class BackupRequest:
    """POST /v1/redis/backup. `store`: a name; "" for the only one. `to`: an absolute directory, or "" as configured."""

    store: str = ""
    to: str = ""
    keep: int | None = None
    """So many backups stay; None for the configured number."""


@dataclass(frozen=True, slots=True)
class GatewayRequest:
    """POST /v1/gateway/apply and /v1/gateway/rollback."""

    dry_run: bool = False
    """apply only: what would be done, and nothing is."""
    force: bool = False
    """apply only: also over a file that was edited by hand."""
    version: str = ""
    """rollback only: which one; "" for the one before."""


@dataclass(frozen=True, slots=True)
class GatewayPlan:
    """What an apply would do; with a `refusal` it would not begin."""

    gateway: str
    problems: tuple[str, ...] = ()
    refusal: str = ""
    up_to_date: bool = False
    """The file is as wanted already."""
    delta: str = ""
    left_out: tuple[str, ...] = ()
    way: str = ""
    """"blue-green" or "restart"."""


@dataclass(frozen=True, slots=True)
class EnforcePlan:
    """What an enforcement would do with one store; with `refusals` it would not begin."""

    store: str
    steps: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UnitSummary:
    """One verified unit in a line; `score` from 0 (everything effective) to 10 (nothing)."""

    unit: str
    running: bool
    proven: bool
    verified: float
    """Wall-clock second; 0 when it was never running."""
    cpu_seconds: float
    score: float
    verdicts: Mapping[str, int]
    """Verdict -> number of directives."""


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A drop-in that an installation would write or remove, or leave alone and why."""

    unit: str
    path: str
    action: str
    """"new", "changed", "removed" or "kept"."""
    diff: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class DropinsPlan:
    """GET /v1/dropins. `notes`: files of others that set the same directives."""

    files: tuple[PlannedFile, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DropinSet:
    """An installed set that `rollback` can bring back."""

    id: str
    time: float
    reason: str
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PrecheckItem:
    """One line of a dry run: what was looked at, whether it passes, what was found."""

    check: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class SwitchPlan:
    """The answer to a dry run."""

    slot: str
    target: str
    previous: str | None
    ok: bool
    checks: tuple[PrecheckItem, ...]
    steps: tuple[str, ...]
    estimate_seconds: float | None = None


EXIT_CODES: Mapping[Outcome, ExitCode] = {
    Outcome.DONE: ExitCode.OK,
    Outcome.ALREADY: ExitCode.OK,
    Outcome.RECOVERED: ExitCode.OK,
    Outcome.REFUSED: ExitCode.REFUSED,
    Outcome.DRAIN_REFUSED: ExitCode.DRAIN_REFUSED,
    Outcome.ROLLED_BACK: ExitCode.ROLLED_BACK,
    Outcome.DEGRADED: ExitCode.DEGRADED,
    Outcome.WEDGED: ExitCode.WEDGED,
    Outcome.CANCELLED: ExitCode.CANCELLED,
}


@cache
def shown(kind: type[Any]) -> tuple[str, ...]:
    """The fields of a dataclass that go over the wire: what its repr leaves out, being raw or secret, stays here."""
    return tuple(f.name for f in dataclasses.fields(kind) if f.repr)


_LEAVES = frozenset({str, int, float, bool, type(None)})


def plain(value: Any) -> Any:
    """A dataclass tree as plain JSON values."""
    kind = type(value)
    if kind in _LEAVES:  # Most of it, and the checks below cost.
        return value
    if dataclasses.is_dataclass(kind):
        return {name: plain(getattr(value, name)) for name in shown(kind)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted(plain(v) for v in value)
    return value


def encode(value: Any) -> bytes:
    return json.dumps(plain(value), separators=(",", ":"), ensure_ascii=False).encode()


def problem(status: int, kind: str, message: str, *, hint: str = "", **extra: Any) -> Json:
    """RFC 9457 problem details with our `kind`."""
    body: Json = {"type": "about:blank", "title": kind, "status": status, "detail": message, "kind": kind}
    if hint:
        body["hint"] = hint
    return body | extra
