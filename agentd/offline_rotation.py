"""`agentctl secrets rotate`: the files, the processes and the record of a rotation on this machine."""

from __future__ import annotations

import asyncio
import json
import secrets as randomness
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from agentd.adapters import gateway_ask
from agentd.adapters.env_files import EnvFiles, read
from agentd.adapters.files import LocalFiles
from agentd.adapters.offline_systemd import job, unit_states
from agentd.core.gateway import keys
from agentd.core.schema import Settings
from agentd.errors import AgentdError, BusError
from agentd.managers.gateway import rotation as rotating
from agentd.managers.gateway.keyring import Key, Side
from agentd.managers.gateway.rotation import MASTER, Changes, Holder, Rotation, Secret
from agentd.offline_secrets import ASK, KNOWN_BY, Ring, running, state_dir

RECORD = "rotation.json"
VERSION = 1


class Daemon(Protocol):
    """agentd, when it runs. Each answers False when there is none to do it, and raises AgentdError when it failed."""

    def apply(self) -> bool:
        """The gateway restarted with its own configuration, by a standby where there is one."""
        ...

    def stop(self, service: str) -> bool: ...

    def start(self, service: str) -> bool: ...


class LocalHands:
    """See rotation.Hands."""

    def __init__(self, found: Ring, daemon: Daemon, say: Callable[[str], None]) -> None:
        self._ring = found
        self._daemon = daemon
        self._say = say
        self._state = state_dir(found.settings)
        self.files = EnvFiles(self._state)
        self._record = LocalFiles(mode=0o600)

    def load(self) -> Rotation | None:
        """What an earlier run left. Raises AgentdError("rotation-record")."""
        path = self._state / RECORD
        text = asyncio.run(self._record.read(str(path)))
        return None if text is None else _from_json(text, path)

    def save(self, rotation: Rotation | None) -> None:
        text = None if rotation is None else json.dumps({"version": VERSION, **asdict(rotation)})
        asyncio.run(self._record.apply({str(self._state / RECORD): text}))

    def write(self, changes: Changes) -> None:
        self.files.change(changes)

    def values(self, holders: tuple[Holder, ...]) -> tuple[str | None, ...]:
        return tuple(read(holder.path).value(holder.variable) for holder in holders)

    def running(self) -> bool:
        return running(self._ring)

    def reload(self) -> None:
        policy = self._ring.settings.gateway
        try:
            if self._daemon.apply():
                return
        except AgentdError as error:
            if error.kind == "change-failed":
                raise  # A LiteLLM with these keys did not come up; what serves is to stay.
            self.say(f"agentd does not do it ({error.message}); restarting {self._ring.unit or 'it'} by systemd")
        if not self._ring.unit:
            raise AgentdError(
                "rotation-no-unit",
                f"cannot restart the gateway at {self._ring.url}: agentd.toml has no service with the role gateway",
                hint="add one, or restart it yourself while nothing rotates: stop it first, then rotate, then start it",
            )
        job(self._ring.scope, self._ring.unit, "restart", timeout=policy.start_timeout + policy.drain_timeout)
        self._until(self._ring.url, "", policy.start_timeout, self._ring.unit)

    def ask(self, key: str | None) -> int:
        return gateway_ask.models_status(self._ring.url, key, timeout=ASK)

    def stop_models(self, services: tuple[str, ...]) -> None:
        for name in services:
            service = self._ring.settings.services[name]
            if not self._daemon.stop(name):
                job(self._ring.scope, service.unit, "stop", timeout=120.0)

    def start_models(self, services: tuple[str, ...]) -> None:
        for name in services:
            service = self._ring.settings.services[name]
            ready = service.model.ready_timeout if service.model is not None else 600.0
            if not self._daemon.start(name):
                job(self._ring.scope, service.unit, "start", timeout=ready)
            key = self._key_of(name)
            self._until(service.url, key, ready, service.unit)
            if gateway_ask.models_status(service.url, None, timeout=ASK) == 200:
                raise AgentdError("rotation-refused", f"{service.unit} takes requests without a key")

    def say(self, text: str) -> None:
        self._say(text)

    def _key_of(self, service: str) -> str:
        """As its files have it now."""
        holders = (p.holder for k in self._ring.keys for p in k.places if p.service == service)
        return next((found for found in self.values(tuple(holders)) if found), "")

    def _until(self, url: str, key: str, timeout: float, unit: str) -> None:
        """It answers; with `key` also: it takes this key."""
        deadline = time.monotonic() + timeout
        status = 0
        while time.monotonic() < deadline:
            status = gateway_ask.models_status(url, key or None, timeout=ASK)
            if status == 200 or (status and not key):
                return
            time.sleep(0.3)
        got = f"answers {status}" if status else "does not answer"
        raise AgentdError("rotation-refused", f"{unit} {got} after {timeout:g} s", hint=f"see: agentctl logs {unit}")


