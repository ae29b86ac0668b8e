"""agentctl secrets rotate: new keys in the order that refuses nobody; through agentd where it runs."""

from __future__ import annotations

from typing import Any

from agentd.cli import exits
from agentd.cli.context import Context
from agentd.cli.follow import wait
from agentd.cli.parser import UsageError
from agentd.cli.terminal import clean
from agentd.client import ApiProblem, Unreachable, quote
from agentd.errors import AgentdError

BEGIN = 60.0
"""Seconds in which agentd has to answer that a change has begun."""
BEFORE = 5
"""So many changes of others are waited for."""


def run(ctx: Context) -> int:
    args = ctx.args
    if args.finish and (args.master or args.vllm or args.overlap or args.dry_run):
        raise UsageError("--finish goes alone")
    from agentd import offline, offline_gateway, offline_rotation, offline_secrets

    found = offline_secrets.ring(offline_gateway.read(offline.config(args.config).settings))
    hands = offline_rotation.LocalHands(found, Daemon(ctx), lambda text: _say(ctx, text))
    if args.finish:
        done = offline_rotation.finish(hands)
        return _told(ctx, "finished" if done else "nothing", "the old key is refused" if done else "nothing is open")
    both = not (args.master or args.vllm)
    rotation = offline_rotation.prepare(found, master=args.master or both, servers=args.vllm or both)
    for note in found.notes:
        _say(ctx, note)
    if args.dry_run:
        return _plan(ctx, rotation, running=hands.running())
    result = offline_rotation.rotate(found, hands, rotation, overlap=args.overlap)
    texts = {
        "rotated": "the keys are new everywhere, and the old ones are refused",
        "overlap": "the keys are new everywhere; the old master key counts until: agentctl secrets rotate --finish",
        "finished": "an earlier rotation is finished; no other one was begun",
    }
    return _told(ctx, result, texts[result])


def _plan(ctx: Context, rotation: Any, *, running: bool) -> int:
    names = ["the master key" if s.name == "master" else s.name for s in rotation.secrets]
    own = list(dict.fromkeys(h.path for s in rotation.secrets for h in s.own))
    clients = list(dict.fromkeys(h.path for s in rotation.secrets for h in s.clients))
    steps = [f"stop {', '.join(rotation.models)}"] if rotation.models else []
    steps.append(f"write new keys ({', '.join(names)}) to {', '.join(own)}")
    if running:
        beside = ", the old master key beside the new one" if rotation.master else ""
        steps.append(f"restart the gateway{beside}, and try the right, a wrong and no key")
    if rotation.models:
        steps.append(f"start {', '.join(rotation.models)} with the new key, and wait until it answers")
    if clients:
        steps.append(f"write the new master key for clients: {', '.join(clients)}")
    if rotation.master:
        end = "restart the gateway without the old key" if running else "take the old key out again"
        steps.append(f"after agentctl secrets rotate --finish: {end}" if ctx.args.overlap else end)
    if ctx.json:
        ctx.print_json({"keys": [s.name for s in rotation.secrets], "steps": steps, "models": list(rotation.models)})
        return exits.OK
    for number, step in enumerate(steps, 1):
        ctx.out.line(f"{number}. {clean(step)}")
    chosen = "".join(f" --{name}" for name in ("master", "vllm", "overlap") if getattr(ctx.args, name))
    ctx.out.line(f"nothing is done; do it with: agentctl secrets rotate{chosen}")
    return exits.OK


def _say(ctx: Context, text: str) -> None:
    if not ctx.json:
        ctx.out.line(clean(text))
        ctx.out.flush()


def _told(ctx: Context, result: str, text: str) -> int:
    ctx.print_json({"result": result}) if ctx.json else ctx.out.line(text)
    return exits.OK


class Daemon:
    """See offline_rotation.Daemon: what agentd does for a rotation, over its socket."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    def apply(self) -> bool:
        return self._changed("/v1/gateway/restart", {})

    def stop(self, service: str) -> bool:
        slot = self._slot(service)
        if slot is None:
            return False
        if slot["resident"] != service:
            return True  # Nothing of it runs.
        return self._changed("/v1/unload", {"slot": slot["name"]})

    def start(self, service: str) -> bool:
        return self._slot(service) is not None and self._changed("/v1/switch", {"target": service})

    def _slot(self, service: str) -> dict[str, Any] | None:
        """The slot that the model lives in; None without agentd, or where it has none."""
        try:
            slots = self._ctx.client.get("/v1/slots")["slots"]
        except Unreachable:
            return None
        return next((slot for slot in slots if service in slot["models"]), None)

    def _changed(self, path: str, body: dict[str, Any]) -> bool:
        """The change is begun and followed to its end. Raises AgentdError when it does not end well."""
        try:
            change = self._begun(path, body)
        except Unreachable:
            return False
        except ApiProblem as problem:
            if problem.status == 404:
                return False  # An agentd that does not look after a gateway.
            raise
        if change is None:
            return True
        ended = wait(self._ctx, change)
        if exits.of_change(ended) != exits.OK:
            message = str(ended["message"] or ended["outcome"])
            raise AgentdError("change-failed", message, hint=str(ended["cause"] or ""))
        return True

    def _begun(self, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """The change; one that is under way already has to end first."""
        for _ in range(BEFORE):
            try:
                answer: dict[str, Any] = self._ctx.client.post(path, body, timeout=BEGIN)
            except ApiProblem as problem:
                other = problem.body.get("change")
                if problem.kind != "conflict" or not other:
                    raise
                wait(self._ctx, self._ctx.client.get(f"/v1/changes/{quote(str(other))}"))
            else:
                change: dict[str, Any] | None = answer["change"]
                return change
        raise AgentdError("conflict", "other changes came in between again and again")
