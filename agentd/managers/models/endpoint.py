"""Questions to a vLLM server: which model, how busy, does a token come. Endpoints as of vLLM 0.11 to 0.33."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from agentd.errors import AgentdError
from agentd.managers.models.context import Busy, ModelUnit, Ports
from agentd.managers.models.listening import accepts
from agentd.ports import HttpAnswer

_BUSY = re.compile(rb"^vllm:num_requests_(running|waiting)(?:\{[^}]*\})? ([0-9.eE+]+)\s*$", re.MULTILINE)
QUICK = 2.0
"""Seconds for an answer that needs no model work."""


class Endpoint:
    """One model server, with its key when it has one."""

    def __init__(self, ports: Ports, model: ModelUnit) -> None:
        self._ports = ports
        self._model = model

    async def _ask(
        self, path: str, *, timeout: float = QUICK, method: str = "GET", body: object | None = None
    ) -> HttpAnswer:
        headers = await self._headers() if path.startswith("/v1") else {}
        url = self._model.url.rstrip("/") + path
        return await self._ports.prober.http(url, timeout=timeout, method=method, headers=headers, json=body)

    async def _headers(self) -> dict[str, str]:
        key = await self.key()
        return {"Authorization": f"Bearer {key}"} if key else {}

    async def key(self) -> str:
        """The API key, or "" when the model has none. Raises AgentdError("key-missing")."""
        spec = self._model.spec
        if not spec.api_key_file:
            return ""
        text = await self._ports.files.read(spec.api_key_file)
        key = _find_key(text, spec.api_key_name) if text is not None else ""
        if not key:
            why = f"has no {spec.api_key_name}" if text is not None else "does not exist"
            whose = f"the API key of {self._model.name}"
            raise AgentdError("key-missing", f"cannot read {whose}: {spec.api_key_file} {why}")
        return key

    async def healthy(self) -> bool:
        return (await self._ask("/health")).status == 200

    async def served_names(self) -> tuple[str, ...]:
        """Ids that /v1/models lists. Raises AgentdError with the status when it does not answer 200."""
        answer = await self._ask("/v1/models")
        if answer.status != 200:
            raise AgentdError("probe-failed", f"/v1/models answered {answer.status}{_hint(answer.status)}")
        try:
            return tuple(str(m["id"]) for m in json.loads(answer.body)["data"])
        except (ValueError, KeyError, TypeError) as error:
            raise AgentdError("probe-failed", "/v1/models answered something that is not a model list") from error

    async def canary(self, timeout: float) -> None:
        """One token. Raises AgentdError with what came instead."""
        await self.complete({"prompt": "Hello", "max_tokens": 1}, timeout)

    async def complete(self, body: Mapping[str, object], timeout: float) -> str:
        """The text of a completion. Raises AgentdError with what came instead."""
        body = {"model": self._model.spec.served_name, **body}
        what = "a one-token completion" if body.get("max_tokens") == 1 else "a short completion"
        answer = await self._ask("/v1/completions", timeout=timeout, method="POST", body=body)
        if answer.status != 200:
            raise AgentdError("canary-failed", f"{what} answered {answer.status}: {excerpt(answer)}")
        try:
            choices = json.loads(answer.body)["choices"]
            if choices:
                return str(choices[0].get("text") or "")
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        raise AgentdError("canary-failed", f"{what} came without a choice: {excerpt(answer)}")

    async def busy(self) -> Busy:
        """Requests running and waiting, from /metrics."""
        try:
            answer = await self._ask("/metrics")
        except AgentdError as error:
            # Who takes connections may be at work, whatever is wrong with the answer.
            if error.kind == "probe-failed" and not await accepts(self._ports, self._model):
                return Busy(0, "not listening")
            return Busy(None, error.message)
        counts = [float(value) for _, value in _BUSY.findall(answer.body)]
        if answer.status != 200 or not counts:
            return Busy(None, f"/metrics answered {answer.status} without request counts")
        return Busy(int(sum(counts)))

    async def pause(self, timeout: float) -> bool:
        """Refuse new requests while those in flight finish; False where the server cannot.

        `mode=wait` answers only once it is empty, so a timeout of ours still leaves the gate closed.
        """
        try:
            if (await self._ask("/is_paused")).status != 200:
                return False
        except AgentdError:
            return False
        try:
            return (await self._ask("/pause?mode=wait", timeout=timeout, method="POST")).status == 200
        except AgentdError as error:
            return error.kind == "probe-timeout"

    async def resume(self) -> None:
        """Undo `pause`; harmless when it was not paused."""
        await self._ask("/resume", method="POST")


def _find_key(text: str, name: str) -> str:
    """The value of NAME=value, or the whole text when it is a bare key."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    for line in lines:
        left, sign, right = line.partition("=")
        if sign and left.strip() == name:
            return right.strip().strip("\"'")
    return lines[0] if len(lines) == 1 and "=" not in lines[0] else ""


def _hint(status: int) -> str:
    return " (the API key in api_key_file is not the server's)" if status == 401 else ""


def excerpt(answer: HttpAnswer) -> str:
    """The beginning of an answer, for a message."""
    text = answer.body.decode("utf-8", "replace").strip().replace("\n", " ")
    return text[:200] or "empty answer"
