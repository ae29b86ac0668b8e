"""`agentctl models show` and `verify`: what the configuration, the unit's file and the model's files say."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentd import offline, paths
from agentd.adapters import fileset, weight_checks
from agentd.core import dropin, model_unit
from agentd.core.leaves import suggest
from agentd.core.redact import redact
from agentd.core.schema import Model, Service, Settings
from agentd.core.unitfile import merge
from agentd.errors import AgentdError, ConfigError
from agentd.ports_models import CheckedFiles
from agentd.wire import plain


def show(name: str) -> dict[str, Any]:
    """What needs no daemon, as JSON values without a secret. Raises AgentdError("model-not-found"), ConfigError."""
    service, model = _model(name, offline.config().settings)
    text = _unit_text(service.unit)
    files = _checked(model.path, weight_checks.check(model.path)) if model.path else None
    return {
        "name": name,
        "unit": service.unit,
        "url": service.url,
        "owner": _owner(text),
        "command": _command(text, _dropins(service.unit)),
        "model": _values(model),
        "api_key": _key(model),
        "files": files,
    }


def _values(model: Model) -> dict[str, str | float]:
    """The settings that are one value each."""
    found = {key: getattr(model, key) for key in model.__struct_fields__ if key != "api_key_file"}
    return {key: value for key, value in found.items() if isinstance(value, str | int | float)}


def verify(
    model: str, *, checksums: bool = False, told: Callable[[int, int], None] = lambda _done, _whole: None
) -> dict[str, Any]:
    """Of a model's name or a directory. Raises AgentdError("model-not-found" | "bad-request"), ConfigError."""
    path = os.path.abspath(os.path.expanduser(model)) if "/" in model else _path_of(model)  # noqa: PTH100, PTH111
    return _checked(path, weight_checks.check(path, checksums=checksums, told=told))


def _path_of(name: str) -> str:
    """A name is that of a model; one that is none may be a directory here."""
    try:
        _, model = _model(name, offline.config().settings)
    except (AgentdError, ConfigError) as error:
        if Path(name).is_dir():
            return str(Path(name).absolute())
        if error.kind != "model-not-found":
            raise
        hint = f"{error.hint}; a directory is written with a /"
        raise AgentdError(error.kind, error.message, hint=hint) from None
    if not model.path:
        text = f"the configuration does not say where the files of {name} are"
        raise AgentdError(
            "bad-request", text, hint=f'write path = "..." to [services.{name}.model], or give a directory'
        )
    return model.path


def _checked(path: str, found: CheckedFiles) -> dict[str, Any]:
    return {"path": path, **plain(found)}


def _model(name: str, settings: Settings) -> tuple[Service, Model]:
    models = [other for other, service in settings.services.items() if service.model is not None]
    service = settings.services.get(name)
    if service is None or service.model is None:
        hint = f"models: {', '.join(models) or 'none is configured'}"
        raise AgentdError("model-not-found", f'there is no model "{name}"{suggest(name, models)}', hint=hint)
    return service, service.model


def _unit_text(unit: str) -> str | None:
    """Of the unit's own file where ours would be; another directory's is not looked for."""
    try:
        return fileset.read(paths.unit_dir() / unit)
    except AgentdError:
        return None


def _owner(text: str | None) -> str:
    """ "ours", "edited", or "" for a unit that somebody else wrote."""
    if not model_unit.ours(text, model_unit.UNIT_PURPOSE):
        return ""
    return "edited" if dropin.edited(text or "") else "ours"


def _dropins(unit: str) -> list[tuple[str, str]]:
    """The unit's drop-ins beside its file, path and text; one that cannot be read is left out."""
    found = []
    for path in sorted((paths.unit_dir() / f"{unit}.d").glob("*.conf")):
        with contextlib.suppress(AgentdError):
            found.append((str(path), fileset.read(path) or ""))
    return found


def _command(text: str | None, dropins: list[tuple[str, str]]) -> str:
    """The command line as the unit's file and its drop-ins have it, without values of keys."""
    setting = merge([("", text or ""), *dropins]).get(("Service", "ExecStart"))
    return redact(" ".join(setting.text.split())) if setting is not None else ""


def _key(model: Model) -> str:
    """Where the key is, never which."""
    if not model.api_key_file:
        return ""
    return f"in {model.api_key_file}" if Path(model.api_key_file).is_file() else f"{model.api_key_file} is missing"
