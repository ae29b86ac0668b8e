"""Profiles: which directives a service gets, from the packaged texts and what the configuration says on top. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from agentd.core import profile_text, profile_values
from agentd.core.dropin import DropIn, Purpose
from agentd.core.profile_text import Entry, ProfileText, Where
from agentd.core.schema import Service, Settings
from agentd.core.schema_hardening import NO_PROFILE, PACKAGED
from agentd.errors import AgentdError
from agentd.evidence import HostEvidence
from agentd.findings import Finding, Severity, Verdict
from agentd.types import Scope

PURPOSES = (Purpose.SECURITY, Purpose.RESOURCES)
BY_ROLE: Mapping[str, str] = {
    "model": "gpu",
    "runtime": "gpu",
    "gateway": "gateway",
    "store": "store",
    "generic": "generic",
}
_RESOURCE = (
    *("AllowedCPUs", "AllowedMemoryNodes", "BlockIO", "CPU", "DefaultMemory", "IO", "Limit", "ManagedOOM", "Memory"),
    *("NUMA", "Nice", "OOM", "Slice", "Startup", "Tasks"),
)


def profile_of(service: Service) -> str:
    """The name of the profile in force, or "none"."""
    if not service.own_unit:
        return NO_PROFILE
    return service.profile or BY_ROLE[service.role]


def desired(settings: Settings, texts: Mapping[str, str], host: HostEvidence) -> tuple[DropIn, ...]:
    """The drop-ins of every service with a profile, in the order of the configuration.

    `texts`: the packaged files by name ("gateway.security.conf"). Raises AgentdError("profile-missing") or
    ("profile-invalid") when these are not as they were shipped.
    """
    found: list[DropIn] = []
    for name, service in settings.services.items():
        if profile_of(service) != NO_PROFILE:
            found += _of_service(name, service, settings, texts, host)
    return tuple(found)


def shortfalls(settings: Settings, host: HostEvidence) -> tuple[Finding, ...]:
    """What the configuration asks for and no drop-in is written for, since this manager could never enforce it."""
    return tuple(
        Finding(
            service.unit,
            "network",
            Verdict.NOT_ENFORCEABLE,
            Severity.WARNING,
            declared=service.network,
            effective="any",
            cause="a user manager cannot filter addresses: only root may load such a filter",
            fix=f'run {service.unit} by the system manager, or set network = "any"',
        )
        for service in settings.services.values()
        if service.network != "any" and profile_of(service) != NO_PROFILE and host.scope is Scope.USER
    )


def _of_service(
    name: str, service: Service, settings: Settings, texts: Mapping[str, str], host: HostEvidence
) -> list[DropIn]:
    profile = profile_of(service)
    where = Where(host.scope.value, host.systemd, service.network)
    drafts: dict[Purpose, tuple[Entry, ...]] = {}
    about: dict[Purpose, tuple[str, ...]] = {}
    for purpose in PURPOSES:
        text = build(profile, purpose, settings, texts)
        about[purpose] = (f"# Profile {profile}.", *text.about)
        drafts[purpose] = profile_text.resolve(text.entries, where)
    note = f"# services.{name}.hardening:"
    wishes = service.hardening
    changes = {**{key: (value,) for key, value in profile_values.single(service).items()}, **wishes.set}
    owners = {key: _owner(key, drafts) for key in changes}
    for purpose in PURPOSES:
        entries = without(drafts[purpose], wishes.unset)
        entries = override(entries, {key: changes[key] for key, owner in owners.items() if owner is purpose}, note)
        if purpose is Purpose.SECURITY:
            entries = extend(entries, profile_values.additional(service, host.scope), note)
        drafts[purpose] = entries
    return [
        DropIn(service.unit, purpose, profile_text.render(about[purpose], entries))
        for purpose, entries in drafts.items()
        if entries
    ]


def build(profile: str, purpose: Purpose, settings: Settings, texts: Mapping[str, str]) -> ProfileText:
    """The profile's text with everything that its configuration changes, conditions still in it."""
    if profile in PACKAGED:
        return _packaged(f"{profile}.{purpose.value}.conf", texts)
    own = settings.profiles[profile]
    base = build(own.base, purpose, settings, texts) if own.base else ProfileText((), ())
    changes = own.security if purpose is Purpose.SECURITY else own.resources
    entries = override(without(base.entries, own.unset), changes, f"# profiles.{profile}:")
    return ProfileText(base.about, entries)


def _packaged(file: str, texts: Mapping[str, str]) -> ProfileText:
    if file not in texts:
        raise AgentdError("profile-missing", f"the packaged profile {file} is missing", hint="install agentd again")
    return profile_text.parse(file, texts[file])


def without(entries: Iterable[Entry], keys: Sequence[str]) -> tuple[Entry, ...]:
    return tuple(entry for entry in entries if entry.key not in keys)


def override(entries: Sequence[Entry], changes: Mapping[str, Sequence[str]], note: str) -> tuple[Entry, ...]:
    """Each changed directive has the new values alone: where it stood, or at the end."""
    found: list[Entry] = []
    placed: set[str] = set()
    for entry in entries:
        if entry.key not in changes:
            found.append(entry)
        elif entry.key not in placed:
            placed.add(entry.key)
            found += _changed(entry, changes[entry.key], note)
    for key, values in changes.items():
        if key not in placed:
            found += _changed(_at_the_end(found, key), values, note)
    return tuple(found)


def extend(entries: Sequence[Entry], more: Mapping[str, str], note: str) -> tuple[Entry, ...]:
    """One more value for each directive that is a list."""
    found = [*entries]
    for key, value in more.items():
        found += _changed(_at_the_end(found, key), (value,), note)
    return tuple(found)


def _changed(entry: Entry, values: Sequence[str], note: str) -> list[Entry]:
    # A condition on the profile's own value is none on what somebody asked for.
    first, *rest = (replace(entry, value=value, conditions=()) for value in values)
    return [replace(first, note=note), *rest]


def _at_the_end(entries: Sequence[Entry], key: str) -> Entry:
    last = max((entry.paragraph for entry in entries), default=0)
    ours = bool(entries) and bool(entries[-1].note) and not entries[-1].comment
    return Entry("Service", key, "", (), last if ours else last + 1)


def _owner(key: str, drafts: Mapping[Purpose, Sequence[Entry]]) -> Purpose:
    """The file that the directive belongs to: where the profile has it, else by its kind."""
    for purpose, entries in drafts.items():
        if any(entry.key == key for entry in entries):
            return purpose
    return Purpose.RESOURCES if is_resource(key) else Purpose.SECURITY


def is_resource(key: str) -> bool:
    return key.startswith(_RESOURCE) and key != "MemoryDenyWriteExecute"