def unfinished(settings: Settings) -> str:
    """The phase of a rotation that is open or was cut off; "" for none."""
    path = state_dir(settings) / RECORD
    text = asyncio.run(LocalFiles().read(str(path)))
    return "" if text is None else _from_json(text, path).phase


def prepare(found: Ring, *, master: bool, servers: bool) -> Rotation:
    """What a rotation would do; nothing is written. Raises AgentdError("rotation-nothing")."""
    chosen = [key for key in found.keys if (master if key.name == MASTER else servers)]
    if not chosen:
        raise AgentdError("rotation-nothing", "there is no key to rotate", hint="see: agentctl secrets check")
    strange = next((key for key in chosen if key.strangers), None)
    if strange is not None:
        whose = ", ".join(strange.strangers)
        message = f"cannot rotate {strange.name}: nobody knows where the server of {whose} has its key"
        raise AgentdError("rotation-stranger", message, hint=f"{KNOWN_BY}; or rotate the other keys: --master")
    secrets = tuple(_secret(key) for key in chosen)
    names = tuple(dict.fromkeys(name for key in chosen for name in key.services))
    return Rotation(secrets, found.env_file, _up(found, names))


def rotate(found: Ring, hands: LocalHands, rotation: Rotation, *, overlap: bool) -> str:
    """ "rotated", "overlap", "finished" (an earlier one) or "undone" and then rotated. Raises AgentdError."""
    with hands.files.lock.held():
        hands.files.ready()
        left = hands.load()
        if left is not None:
            hands.say(f"an earlier rotation is still open, in the phase {left.phase}; going on from there")
            if rotating.resume(left, hands):
                return "finished"
            hands.say("its keys are taken back")
            # What it put back is what there is now.
            chosen = {secret.name for secret in rotation.secrets}
            keys_now = [key for key in found.keys if key.name in chosen]
            rotation = Rotation(tuple(_secret(key) for key in keys_now), found.env_file, _up(found, rotation.models))
        rotating.rotate(rotation, hands, overlap=overlap)
        return "overlap" if overlap and rotation.master is not None else "rotated"


def finish(hands: LocalHands) -> bool:
    """End an overlap; False when none is open. Raises AgentdError."""
    with hands.files.lock.held():
        hands.files.ready()
        left = hands.load()
        if left is None:
            return False
        if not rotating.resume(left, hands):
            raise AgentdError(
                "rotation-undone", "the rotation was cut off before clients had the new key: it is undone"
            )
        return True


def _secret(key: Key) -> Secret:
    own, clients = key.holders(Side.GATEWAY, Side.SERVER), key.holders(Side.CLIENT)
    before = tuple(read(holder.path).value(holder.variable) for holder in (*own, *clients))
    new = keys.make(randomness.token_bytes(keys.RANDOM))
    return Secret(key.name, before[0] or "", new, own, clients, before)


def _up(found: Ring, services: Sequence[str]) -> tuple[str, ...]:
    """Those whose unit runs; without systemd, those that answer."""
    units = {name: found.settings.services[name].unit for name in services}
    if not units:
        return ()
    try:
        states = unit_states(found.scope, list(units.values()))
    except BusError:
        urls = {name: found.settings.services[name].url for name in services}
        return tuple(n for n, url in urls.items() if url and gateway_ask.models_status(url, None, timeout=ASK))
    return tuple(name for name, unit in units.items() if states[unit].active_state.up)


def _from_json(text: str, path: Path) -> Rotation:
    try:
        data = {VERSION: json.loads(text)}[json.loads(text)["version"]]
        secrets = tuple(
            Secret(
                item["name"],
                item["old"],
                item["new"],
                tuple(Holder(**holder) for holder in item["own"]),
                tuple(Holder(**holder) for holder in item["clients"]),
                tuple(item["before"]),
            )
            for item in data["secrets"]
        )
        return Rotation(secrets, data["gateway"], tuple(data["models"]), data["phase"])
    except (ValueError, KeyError, TypeError):
        raise AgentdError(
            "rotation-record",
            f"cannot read {path}: it is damaged, so an interrupted rotation cannot be finished or undone",
            hint="make the keys equal by hand (agentctl secrets check says where), then remove it",
        ) from None
