"""New keys for the gateway and the servers behind it, in an order in which no request meets two different ones.

    begin     the old and the new keys are written down
    written   the gateway's file has the new key and, beside it, the old one; the servers' files have the new one
    accepted  the gateway runs with both, which was tried
    shared    the clients' files have the new key; from here on there is only forward
    (closed)  the gateway runs without the old one, which was tried; nothing is written down any more

Until `shared` a failure, and the next run after a kill, bring the old keys back. Servers are down while their key
changes: a server that has loaded its model with the old key cannot learn the new one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from agentd.core.gateway.keys import PREVIOUS
from agentd.errors import AgentdError

BEGIN, WRITTEN, ACCEPTED, SHARED = "begin", "written", "accepted", "shared"
MASTER = "master"
Changes = Mapping[str, Mapping[str, str | None]]


@dataclass(frozen=True, slots=True)
class Holder:
    """A place that holds a key: a variable in a file."""

    path: str
    variable: str


@dataclass(frozen=True, slots=True)
class Secret:
    """A key to be replaced. `name`: "master", or the variable of a provider. `own`: the gateway's and the servers'
    files; `clients`: who sends it. `before`: what these held, in that order; None where there was none."""

    name: str
    old: str = field(repr=False)
    new: str = field(repr=False)
    own: tuple[Holder, ...]
    clients: tuple[Holder, ...] = ()
    before: tuple[str | None, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Rotation:
    """What is under way. `models`: services that serve with an old key and have to be stopped and started."""

    secrets: tuple[Secret, ...]
    gateway: str
    """The gateway's environment file."""
    models: tuple[str, ...] = ()
    phase: str = BEGIN

    @property
    def master(self) -> Secret | None:
        return next((secret for secret in self.secrets if secret.name == MASTER), None)


class Hands(Protocol):
    """What a rotation needs done. Every method blocks, and raises AgentdError when it did not work."""

    def save(self, rotation: Rotation | None) -> None:
        """Write down what is under way; None: nothing any more."""
        ...

    def write(self, changes: Changes) -> None:
        """All files or none."""
        ...

    def values(self, holders: tuple[Holder, ...]) -> tuple[str | None, ...]: ...

    def running(self) -> bool:
        """The gateway serves, or shall serve: it has to be restarted to learn a key."""
        ...

    def reload(self) -> None:
        """The gateway runs with what its environment file says now."""
        ...

    def ask(self, key: str | None) -> int:
        """Status of the gateway's GET /v1/models; 0 when nobody answers."""
        ...

    def stop_models(self, services: tuple[str, ...]) -> None: ...

    def start_models(self, services: tuple[str, ...]) -> None:
        """They answer, with the key in their files and without no other."""
        ...

    def say(self, text: str) -> None: ...


def rotate(rotation: Rotation, hands: Hands, *, overlap: bool = False) -> None:
    """From `begin` to the end, or with `overlap` to `shared`. Raises AgentdError, with the old keys back where the
    message says so."""
    hands.save(rotation)
    passed = [rotation]
    try:
        _to_shared(passed, hands)
    except (AgentdError, KeyboardInterrupt) as error:
        raise _back(passed[-1], hands, error) from None
    rotation = passed[-1]
    if overlap and rotation.master is not None:
        hands.say("the gateway takes the old key and the new one until: agentctl secrets rotate --finish")
        return
    finish(rotation, hands)


def _to_shared(passed: list[Rotation], hands: Hands) -> None:
    """`passed` gets the rotation at every phase that is reached."""
    rotation = passed[0]
    if rotation.models:
        hands.say(f"stopping {', '.join(rotation.models)}: its key changes")
        hands.stop_models(rotation.models)
    hands.write(opening(rotation))
    _reach(passed, WRITTEN, hands)
    if hands.running():
        hands.say("restarting the gateway with the new key" + (", the old one beside it" if rotation.master else ""))
        hands.reload()
        _verify(rotation, hands, both=True)
    if rotation.models:
        hands.say(f"starting {', '.join(rotation.models)}")
        hands.start_models(rotation.models)
    _reach(passed, ACCEPTED, hands)
    clients = _new(rotation, lambda secret: secret.clients)
    if clients:
        hands.write(clients)
        hands.say(f"wrote the new key for the clients: {', '.join(clients)}")
    _reach(passed, SHARED, hands)


def finish(rotation: Rotation, hands: Hands) -> None:
    """The old master key is refused from here on. Raises AgentdError; then the gateway still takes it."""
    if rotation.master is not None:
        hands.write({rotation.gateway: {PREVIOUS: None}})
        if hands.running():
            hands.say("restarting the gateway without the old key")
            try:
                hands.reload()
                _verify(rotation, hands, both=False)
            except AgentdError as error:
                raise AgentdError(
                    "rotation-open",
                    f"cannot end the rotation: {error.message}",
                    hint="the new key is everywhere; try again with: agentctl secrets rotate --finish",
                ) from None
    hands.save(None)


