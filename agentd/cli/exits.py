"""Exit codes from error kinds and outcomes. Plain numbers, since enum and dataclasses would cost half of the start-up;
a test keeps them equal to types.ExitCode."""

from __future__ import annotations

OK, FAILED, USAGE, REFUSED, DRAIN_REFUSED, ROLLED_BACK, DEGRADED, WEDGED, BUSY, CANCELLED = range(10)
INTERRUPTED = 130

OUTCOMES = {
    "done": OK,
    "already": OK,
    "recovered": OK,
    "refused": REFUSED,
    "drain-refused": DRAIN_REFUSED,
    "rolled-back": ROLLED_BACK,
    "degraded": DEGRADED,
    "wedged": WEDGED,
    "cancelled": CANCELLED,
}
KINDS = {
    "usage": USAGE,
    "bad-request": USAGE,
    "model-not-found": USAGE,
    "service-not-found": USAGE,
    "profile-not-found": USAGE,
    "service-off": REFUSED,
    "unit-not-found": USAGE,
    "unit-invalid": USAGE,
    "slot-not-found": USAGE,
    "change-not-found": USAGE,
    "store-not-found": USAGE,
    "restore-in-use": REFUSED,
    "restore-busy": BUSY,
    "restore-where": USAGE,
    "conflict": BUSY,
    "cooldown": REFUSED,
    "not-resident": REFUSED,
    "not-cancellable": REFUSED,
    "model-exists": REFUSED,
    "model-edited": REFUSED,
    "model-running": REFUSED,
    "model-not-ours": REFUSED,
    "model-files": REFUSED,
    "credential-unsupported": REFUSED,
    "data-loss": REFUSED,
    "redis-refused-state": REFUSED,
    "version-not-found": USAGE,
    "gateway-edit": USAGE,
    "gateway-sources": REFUSED,
    "gateway-invalid": REFUSED,
    "gateway-sources-there": REFUSED,
    "gateway-secret-taken": REFUSED,
    "rotation-stranger": REFUSED,
    "rotation-undone": ROLLED_BACK,
    "rotation-open": DEGRADED,
    "wedged": WEDGED,
}


def of_kind(kind: str) -> int:
    return KINDS.get(kind, FAILED)


def of_change(change: dict[str, object]) -> int:
    """Of a finished change; of one that still runs, OK."""
    code = change.get("exit_code")
    return code if isinstance(code, int) else OUTCOMES.get(str(change.get("outcome") or "done"), FAILED)
