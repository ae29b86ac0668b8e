"""Taking over what somebody wrote by hand: which files change together when a drop-in becomes configuration.

The decisions are in core/adopted.py. In one transaction the fragment is written, our drop-ins get the text that the
configuration then declares, and a hand-written file loses what was taken (or goes, when nothing else is in it). The
originals are in the stored set, so that a rollback brings all of it back. Where our drop-ins are not installed, only
the fragment is written: the hand-written file protects the unit until `apply`, after which it can be adopted away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agentd.core import dropin
from agentd.core.adopted import Declare, Taken, take
from agentd.core.schema import Settings
from agentd.errors import AgentdError
from agentd.managers.hardening.history import Texts
from agentd.managers.hardening.planning import UNREADABLE, Planner

FIRST, LAST = 60, 99
"""Numbers of the fragments: after packaged ones; a later adoption of the same service gets the next one."""


@dataclass(frozen=True, slots=True)
class Adoption:
    """`fragment` is its path, "" when the configuration said it all before. `set_id` is the stored set. `settings` is
    the configuration with it: for a further adoption before the configuration is read anew."""

    path: str
    unit: str
    fragment: str
    message: str
    settings: Settings
    set_id: int | None = None

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class Prepared:
    before: Texts
    after: Texts
    adoption: Adoption


async def prepare(
    path: str, planner: Planner, unit_dir: str, settings: Settings, declare: Declare, config_dir: str
) -> Prepared:
    """Raises AgentdError: there is nothing to take, or it cannot be taken."""
    unit = path.removeprefix(unit_dir + "/").partition(".d/")[0]
    text = await planner.text(path)
    if not path.startswith(unit_dir + "/") or not path.endswith(".conf") or text is None:
        raise AgentdError("adopt-refused", f"cannot take over {path}: no such drop-in in {unit_dir}")
    if text == UNREADABLE:
        raise AgentdError("adopt-refused", f"cannot take over {path}: it is a link, or no text")
    if dropin.is_ours(text) and not dropin.edited(text):
        raise AgentdError("adopt-refused", f"cannot take over {path}: it is as agentd wrote it")
    taken = take(path, text, unit, settings, declare)
    disk = {f"{unit_dir}/{one.path}": await planner.text(f"{unit_dir}/{one.path}") for one in taken.dropins}
    after = _after(path, text, unit_dir, taken, disk)
    fragment = await _free(planner, config_dir, taken.service) if taken.fragment else ""
    if fragment:
        after[fragment] = taken.fragment
    before: dict[str, str | None] = {path: text, **disk}
    changed = {at: new for at, new in after.items() if before.get(at) != new}
    adoption = Adoption(path, unit, fragment, _message(path, fragment, changed), taken.settings)
    return Prepared({at: before.get(at) for at in changed}, changed, adoption)


def _after(path: str, text: str, unit_dir: str, taken: Taken, disk: Mapping[str, str | None]) -> dict[str, str | None]:
    after: dict[str, str | None] = {}
    installed = all(old is not None and old != UNREADABLE and dropin.is_ours(old) for old in disk.values())
    if not dropin.is_ours(text):
        if not installed:
            return after
        after[path] = taken.left
    _as_declared(path, unit_dir, taken, disk)
    for one in taken.dropins:
        at = f"{unit_dir}/{one.path}"
        old = disk[at]
        if at != path and old is not None and (old == UNREADABLE or not dropin.is_ours(old) or dropin.edited(old)):
            if dropin.parse(one.text) != dropin.parse(old):
                raise AgentdError(
                    "adopt-refused", f"cannot take over {path} while {at} is edited", hint="adopt it first"
                )
            continue
        after[at] = one.text
    if dropin.is_ours(text) and path not in after:
        after[path] = None  # Nothing is declared for it any more.
    return after


def _as_declared(path: str, unit_dir: str, taken: Taken, disk: Mapping[str, str | None]) -> None:
    """Nothing else that the configuration wants is to be installed by the way. Raises AgentdError."""
    for one in taken.known:
        old = disk.get(f"{unit_dir}/{one.path}")
        if old is not None and dropin.is_ours(old) and not dropin.edited(old) and old != one.text:
            text = f"cannot take over {path}: {one.path} is not as the configuration declares it"
            raise AgentdError("adopt-refused", text, hint=f"first: agentctl dropins apply {one.unit}")


async def _free(planner: Planner, config_dir: str, service: str) -> str:
    for number in range(FIRST, LAST + 1):
        path = f"{config_dir.rstrip('/')}/{number}-adopted-{service}.toml"
        if await planner.text(path) is None:
            return path
    raise AgentdError("adopt-refused", f"cannot write one more fragment for {service} to {config_dir}")


def _message(path: str, fragment: str, changed: Mapping[str, str | None]) -> str:
    known = f"the configuration says what {path} says"
    text = f"{path} is now part of the configuration, as {fragment}" if fragment else known
    if path not in changed:
        return f"{text}; the file stays until the drop-ins are applied, then adopt it again"
    return f"{text}; the file is removed" if changed[path] is None else text
