"""What somebody wrote into a drop-in by hand, turned into configuration. Pure.

An edited drop-in of ours, or a hand-written one, is taken over as a fragment of the configuration that sets the same
directives (services.NAME.hardening.set and .unset). The fragment is a file that its owner can see and change, and the
drop-ins that the configuration then declares say exactly what the edited file said, so that nothing differs any more.
Whether they do is computed before anything is written; where they would not, it is refused. What hardening is not
about (Environment=, other sections) stays in the hand-written file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from agentd.core import dropin
from agentd.core.dropin import DropIn
from agentd.core.layers import format_key
from agentd.core.profile import is_resource
from agentd.core.schema import Service, Settings
from agentd.core.settings import check
from agentd.core.unitfile import Directive, is_list, parse
from agentd.errors import AgentdError

Declare = Callable[[Settings], Sequence[DropIn]]
"""The drop-ins that a configuration wants."""
Values = dict[str, tuple[str, ...]]
"""Every value of a directive, in order; "" is a reset."""

_KINDS = ("Protect", "Private", "Restrict", "SystemCall", "IPAddress", "SocketBind", "Device", "Lock")
_NAMES = frozenset(
    {
        *("NoNewPrivileges", "CapabilityBoundingSet", "AmbientCapabilities", "SecureBits", "MemoryDenyWriteExecute"),
        *("ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "ExecPaths", "NoExecPaths", "TemporaryFileSystem"),
        *("BindPaths", "BindReadOnlyPaths", "ProcSubset", "KeyringMode", "RemoveIPC", "UMask"),
    }
)

_ORDERLESS = ("ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "IPAddressAllow", "IPAddressDeny")


@dataclass(frozen=True, slots=True)
class Taken:
    """`fragment` is the text for the configuration, "" when it says all of it already. `left` is what stays of the
    file (None: nothing). `dropins` are the unit's drop-ins as they are declared from then on."""

    service: str
    set: Mapping[str, tuple[str, ...]]
    unset: tuple[str, ...]
    fragment: str
    left: str | None
    dropins: tuple[DropIn, ...]
    known: tuple[DropIn, ...]
    settings: Settings


def about_hardening(directive: Directive) -> bool:
    if directive.section != "Service":
        return False
    return directive.key in _NAMES or directive.key.startswith(_KINDS) or is_resource(directive.key)


def takeable(text: str) -> bool:
    return any(about_hardening(directive) for directive in parse(text).directives)


def take(path: str, text: str, unit: str, settings: Settings, declare: Declare) -> Taken:
    """Raises AgentdError("adopt-refused"): the configuration cannot say what the file says."""
    name = next((name for name, service in settings.services.items() if service.unit == unit), None)
    if name is None:
        raise _refused(path, f"{unit} is no service of the configuration")
    now = _of(unit, declare(settings))
    base = _values(d for one in now for d in parse(one.text).directives)
    ours = dropin.is_ours(text)
    wanted = _edited(path, text, base, now) if ours else _added(text, base)
    chosen = {key: values for key, values in wanted.items() if values != base.get(key)}
    gone = tuple(key for key in base if key not in wanted)
    changed, dropins, chosen = _declared(unit, name, settings, declare, wanted, chosen, gone)
    unset = changed.services[name].hardening.unset if gone else ()
    _checked(path, name, chosen, unset)
    fragment = _fragment(path, name, chosen, unset) if chosen or gone else ""
    return Taken(name, chosen, gone, fragment, None if ours else _left(text), dropins, now, changed)


def _edited(path: str, text: str, base: Mapping[str, tuple[str, ...]], now: Sequence[DropIn]) -> Values:
    """An edited file of ours: what it says counts, and what was taken out of it is gone."""
    directives = parse(text, path).directives
    declared = next((one for one in now if path.endswith(f"/{one.path}")), None)
    before = {(d.section, d.key, d.value) for d in parse(declared.text).directives} if declared is not None else set()
    for directive in directives:
        if directive.section != "Service" and (directive.section, directive.key, directive.value) not in before:
            where = f"line {directive.line} sets {directive.key}= in [{directive.section}]"
            raise _refused(path, where, hint="move it to a drop-in of your own")
    found = _values(directives)
    own = _values(parse(declared.text).directives) if declared is not None else {}
    kept = {key: values for key, values in base.items() if key not in own}
    return {**kept, **found}


def _added(text: str, base: Mapping[str, tuple[str, ...]]) -> Values:
    """A file of somebody else: its values replace ours, lists add up unless it resets them."""
    wanted = dict(base)
    for key, values in _values(d for d in parse(text).directives if about_hardening(d)).items():
        if is_list(key) and "" not in values:
            known = base.get(key, ())
            wanted[key] = (*known, *(value for value in values if value not in known))
        else:
            wanted[key] = values if is_list(key) else values[-1:]
    return wanted