def resume(rotation: Rotation, hands: Hands) -> bool:
    """What a killed run left: True when it was finished, False when the old keys are back. Raises AgentdError."""
    clients = tuple(holder for secret in rotation.secrets for holder in secret.clients)
    new = tuple(secret.new for secret in rotation.secrets for _ in secret.clients)
    if rotation.phase == SHARED or (rotation.phase == ACCEPTED and clients and hands.values(clients) == new):
        finish(replace(rotation, phase=SHARED), hands)
        return True
    undo(rotation, hands)
    return False


def undo(rotation: Rotation, hands: Hands) -> None:
    """The old keys everywhere, and processes that run with them. Raises AgentdError; the next run tries again."""
    changes = _old(rotation, hands)
    if rotation.models and changes:
        hands.stop_models(rotation.models)
    hands.write(_merged(changes, _closing(rotation)))
    if hands.running() and (rotation.phase != BEGIN or not _is_old(rotation, hands)):
        try:
            hands.reload()
        except AgentdError:
            if not _is_old(rotation, hands):  # Else it was never restarted, and need not be.
                raise
        master = rotation.master
        if master is not None and hands.ask(master.old) != 200:
            raise AgentdError("rotation-open", "cannot bring the old key back: the gateway does not take it")
    if rotation.models:
        hands.start_models(rotation.models)
    hands.save(None)


def opening(rotation: Rotation) -> Changes:
    """What `written` means for the files."""
    master = rotation.master
    old = {rotation.gateway: {PREVIOUS: master.old}} if master is not None and master.old else {}
    return _merged(_new(rotation, lambda secret: secret.own), old)


def _closing(rotation: Rotation) -> Changes:
    return {rotation.gateway: {PREVIOUS: None}} if rotation.master is not None else {}


def _new(rotation: Rotation, chosen: Callable[[Secret], tuple[Holder, ...]]) -> Changes:
    found: dict[str, dict[str, str | None]] = {}
    for secret in rotation.secrets:
        for holder in chosen(secret):
            found.setdefault(holder.path, {})[holder.variable] = secret.new
    return found


def _old(rotation: Rotation, hands: Hands) -> Changes:
    """For the places that hold a new key; what somebody put elsewhere meanwhile stays."""
    found: dict[str, dict[str, str | None]] = {}
    for secret in rotation.secrets:
        holders = (*secret.own, *secret.clients)
        for holder, held, before in zip(holders, hands.values(holders), secret.before, strict=True):
            if held == secret.new:
                found.setdefault(holder.path, {})[holder.variable] = before
    return found


def _merged(*parts: Changes) -> Changes:
    found: dict[str, dict[str, str | None]] = {}
    for part in parts:
        for path, values in part.items():
            found.setdefault(path, {}).update(values)
    return found


def _reach(passed: list[Rotation], phase: str, hands: Hands) -> None:
    passed.append(replace(passed[-1], phase=phase))
    hands.save(passed[-1])


def _verify(rotation: Rotation, hands: Hands, *, both: bool) -> None:
    """Right, wrong and no key. Raises AgentdError("rotation-refused")."""
    master = rotation.master
    if master is None:
        return
    wrong = master.new[:-1] + ("A" if master.new[-1] != "A" else "B")
    status = {"the new key": hands.ask(master.new), "no key": hands.ask(None), "a wrong key": hands.ask(wrong)}
    if status["the new key"] != 200:
        raise _unlike("the new key", status["the new key"], "200")
    # A LiteLLM that lacks a package answers 500 to what it refuses; what counts is that it lets nobody in.
    if status["no key"] == 200:
        raise _unlike("no key", 200, "401")
    if status["a wrong key"] == 200:
        raise _unlike("a wrong key", 200, "400 or 401")
    old = hands.ask(master.old) if master.old else 0
    if both and master.old and old != 200:
        hands.say("the gateway does not take the old key beside the new one: it is not run by agentctl gateway serve")
    if not both and old == 200:
        raise AgentdError("rotation-refused", "the gateway still takes the old key")


def _unlike(what: str, status: int, wanted: str) -> AgentdError:
    got = f"{status}" if status else "no answer"
    return AgentdError("rotation-refused", f"the gateway answers {got} to {what}, not {wanted}")


def _is_old(rotation: Rotation, hands: Hands) -> bool:
    """The gateway was not restarted yet."""
    master = rotation.master
    return master is not None and hands.ask(master.old) == 200 and hands.ask(master.new) != 200


def _back(rotation: Rotation, hands: Hands, error: BaseException) -> AgentdError:
    why = error.message if isinstance(error, AgentdError) else "interrupted"
    hint = error.hint if isinstance(error, AgentdError) else ""
    hands.say("bringing the old keys back")
    try:
        undo(rotation, hands)
    except AgentdError as problem:
        return AgentdError(
            "rotation-open",
            f"cannot rotate: {why}; and the old keys are not back: {problem.message}",
            hint="the next agentctl secrets rotate goes on from here",
        )
    return AgentdError("rotation-undone", f"cannot rotate: {why}; the old keys are back", hint=hint)
