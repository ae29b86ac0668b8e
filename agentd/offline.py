"""What agentctl does without a daemon: read the configuration's files. Imported only when such a command runs."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from agentd import paths
from agentd.adapters.config_files import load
from agentd.core import render
from agentd.core.names import unit_of
from agentd.core.probes import effective_probes
from agentd.core.schema import Probe
from agentd.core.settings import LoadedConfig
from agentd.errors import AgentdError
from agentd.types import ActiveState, ProbeKind, Scope, UnitState
from agentd.wire import plain


@dataclass(frozen=True, slots=True)
class OfflineService:
    """A service as the files say it; `check_url` is what its readiness (or start-up) probe asks."""

    unit: str
    scope: str
    check_url: str
    expect: tuple[int, ...] = (200,)


def config(directory: str | None = None) -> LoadedConfig:
    """Raises ConfigError."""
    return load(paths.config_layers(directory), required=paths.config_override(directory), home=str(paths.home()))


def config_text(directory: str | None, *, provenance: bool, defaults: bool) -> str:
    loaded = config(directory)
    if provenance:
        return render.render_provenance(loaded, defaults=defaults)
    return render.render_config(loaded, defaults=defaults) or "# nothing is set"


def config_json(directory: str | None) -> dict[str, Any]:
    return render.config_json(config(directory))


def config_summary(directory: str | None) -> str:
    return render.render_check(config(directory))


def units(directory: str | None = None) -> list[dict[str, str]]:
    """The configured services with systemd's own account of their units. Raises ConfigError, BusError."""
    from agentd.adapters.offline_systemd import unit_states

    settings = config(directory).settings
    states = unit_states(Scope(settings.daemon.scope), [s.unit for s in settings.services.values() if s.own_unit])
    # Of a unit of another manager this one knows nothing, which is no reason to call it missing.
    others = {s.unit: UnitState(s.unit, "loaded", ActiveState.UNKNOWN) for s in settings.services.values()}
    states = {**others, **states}
    return [
        {
            "name": name,
            "role": found.role,
            "unit": found.unit,
            "load_state": states[found.unit].load_state,
            "active_state": states[found.unit].active_state.value,
            "sub_state": states[found.unit].sub_state,
        }
        for name, found in settings.services.items()
    ]


def findings(unit: str, directory: str | None = None, *, prove: bool = False) -> list[dict[str, Any]]:
    """The verdicts about a service's or any unit, or about all, as JSON values. Raises AgentdError, ConfigError."""
    from agentd import offline_hardening

    settings = config(directory).settings
    found = offline_hardening.findings(settings, [unit_of(settings, unit)] if unit else [], prove=prove)
    return [plain(finding) for finding in found]


def stores(name: str, directory: str | None = None) -> list[dict[str, Any]]:
    """The status of a store, or of all, as JSON values. Raises AgentdError, ConfigError."""
    from agentd import offline_stores

    return [plain(status) for status in offline_stores.statuses(config(directory).settings, name)]


def service(name: str, directory: str | None = None) -> OfflineService:
    """Raises AgentdError("service-not-found"), ConfigError."""
    settings = config(directory).settings
    found = settings.services.get(name)
    if found is None:
        close = difflib.get_close_matches(name, settings.services, n=1)
        hint = f'did you mean "{close[0]}"?' if close else "there are: " + (", ".join(settings.services) or "none")
        raise AgentdError("service-not-found", f'no service "{name}" in the configuration', hint=hint)
    probes = effective_probes(found)
    probe = probes.get(ProbeKind.READINESS) or probes.get(ProbeKind.STARTUP)
    url, expect = _question(found.url, probe)
    return OfflineService(found.unit, settings.daemon.scope, url, expect)


def _question(url: str, probe: Probe | None) -> tuple[str, tuple[int, ...]]:
    if probe is not None and probe.http is not None:
        path = probe.http.path
        return path if "://" in path else url.rstrip("/") + path, probe.http.expect
    address = url.partition("://")[2].partition("/")[0]
    return (f"tcp://{address}" if probe is not None and probe.tcp else url), (200,)
