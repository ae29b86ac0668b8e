"""The admin endpoints of a vLLM server (VLLM_SERVER_DEV_MODE=1): pause, sleep, wake. As of vLLM 0.11 to 0.33.

They are asked for by what they answer, never by a version: a server without one says 404.
"""

from __future__ import annotations

import json
import re

from agentd.errors import AgentdError
from agentd.managers.models.context import ModelUnit, Ports
from agentd.managers.models.endpoint import QUICK, Endpoint, excerpt
from agentd.ports import HttpAnswer

PROMPT = "Count: one, two, three,"
"""What a woken model must go on with as it did after its cold start."""
TOKENS = 8
LEVELS = {"weights_offloaded": 1, "discard_all": 2}
_STATE = re.compile(rb'^vllm:engine_sleep_state\{[^}]*sleep_state="([a-z_]+)"[^}]*\} ([0-9.]+)\s*$', re.MULTILINE)


class SleepError(AgentdError):
    """A sleep or a wake that did not go as it must; `reason` is a label of the counters."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__("sleep-failed", message)
        self.reason = reason


class Admin(Endpoint):
    """One server's admin endpoints. Every answer but 200 raises SleepError, with what was asked and what came."""

    def __init__(self, ports: Ports, model: ModelUnit) -> None:
        super().__init__(ports, model)
        self._name = model.name

    async def sleeping(self, timeout: float = QUICK) -> bool | None:
        """Whether its memory sleeps; None where the server does not say: no such endpoint, no answer, nobody there.

        A server that is only paused calls itself asleep, too. Its metric tells one from the other; without one its own
        word counts, and a wake does no harm to who is awake.
        """
        said = await self._flag("is_sleeping", timeout)
        return said and await self.level(timeout) != 0

    async def level(self, timeout: float = QUICK) -> int | None:
        """Of its sleep, by its metrics: 0 awake (or only paused), 1 or 2; None where they do not say."""
        try:
            answer = await self._ask("/metrics", timeout=timeout)
        except AgentdError:
            return None
        states = {name.decode(): float(value) for name, value in _STATE.findall(answer.body) if float(value)}
        if answer.status != 200 or not _STATE.search(answer.body):
            return None
        return max((LEVELS.get(name, 0) for name in states), default=0)

    async def paused(self, timeout: float = QUICK) -> bool | None:
        return await self._flag("is_paused", timeout)

    async def version(self) -> str:
        """vLLM's own; "" where it is not told."""
        try:
            answer = await self._ask("/version")
            return str(json.loads(answer.body)["version"]) if answer.status == 200 else ""
        except (AgentdError, ValueError, KeyError, TypeError):
            return ""

    async def hold(self, mode: str, timeout: float) -> None:
        """Turn new requests away with 503; `mode` "wait" lets those in flight finish first, "abort" ends them."""
        await self._post(f"/pause?mode={mode}", timeout)

    async def sleep(self, level: int, timeout: float) -> None:
        await self._post(f"/sleep?level={level}&mode=abort", timeout)

    async def wake(self, level: int, timeout: float) -> None:
        """All of it. At level 2 the weights are read anew; a level that nobody knows (0) is treated so, too: it takes
        longer and is right for both."""
        if level == 1:
            _awake(await self._post("/wake_up", timeout))
            return
        await self._post("/wake_up?tags=weights", timeout)
        await self._post("/collective_rpc", timeout, {"method": "reload_weights"})
        _awake(await self._post("/wake_up?tags=kv_cache", timeout))
        await self._post("/reset_prefix_cache", timeout)

    async def say(self, timeout: float) -> str:
        """What comes after the canary prompt, at temperature 0. Raises AgentdError with what came instead."""
        body = {"prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0, "seed": 0}
        return await self.complete(body, timeout)

    async def _flag(self, name: str, timeout: float) -> bool | None:
        try:
            answer = await self._ask(f"/{name}", timeout=timeout)
            found = json.loads(answer.body)[name] if answer.status == 200 else None
        except (AgentdError, ValueError, KeyError, TypeError):
            return None
        return found if isinstance(found, bool) else None

    async def _post(self, path: str, timeout: float, body: object | None = None) -> HttpAnswer:
        what = path.partition("?")[0]
        try:
            answer = await self._ask(path, timeout=timeout, method="POST", body=body)
        except AgentdError as error:
            late = error.kind == "probe-timeout"
            text = f"{self._name} did not answer {what} within {timeout:.3g} s" if late else error.message
            raise SleepError("timeout" if late else "error", text) from error
        if answer.status != 200:
            raise SleepError("error", f"{self._name} answered {what} with {answer.status}: {excerpt(answer)}")
        return answer


def _awake(answer: HttpAnswer) -> None:
    """Where the answer tells a state it must be the right one; older versions answer nothing."""
    try:
        state = json.loads(answer.body)["status"]
    except (ValueError, KeyError, TypeError):
        return
    if state != "awake":
        raise SleepError("error", f"the server says that it is {state} after /wake_up")
