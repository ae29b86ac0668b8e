"""`agentctl models add` and `remove`: a unit and a part of the configuration, written and taken away as one set.

Works with and without a running agentd; that it reads its configuration again is the command's part.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from agentd import offline, paths, resources
from agentd.adapters import config_files, fileset, unit_loading
from agentd.adapters.filelock import FileLock
from agentd.adapters.files import LocalFiles
from agentd.core import dropin, model_args, model_unit
from agentd.core.model_unit import CONFIG_PURPOSE, UNIT_PURPOSE, ModelPlan
from agentd.core.schema import Settings
from agentd.errors import AgentdError, ConfigError
from agentd.offline_models_plan import Wanted, plan
from agentd.types import ActiveState, Scope

FETCHED = (
    "its files are there now: --replace has them checked before a switch, and served without a look at the network"
)


@dataclass(frozen=True, slots=True)
class Done:
    """`changed` False: it was so already. `before`: the old texts of the files, to take it back."""

    name: str
    unit: str
    changed: bool
    files: tuple[str, ...]
    notes: tuple[str, ...]
    before: Mapping[str, str | None]
    model: ModelPlan | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    """The two files of a model."""

    unit: str
    config: str

    @classmethod
    def of(cls, name: str) -> _Place:
        config = paths.config_dir() / config_files.FRAGMENT_DIR / model_unit.fragment_name(name)
        return cls(str(paths.unit_dir() / model_unit.unit_name(name)), str(config))

    def of_plan(self, made: ModelPlan) -> dict[str, str]:
        """The files as they are to be, the unit first."""
        template = resources.template("vllm-model.service").read_text()
        return {self.unit: model_unit.unit_text(template, made), self.config: model_unit.config_text(made)}

    def texts(self) -> tuple[str | None, str | None]:
        return fileset.read(Path(self.unit)), fileset.read(Path(self.config))


def add(wanted: Wanted) -> Done:
    """Raises AgentdError("bad-request" | "model-exists" | "model-edited" | ...), ConfigError; then nothing is left."""
    model_args.check_name(wanted.name)
    with _alone():
        loaded = offline.config()
        settings = _user_scope(loaded.settings)
        place = _Place.of(wanted.name)
        unit, config = place.texts()
        known = model_unit.ours(config, CONFIG_PURPOSE)
        _free(wanted, settings, place, unit, config)
        made, notes = plan(wanted, settings, settings.services.get(wanted.name) if known else None)
        texts = place.of_plan(made)
        fetched = not wanted.replace and _only_fetched(place, made)
        if fetched or (unit, config) == tuple(texts.values()):
            more = (FETCHED,) if fetched else ()
            loading = unit_loading.load(made.unit, only_due=True)
            return Done(wanted.name, made.unit, False, tuple(texts), (*notes, *more, *loading), {}, made)
        if (unit, config) != (None, None) and not wanted.replace:
            hint = f"agentctl models show {wanted.name} says how it is; --replace makes it as told here"
            raise AgentdError("model-exists", f"{wanted.name} is there already, with other settings", hint=hint)
        _check_config(place.config, texts[place.config], loaded.profile)
        _check_credential(made.credential)
        before = _write(texts)
        with _undone_on_failure(before):
            loading = unit_loading.load(made.unit)
        return Done(wanted.name, made.unit, True, tuple(texts), (*notes, *loading), before, made)


def _only_fetched(place: _Place, made: ModelPlan) -> bool:
    """It was added when the cache did not have it, and has been downloaded since; nothing else is different."""
    before = replace(made, path="", downloads=True)
    named = not made.source.startswith("/") and not made.downloads
    return named and place.texts() == tuple(place.of_plan(before).values())


def remove(name: str, *, keep_unit: bool = False, force: bool = False) -> Done:
    """Raises AgentdError("model-not-found" | "model-running" | "model-edited" | ...), ConfigError."""
    model_args.check_name(name)
    with _alone():
        loaded = offline.config()
        settings = _user_scope(loaded.settings)
        place = _Place.of(name)
        unit, config = place.texts()
        if not model_unit.ours(config, CONFIG_PURPOSE) and not model_unit.ours(unit, UNIT_PURPOSE):
            raise _not_ours(name, settings)
        own = model_unit.unit_name(name)
        _refuse_running(own, name)
        wanted: dict[str, str | None] = {}
        notes: list[str] = []
        for path, text, purpose in ((place.config, config, CONFIG_PURPOSE), (place.unit, unit, UNIT_PURPOSE)):
            if text is None or (path == place.unit and keep_unit):
                continue
            if not model_unit.ours(text, purpose):
                notes.append(f"kept {path}: it is not ours")
                continue
            _refuse_edited(path, text, force=force)
            wanted[path] = None
        if not keep_unit:
            drops, kept = _dropins(own, force=force)
            wanted |= drops
            notes += [f"kept {path}: it is not ours, or was edited" for path in kept]
        _check_config(place.config, "", loaded.profile)
        before = _write(wanted)
        with _undone_on_failure(before):
            notes += unit_loading.load("")
        return Done(name, own, True, tuple(wanted), tuple(notes), before)


def take_back(done: Done) -> None:
    """Put the old texts back, after agentd has refused the new ones. Raises AgentdError."""
    with _alone():
        _write(done.before)
        unit_loading.load("")


def _user_scope(settings: Settings) -> Settings:
    if Scope(settings.daemon.scope) is not Scope.USER:
        text = "cannot manage models for the system's manager: their units would run as root"
        raise AgentdError("bad-request", text, hint="write the unit and its [services.NAME] by hand")
    return settings


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Two at once would choose the same port. What a killed one left half done is undone first."""
    with FileLock(paths.state_dir() / "models.lock", purpose="change models").held():
        asyncio.run(_files().recover())
        yield


