"""What a change of the profile of use would do: which services stop and start, which models, which settings. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from agentd.core.render import settings_list
from agentd.core.schema import Service, Settings
from agentd.core.settings import LoadedConfig

NONE = "none"
"""How "no profile" is called where a name stands."""
_ENABLED = ".enabled"
_MODEL_STARTS_WITH = ("utilization", "max_model_len", "tensor_parallel")


@dataclass(frozen=True, slots=True)
class ProfileRequest:
    """POST /v1/profile/use. `name` "": no profile."""

    name: str
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class SettingChange:
    """A setting in force before and after, as TOML writes it; "" where it is not there."""

    key: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class ProfilePlan:
    """Names are those of services; `settings` does not repeat which services run."""

    profile: str
    previous: str
    start: tuple[str, ...] = ()
    """No models; in the order in which they depend on each other."""
    stop: tuple[str, ...] = ()
    """Models that sleep, too."""
    unload: tuple[str, ...] = ()
    """Models that serve, and whose slot is empty afterwards."""
    switch: tuple[str, ...] = ()
    """Models that become resident in their slot."""
    units: tuple[str, ...] = ()
    """Units whose hardening or limits change."""
    settings: tuple[SettingChange, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        acts = (*self.start, *self.stop, *self.unload, *self.switch)
        return self.profile == self.previous and not acts and not self.settings


@dataclass(frozen=True, slots=True)
class Running:
    """What is up now: services by name, and slot -> its resident. `held`: slots that are lent out or wedged."""

    up: frozenset[str]
    residents: Mapping[str, str | None]
    held: frozenset[str] = frozenset()


def plan_use(old: LoadedConfig, new: LoadedConfig, now: Running) -> ProfilePlan:
    """From the configuration in force to the next one."""
    before, after = old.settings, new.settings
    serving = {name for name in now.residents.values() if name}
    off = {name for name, service in after.services.items() if not service.enabled}
    unload, switch = _slots(before, after, now, off)
    stop = [n for n in after.services if n in off and n in now.up and n not in serving]
    start = [n for n in after.services if n not in now.up and _starts(n, before.services.get(n), new)]
    changed = setting_changes(old, new)
    units = tuple(s.unit for n, s in after.services.items() if _hardened(before, n) != _hardened(after, n))
    return ProfilePlan(
        new.profile, old.profile, in_order(after, start), in_order(after, stop)[::-1], unload, switch, units,
        tuple(change for change in changed if not change.key.endswith(_ENABLED)), tuple(_notes(changed, units)),
    )  # fmt: skip


def setting_changes(old: LoadedConfig, new: LoadedConfig) -> list[SettingChange]:
    before = {row.key: row.text for row in settings_list(old, defaults=True)}
    after = {row.key: row.text for row in settings_list(new, defaults=True)}
    keys = dict.fromkeys([*after, *before])
    changes = (SettingChange(key, before.get(key, ""), after.get(key, "")) for key in keys)
    return [change for change in changes if change.before != change.after]


def in_order(settings: Settings, names: Iterable[str]) -> tuple[str, ...]:
    """What others depend on comes first."""
    wanted = set(names)
    ordered: dict[str, None] = {}

    def add(name: str, trail: frozenset[str]) -> None:
        if name in trail or name not in settings.services:
            return
        for other in settings.services[name].depends_on:
            add(other, trail | {name})
        if name in wanted:
            ordered[name] = None

    for name in settings.services:
        add(name, frozenset())
    return tuple(ordered)


def _starts(name: str, before: Service | None, new: LoadedConfig) -> bool:
    """A service that the profile before switched off, or that this one asks for; what a person has stopped otherwise
    stays so. Models are the slots' affair."""
    service = new.settings.services[name]
    if service.model is not None or not service.enabled:
        return False
    origin = new.provenance.get(("services", name, "enabled"))
    asked = bool(new.profile) and origin is not None and origin.file == new.files[-1]
    return asked or (before is not None and not before.enabled)


def _slots(
    before: Settings, after: Settings, now: Running, off: Collection[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Models to unload, models to switch to. A model that may go on serving is left alone, whatever the default is."""
    unload, switch = [], []
    for name, slot in after.slots.items():
        resident = now.residents.get(name)
        if name in now.held or (resident is not None and resident not in off):
            continue
        old_default = before.slots[name].default if name in before.slots else ""
        came_back = slot.default and (not old_default or not before.services[old_default].enabled)
        if slot.default and (resident is not None or came_back):
            switch.append(slot.default)
        elif resident is not None:
            unload.append(resident)
    return tuple(unload), tuple(switch)


def _hardened(settings: Settings, name: str) -> object:
    service = settings.services.get(name)
    if service is None:
        return None
    return service.hardening, service.profile, service.network, settings.profiles, settings.hardening


def _notes(changed: Iterable[SettingChange], units: Collection[str]) -> Iterable[str]:
    models = dict.fromkeys(
        change.key.split(".")[1] for change in changed if change.key.endswith(_MODEL_STARTS_WITH) and change.after
    )
    if models:
        yield f"what concerns vLLM's own flags counts from the next start of: {', '.join(models)}"
    later = [c.key for c in changed if c.key in ("daemon.bus_timeout", "daemon.event_history", "daemon.log_format")]
    if later:
        yield f"counts from the next start of agentd: {', '.join(later)}"
    if units:
        yield "limits count for a running service as far as systemd sets them while it runs"
