"""Asks agentd to make a model resident: POST /v1/switch on its unix socket."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TIMEOUT = 10.0
"""agentd answers at once; the switch itself runs on."""
_LARGEST = 1 << 20
_LATER = ("conflict", "switch-suppressed")
"""Kinds of a refusal that may be over soon: another change runs, or the present model has only just come."""


@dataclass(frozen=True)
class Answer:
    """`problem` "": the switch is under way, or done. `busy`: not now, ask again later."""

    problem: str = ""
    busy: bool = False


def socket_path(environ: Mapping[str, str] = os.environ) -> str:
    given = environ.get("AGENTD_SOCKET", "")
    runtime = environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    return given or str(Path(runtime, "agentd", "agentd.sock"))


class Asking:
    def __init__(self, path: str) -> None:
        self._path = path
        self._asked: dict[str, asyncio.Task[Answer]] = {}

    async def switch(self, target: str) -> Answer:
        """One question for all who ask for the same target meanwhile. Never raises for what agentd says."""
        task = self._asked.get(target)
        if task is None or task.done():
            task = self._asked[target] = asyncio.ensure_future(self._ask(target))
        return await asyncio.shield(task)

    async def _ask(self, target: str) -> Answer:
        question = asyncio.ensure_future(post(self._path, "/v1/switch", {"target": target, "automatic": True}))
        done, _ = await asyncio.wait({question}, timeout=TIMEOUT)
        if not done:
            question.cancel()
            return Answer(f"agentd did not answer within {TIMEOUT:g} s")
        error = question.exception()
        if error is not None:
            detail = getattr(error, "strerror", None) or type(error).__name__
            return Answer(f"agentd cannot be reached at {self._path}: {detail}")
        return judge(*question.result())


def judge(status: int, body: bytes) -> Answer:
    """From agentd's answer; errors are problem details with `kind` and `detail`."""
    if 200 <= status < 300:
        return Answer()
    try:
        problem = json.loads(body)
    except ValueError:
        problem = None
    kind = str(problem.get("kind", "")) if isinstance(problem, dict) else ""
    detail = str(problem.get("detail", "")) if isinstance(problem, dict) else ""
    return Answer(f"agentd refused to switch: {detail or f'status {status}'}", busy=kind in _LATER)


async def post(path: str, target: str, body: Mapping[str, object]) -> tuple[int, bytes]:
    """One HTTP request on a unix socket, by hand: (status, body). Raises OSError, ValueError."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        data = json.dumps(body).encode()
        head = (
            f"POST {target} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"content-length: {len(data)}\r\nconnection: close\r\n\r\n"
        )
        writer.write(head.encode() + data)
        await writer.drain()
        answer = await reader.read(_LARGEST)
        while part := await reader.read(_LARGEST):
            answer += part
            if len(answer) > _LARGEST:
                raise ValueError("the answer is too long")
    finally:
        writer.close()
    first, _, rest = answer.partition(b"\r\n")
    return int(first.split(b" ", 2)[1]), rest.partition(b"\r\n\r\n")[2]
