"""Errors as RFC 9457 problem details: one table from `kind` to status, one place that answers."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web

from agentd.errors import AgentdError, ConfigError, ConflictError
from agentd.wire import encode, problem

log = logging.getLogger(__name__)

STATUSES: Mapping[str, int] = {
    "bad-request": 400,
    "forbidden": 403,
    "bad-host": 403,
    "local-only": 403,
    "not-found": 404,
    "no-change": 404,
    "method-not-allowed": 405,
    "read-only": 405,
    "conflict": 409,
    "data-loss": 409,
    "gateway-edited": 409,
    "redis-refused-state": 409,
    "body-too-large": 413,
    "config-invalid": 422,
    "gateway-invalid": 422,
    "refused": 422,
    "internal": 500,
    "bus-down": 503,
    "not-ready": 503,
    "redis-loading": 503,
    "redis-timeout": 503,
    "redis-unreachable": 503,
    "stopping": 503,
    "too-many-streams": 503,
}
EXPECTED = 409
"""Any other AgentdError: the request was understood and the state of things forbids it."""


def status_of(kind: str) -> int:
    if kind in STATUSES:
        return STATUSES[kind]
    if kind.endswith("-not-found") or kind.startswith("unknown-"):
        return 404
    if kind.endswith("-timeout"):
        return 504
    return EXPECTED


def respond(
    status: int, kind: str, message: str, *, hint: str = "", headers: Mapping[str, str] | None = None, **extra: Any
) -> web.Response:
    body = encode(problem(status, kind, message, hint=hint, **extra))
    return web.Response(status=status, body=body, content_type="application/problem+json", headers=headers)


def from_error(error: AgentdError) -> web.Response:
    extra: dict[str, Any] = {}
    if isinstance(error, ConflictError):
        extra["change"] = error.change_id
    if isinstance(error, ConfigError):
        extra["problems"] = [str(p) for p in error.problems]
    return respond(status_of(error.kind), error.kind, error.message, hint=error.hint, **extra)


def from_http(error: web.HTTPException, method: str, path: str, known: Iterable[str]) -> web.Response:
    """What aiohttp itself refuses: no such path, wrong method, body too large, malformed request."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        message = f"cannot {method} {path}: allowed is {allowed}"
        return respond(405, "method-not-allowed", message, headers={"Allow": allowed})
    if error.status == 404:
        return respond(
            404, "not-found", f"no such path: {path}", hint=suggest(path, known, "GET /openapi.json lists all")
        )
    if error.status == 413:
        return respond(413, "body-too-large", "the request body is too large: 64 KiB is the limit")
    return respond(error.status, "bad-request", error.reason.lower())


def internal(error: BaseException, method: str, path: str) -> web.Response:
    """A bug: the traceback is for the log, not for the client."""
    log.error("api.internal", exc_info=error, extra={"data": {"method": method, "path": path}})
    return respond(
        500, "internal", "internal error: agentd failed to answer this request", hint="the traceback is in agentd's log"
    )


def suggest(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """`did you mean "qwen"?`, or what exists, or `otherwise` when that is given."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f'did you mean "{close[0]}"?'
    return otherwise or ("there are: " + ", ".join(names) if names else "there is none")