def _declared(
    unit: str,
    name: str,
    settings: Settings,
    declare: Declare,
    wanted: Values,
    chosen: Values,
    gone: Sequence[str],
) -> tuple[Settings, tuple[DropIn, ...], Values]:
    """(the configuration with the values, the unit's drop-ins, the values), once these say what is wanted."""
    for _ in range(2):
        service = _with(settings.services[name], chosen, gone)
        changed = replace(settings, services={**settings.services, name: service})
        dropins = _of(unit, declare(changed))
        result = _values(d for one in dropins for d in parse(one.text).directives)
        keys = sorted(wanted.keys() | result.keys())
        wrong = [key for key in keys if not _same(key, wanted.get(key), result.get(key))]
        if not wrong:
            return changed, dropins, chosen
        # What the configuration adds to a list by itself (write_paths) must not be said twice.
        chosen = {key: _less(values, result.get(key, ())) for key, values in chosen.items()}
        chosen = {key: values for key, values in chosen.items() if values}
    named = ", ".join(f"{key}=" for key in wrong)
    hint = f"change services.{name}.hardening or its profile so that it says the same"
    raise AgentdError("adopt-refused", f"cannot take over {named}: the configuration says otherwise", hint=hint)


def _less(values: tuple[str, ...], result: tuple[str, ...]) -> tuple[str, ...]:
    """Without what the configuration adds behind them."""
    found = [*values]
    for more in result[len(values) :]:
        if more in found:
            found.remove(more)
    return tuple(found)


def _same(key: str, one: tuple[str, ...] | None, other: tuple[str, ...] | None) -> bool:
    if one is None or other is None or key not in _ORDERLESS or "" in one:
        return one == other
    return sorted(one) == sorted(other)


def _with(service: Service, chosen: Values, gone: Sequence[str]) -> Service:
    wishes = service.hardening
    unset = (*wishes.unset, *(key for key in gone if key not in wishes.unset))
    return replace(service, hardening=replace(wishes, set={**wishes.set, **chosen}, unset=unset))


def _of(unit: str, dropins: Sequence[DropIn]) -> tuple[DropIn, ...]:
    purposes = (dropin.Purpose.SECURITY, dropin.Purpose.RESOURCES)
    return tuple(one for one in dropins if one.unit == unit and one.purpose in purposes)


def _values(directives: Iterable[Directive]) -> Values:
    found: Values = {}
    for directive in directives:
        found[directive.key] = (*found.get(directive.key, ()), directive.value)
    return found


def _checked(path: str, name: str, chosen: Values, unset: Sequence[str]) -> None:
    table = {"set": {key: list(values) for key, values in chosen.items()}, "unset": list(unset)}
    _, problems = check({"services": {name: {"hardening": table}}}, {}, whole=False)
    if problems:
        raise _refused(path, f"{problems[0].key}: {problems[0].message}")


def _fragment(path: str, name: str, chosen: Values, unset: Sequence[str]) -> str:
    lines = [f"# Taken over from {path}.", "# That file as it was is kept in the history of the drop-ins."]
    if unset:
        lines += [f"[{format_key(('services', name, 'hardening'))}]", f"unset = {_toml(unset)}"]
    if chosen:
        lines += [*([""] if unset else []), f"[{format_key(('services', name, 'hardening', 'set'))}]"]
        lines += [f"{key} = {_toml(values if len(values) > 1 else values[0])}" for key, values in chosen.items()]
    return "\n".join(lines) + "\n"


def _toml(value: str | Sequence[str]) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return "[" + ", ".join(json.dumps(item, ensure_ascii=False) for item in value) + "]"


def _left(text: str) -> str | None:
    """The file without the lines that were taken; None when no directive is left in it."""
    lines = text.splitlines(keepends=True)
    taken: set[int] = set()
    for directive in parse(text).directives:
        if about_hardening(directive):
            at = directive.line - 1
            taken.add(at)
            while at + 1 < len(lines) and (at in taken and _goes_on(lines[at])):
                at += 1
                taken.add(at)
    left = "".join(line for number, line in enumerate(lines) if number not in taken)
    return left if parse(left).directives else None


def _goes_on(line: str) -> bool:
    bare = line.rstrip("\r\n")
    return (len(bare) - len(bare.rstrip("\\"))) % 2 == 1 or bare.lstrip().startswith(("#", ";"))


def _refused(path: str, why: str, *, hint: str = "") -> AgentdError:
    return AgentdError("adopt-refused", f"cannot take over {path}: {why}", hint=hint)
