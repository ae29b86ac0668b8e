"""Keys on this machine: made where they are missing, and checked wherever they have to be equal. Without a daemon."""

from __future__ import annotations

import os
import secrets as randomness
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agentd import paths
from agentd.adapters import gateway_ask
from agentd.adapters.env_files import EnvFiles, read
from agentd.adapters.offline_systemd import environment_files, unit_states
from agentd.core.gateway import env_text, keys
from agentd.core.gateway.model import Catalog
from agentd.core.schema import Settings
from agentd.core.unitfile import merge
from agentd.errors import AgentdError, BusError
from agentd.managers.gateway.keyring import Key, Place, Side, keyring
from agentd.managers.gateway.rotation import MASTER, Holder
from agentd.offline_gateway import Read, gateway_url
from agentd.types import Scope

KNOWN_BY = "name its service in providers.yaml, and in agentd.toml its api_key_file (or EnvironmentFile= in its unit)"
ASK = 10.0
"""Seconds for one question to a running server."""


@dataclass(frozen=True, slots=True)
class Row:
    """One statement. `level`: "ok", "info", "warning" or "error". Never a value of a key."""

    key: str
    where: str
    level: str
    text: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Made:
    """What `init` did with one key. `value` only for who asked to see it."""

    key: str
    where: tuple[str, ...]
    what: str
    """ "made", "kept", "copied"."""
    problem: str = ""
    value: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Ring:
    """All that concerns keys, as it is now."""

    settings: Settings
    catalog: Catalog | None
    keys: tuple[Key, ...]
    env_file: str
    url: str
    """Of the gateway."""
    unit: str
    """Of the gateway; "" where agentd.toml has no service with that role."""
    notes: tuple[str, ...] = ()

    @property
    def scope(self) -> Scope:
        return Scope(self.settings.daemon.scope)


def state_dir(settings: Settings) -> Path:
    return paths.state_dir(system=Scope(settings.daemon.scope) is Scope.SYSTEM) / "secrets"


def ring(found: Read) -> Ring:
    """Raises AgentdError for a file that is there and cannot be read."""
    settings, catalog = found.settings, found.catalog
    policy, notes = settings.gateway, []
    env_file = policy.env_file
    if catalog is None:
        notes.append(
            f"the sources in {found.directory} cannot be read, so only the gateway's own key is looked at;"
            " see: agentctl gateway validate"
        )
    unit_files: dict[str, Mapping[str, frozenset[str]]] = {}
    scope = Scope(settings.daemon.scope)
    for name, service in settings.services.items():
        if service.model is not None:
            unit_files[name] = {path: _names(path) for path in _unit_files(scope, service.unit)}
    gateway = next(((n, s) for n, s in settings.services.items() if s.role == "gateway"), None)
    made = keyring(settings, catalog, env_file, policy.client_env_files, unit_files)
    url = gateway_url(settings, catalog)
    return Ring(settings, catalog, made, env_file, url, gateway[1].unit if gateway else "", tuple(notes))


def init(found: Ring, *, show: bool = False) -> tuple[Made, ...]:
    """Every key exists afterwards, and where it was missing it is the same as elsewhere. What is there is kept. Raises
    AgentdError."""
    files = EnvFiles(state_dir(found.settings))
    with files.lock.held():
        files.ready()
        done: list[Made] = []
        changes: dict[str, dict[str, str | None]] = {}
        for key in found.keys:
            made, wanted = _wanted(key, show=show)
            done.append(made)
            for holder, value in wanted.items():
                changes.setdefault(holder.path, {})[holder.variable] = value
        files.change(changes)
        for path in _own(found):
            files.repair(path)
    return tuple(done)


def _wanted(key: Key, *, show: bool) -> tuple[Made, dict[Holder, str]]:
    values = {place.holder: value(place.holder) for place in key.places}
    there = {found for found in values.values() if found}
    where = tuple(str(holder.path) for holder in values)
    if len(there) > 1:
        problem = "it is not the same everywhere; make it so with: agentctl secrets rotate"
        return Made(key.name, where, "kept", problem), {}
    new = not there
    secret = there.pop() if there else keys.make(randomness.token_bytes(keys.RANDOM))
    missing = {holder: secret for holder, held in values.items() if not held}
    weak = keys.strength(secret, prefix=key.prefix)
    problem = f"{weak}; replace it with: agentctl secrets rotate" if weak else ""
    what = "made" if new else "copied" if missing else "kept"
    shown = tuple(holder.path for holder in missing) if missing else where
    return Made(key.name, shown, what, problem, secret if show else ""), missing


def check(found: Ring, *, network: bool = True) -> tuple[Row, ...]:
    """Present, strong, equal, private; and what the running gateway says to the right, a wrong and no key."""
    rows = []
    for key in found.keys:
        rows += _about(key)
    rows += _modes(found)
    if network:
        rows += _asked(found)
    return tuple(rows)