def _free(wanted: Wanted, settings: Settings, place: _Place, unit: str | None, config: str | None) -> None:
    """Neither name nor unit belong to somebody else."""
    name, own = wanted.name, model_unit.unit_name(wanted.name)
    for path, text, purpose in ((place.unit, unit, UNIT_PURPOSE), (place.config, config, CONFIG_PURPOSE)):
        if text is None:
            continue
        if not model_unit.ours(text, purpose):
            text = f"{path} is there already, and not made by agentctl models add"
            raise AgentdError("model-exists", text, hint="choose another name, or move the file away")
        _refuse_edited(path, text, force=wanted.force)
    if config is None and name in settings.services:
        raise AgentdError(
            "model-exists", f'there is a service "{name}" already', hint="agentctl config show names its file"
        )
    for other, service in settings.services.items():
        if service.unit == own and other != name:
            raise AgentdError(
                "model-exists", f"{own} is already the unit of services.{other}", hint="choose another name"
            )
    if unit is None and (state := unit_loading.states(own).get(own)) is not None and state.exists:
        text = f"systemd knows a unit {own} already, from another directory"
        raise AgentdError("model-exists", text, hint="choose another name")


def _refuse_edited(path: str, text: str, *, force: bool) -> None:
    if dropin.edited(text) and not force:
        raise AgentdError("model-edited", f"{path} was edited by hand", hint="--force does it all the same")


def _refuse_running(unit: str, name: str) -> None:
    state = unit_loading.states(unit).get(unit)
    if state is None or not state.active_state.up or state.active_state is ActiveState.UNKNOWN:
        return
    raise AgentdError(
        "model-running",
        f"cannot remove {name}: {unit} is {state.active_state}; a model that sleeps counts too",
        hint=f"stop it first: agentctl stop {name}",
    )


def _not_ours(name: str, settings: Settings) -> AgentdError:
    service = settings.services.get(name)
    if service is not None and service.model is not None:
        text = f"{name} was not made by agentctl models add, so it is not removed by it"
        hint = f"take [services.{name}] out of the configuration (agentctl config show --provenance names the file)"
        return AgentdError("model-not-ours", text, hint=hint)
    models = [n for n, s in settings.services.items() if s.model is not None]
    return AgentdError("model-not-found", f'there is no model "{name}"; models: {", ".join(models) or "none"}')


def _dropins(unit: str, *, force: bool) -> tuple[dict[str, str | None], list[str]]:
    """The unit's drop-ins that are ours, to be removed, and those that stay."""
    directory = paths.unit_dir() / f"{unit}.d"
    ours: dict[str, str | None] = {}
    kept: list[str] = []
    for file in sorted(directory.glob("*.conf")):
        with contextlib.suppress(AgentdError):
            text = fileset.read(file) or ""
            if dropin.is_ours(text) and (force or not dropin.edited(text)):
                ours[str(file)] = None
                continue
        kept.append(str(file))
    return ours, kept


def _check_config(path: str, text: str, profile: str) -> None:
    """The configuration as it would be, with the fragment as a layer on top; an empty one takes it away.

    Raises ConfigError, which names the fragment's own place.
    """
    with tempfile.TemporaryDirectory(prefix="agentd-models-") as directory:
        file = Path(directory) / config_files.FRAGMENT_DIR / Path(path).name
        file.parent.mkdir()
        file.write_text(text)
        override, layers = paths.config_override(), paths.config_layers()
        try:
            config_files.load((*layers, Path(directory)), required=override, home=str(paths.home()), profile=profile)
        except ConfigError as error:
            for problem in error.problems:
                problem.file = problem.file.replace(str(file), path)
            raise ConfigError(error.problems) from None


def _check_credential(file: str) -> None:
    if file and not unit_loading.hands_over(file):
        raise AgentdError(
            "credential-unsupported",
            f"the user's systemd does not hand {file} to a service as a credential",
            hint="write VLLM_API_KEY=... to a file of mode 0600, and name that by --env-file",
        )


def _write(texts: Mapping[str, str | None]) -> dict[str, str | None]:
    return dict(asyncio.run(_files().apply(texts)))


def _files() -> LocalFiles:
    """With agentd's own intent file: whoever comes next, agentd or a command, undoes what was cut off."""
    return LocalFiles([paths.unit_dir(), paths.config_dir()], journal=paths.state_dir() / "files.json")


@contextlib.contextmanager
def _undone_on_failure(before: Mapping[str, str | None]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        _write(before)
        with contextlib.suppress(AgentdError):
            unit_loading.load("")
        raise