def _about(key: Key) -> list[Row]:
    label = _label(key)
    reference = value(key.places[0].holder) or ""
    rows = []
    once: dict[Holder, Place] = {}  # Two servers may read one file.
    for place in key.places:
        once.setdefault(place.holder, place)
    for place in once.values():
        where = f"{place.holder.path} ({place.holder.variable})"
        held = value(place.holder)
        if not held:
            text = "there is none" if read(place.holder.path).text is not None else "the file does not exist"
            fix = "agentctl secrets init"
            rows.append(Row(label, where, "error", text, fix))
        elif place.side is Side.GATEWAY:
            weak = keys.strength(held, prefix=key.prefix)
            fix = "agentctl secrets rotate " + ("--master" if key.name == MASTER else "--vllm")
            rows.append(Row(label, where, "error" if weak else "ok", weak or "strong", fix if weak else ""))
        elif not reference:
            rows.append(Row(label, where, "info", "there is one, and the gateway has none to compare it with"))
        elif held != reference:
            whose = "the client" if place.side is Side.CLIENT else f"the server {place.service}"
            text = f"it differs from the gateway's, so {whose} and the gateway do not understand each other"
            rows.append(Row(label, where, "error", text, "agentctl secrets rotate"))
        else:
            rows.append(Row(label, where, "ok", "the same as the gateway's"))
    for name in key.strangers:
        text = "nobody knows where its server has the key, so the two cannot be compared"
        rows.append(Row(label, f"provider {name}", "info", text, KNOWN_BY))
    return rows


def _modes(found: Ring) -> list[Row]:
    rows = []
    own = set(_own(found))
    for path in dict.fromkeys(place.holder.path for key in found.keys for place in key.places):
        file = read(path)
        others = file.open_to()
        if file.text is not None and file.uid != os.geteuid() and path in own:
            rows.append(Row("file", path, "warning", f"it belongs to user {file.uid}", f"chown {os.geteuid()} {path}"))
        if others and (path in own or others == "everybody"):
            rows.append(Row("file", path, "error", f"{others} can read it ({file.mode:04o})", f"chmod 600 {path}"))
    return rows


def _asked(found: Ring) -> list[Row]:
    master = value(found.keys[0].places[0].holder)
    where = f"{found.url}/v1/models"
    if not master:
        return []
    right = gateway_ask.models_status(found.url, master, timeout=ASK)
    if not right:
        return [Row("gateway", where, "info", "it does not run, so no key was tried")]
    wrong = gateway_ask.models_status(found.url, keys.make(randomness.token_bytes(keys.RANDOM)), timeout=ASK)
    none = gateway_ask.models_status(found.url, None, timeout=ASK)
    stale = "it was started with another key: agentctl gateway apply --force, or restart it"
    open_fix = "set general_settings.master_key: agentctl gateway generate, then agentctl gateway apply"
    return [
        _tried("the right key", where, right, (200,), stale),
        _tried("a wrong key", where, wrong, (400, 401, 403), open_fix),
        _tried("no key", where, none, (401, 403), open_fix),
    ]


def _tried(what: str, where: str, status: int, good: tuple[int, ...], fix: str) -> Row:
    if status in good:
        return Row("gateway", where, "ok", f"{what}: {status}")
    if good[0] != 200 and status >= 400:
        return Row("gateway", where, "warning", f"{what}: {status}, not {good[0]}; it is refused all the same")
    return Row("gateway", where, "error", f"{what}: {status or 'no answer'}, not {good[0]}", fix)


def value(holder: Holder) -> str | None:
    """What the place holds. Raises AgentdError for a file that cannot be read."""
    return read(holder.path).value(holder.variable)


def _unit_files(scope: Scope, unit: str) -> tuple[str, ...]:
    """Of the unit's EnvironmentFile=: as systemd has loaded them, else as the file of the unit says."""
    try:
        return environment_files(scope, unit)
    except BusError:
        pass
    try:
        text = (paths.unit_dir(system=scope is Scope.SYSTEM) / unit).read_text("utf-8")
    except (OSError, ValueError):
        return ()
    found = merge([(unit, text)]).get(("Service", "EnvironmentFile"))
    values = found.values if found is not None else ()
    return tuple(value.removeprefix("-").replace("%h", str(paths.home())) for value in values)


def _own(found: Ring) -> tuple[str, ...]:
    """The files that are ours to keep private: not those of clients."""
    places = (place for key in found.keys for place in key.places if place.side is not Side.CLIENT)
    return tuple(dict.fromkeys(place.holder.path for place in places))


def _names(path: str) -> frozenset[str]:
    try:
        text = read(path).text
    except AgentdError:
        return frozenset()
    return frozenset(env_text.parse(text)) if text is not None else frozenset()


def _label(key: Key) -> str:
    return "master key" if key.name == MASTER else key.name


def running(found: Ring) -> bool:
    """The gateway's unit is up, or somebody answers at its address."""
    if found.unit:
        try:
            return unit_states(found.scope, [found.unit])[found.unit].active_state.up
        except BusError:
            pass
    return gateway_ask.models_status(found.url, None, timeout=ASK) != 0
