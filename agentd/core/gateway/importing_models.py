"""From the model_list of a hand-written config to the models of the sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentd.core.gateway.deployments import DECIDED, DECIDED_INFO
from agentd.core.gateway.importing_providers import SHARED, Found, Providers, split_model
from agentd.core.gateway.importing_words import Gathered, is_good_name
from agentd.core.gateway.read_base import RESERVED

Deployments = dict[str, list[tuple[Found, dict[str, Any]]]]
"""Model -> (provider, fields of the deployment but the provider)."""

_CAPABILITY = {
    "chat": "chat", "completion": "completion", "embedding": "embedding", "rerank": "rerank",
    "image_generation": "image", "audio_transcription": "audio",
}  # fmt: skip
_FLAGS = {"supports_vision": "vision", "supports_function_calling": "tools", "supports_response_schema": "json"}
_TAKEN = {
    "model", "custom_llm_provider", "api_base", "base_url", "api_key", "rpm", "tpm", "timeout", "request_timeout",
    "stream_timeout", *SHARED,
}  # fmt: skip


class Models:
    def __init__(self, gathered: Gathered) -> None:
        self._gathered = gathered
        self.providers = Providers(gathered)
        self._deployments: Deployments = {}
        self._models: dict[str, dict[str, Any]] = {}
        self._told: dict[tuple[str, str], int] = {}
        """(Model, field of model_info) -> how many of its deployments have it."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._models)

    def add(self, entry: object, number: int) -> None:
        """One entry of model_list; what cannot be kept is noted."""
        if not isinstance(entry, Mapping) or not isinstance(entry.get("litellm_params"), Mapping):
            self._gathered.note(f"entry {number} of model_list is left out: it has no litellm_params")
            return
        name, params = entry.get("model_name"), entry["litellm_params"]
        if not isinstance(name, str) or not is_good_name(name) or name in RESERVED:
            self._gathered.note(
                f"entry {number} of model_list is left out: its name holds * or others that we do not take"
            )
            return
        pair = split_model(params)
        if pair is None:
            self._gathered.note(f"{name}: a deployment is left out: write its model as API/MODEL, as openai/gpt-4o")
            return
        model = self._models.setdefault(name, {})
        provider = self.providers.of(name, pair[0], params)
        fields = {"model": pair[1], **self._limits(name, params), **self._params(name, params)}
        self._deployments.setdefault(name, []).append((provider, fields))
        self._timeouts(name, model, params)
        info = entry.get("model_info")
        if isinstance(info, Mapping):
            self._info(name, model, info)

    def _limits(self, name: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """A 0 was no limit for LiteLLM either."""
        limits = {}
        for field in ("rpm", "tpm"):
            value = params.get(field)
            if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
                limits[field] = value
            elif value is not None:
                self._gathered.note(f"{name}: {field} is left out, it is no whole number")
        return {"limits": limits} if limits else {}

    def _params(self, name: str, params: Mapping[str, Any]) -> dict[str, Any]:
        kept = {}
        for field, value in params.items():
            if field in _TAKEN:
                continue
            if field in DECIDED:
                self._gathered.note(f"{name}: {field} is left out, {DECIDED[field]} decides it")
            else:
                kept[field] = self._gathered.without_keys(value, str(field), f"{field} of {name}")
        return {"params": kept} if kept else {}

    def _timeouts(self, name: str, model: dict[str, Any], params: Mapping[str, Any]) -> None:
        tried = params.get("timeout", params.get("request_timeout"))
        for field, value in (("try", tried), ("silence", params.get("stream_timeout"))):
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                self._gathered.note(f"{name}: a timeout is left out, it is no number of seconds")
                continue
            timeouts = model.setdefault("timeouts", {})
            if timeouts.get(field, value) != value:
                self._gathered.note(f"{name}: its deployments had different timeouts, the shortest holds for all")
            timeouts[field] = min(value, timeouts.get(field, value))

    def _info(self, name: str, model: dict[str, Any], info: Mapping[str, Any]) -> None:
        kept = model.setdefault("info", {})
        for field, value in info.items():
            if field == "id":
                self._gathered.note(f"{name}: its id is left out, a stable one is generated")
            elif field in DECIDED_INFO:
                self._gathered.note(f"{name}: model_info {field} is left out, {DECIDED_INFO[field]} decides it")
            elif field == "mode" and isinstance(value, str) and value in _CAPABILITY:
                self.capable(model, _CAPABILITY[value])
            elif field in _FLAGS and value is True:
                self.capable(model, _FLAGS[field])
            elif kept.get(field, value) != value:
                self._gathered.note(f"{name}: its deployments differ in model_info {field}, the first one's holds")
            else:
                kept[field] = self._gathered.without_keys(value, str(field), f"model_info {field} of {name}")
                self._told[name, field] = self._told.get((name, field), 0) + 1

    def capable(self, model: dict[str, Any], capability: str) -> None:
        found = model.setdefault("capabilities", [])
        if capability not in found:
            found.append(capability)

    def refer(self, name: str, field: str, targets: list[str]) -> None:
        """aliases, fallbacks or context_fallbacks of a model."""
        known = self._models[name].setdefault(field, [])
        known.extend(target for target in targets if target not in known)

    def has(self, name: str, field: str) -> bool:
        return bool(self._models[name].get(field))

    def knows(self, name: str) -> bool:
        """A model or an alias of one."""
        return name in self._models or any(name in model.get("aliases", ()) for model in self._models.values())

    def documents(self) -> dict[str, dict[str, Any]]:
        """As they stand in model-mappings.yaml, once the providers have their names."""
        return {name: self._document(name, model) for name, model in self._models.items()}

    def _document(self, name: str, model: Mapping[str, Any]) -> dict[str, Any]:
        for (told, field), count in self._told.items():
            if told == name and count < len(self._deployments[name]):
                self._gathered.note(f"{name}: model_info {field} now holds for all its deployments")
        deployments = [{"provider": found.name, **fields} for found, fields in self._deployments[name]]
        head: dict[str, Any] = deployments[0] if len(deployments) == 1 else {"deployments": deployments}
        return {**head, **{field: value for field, value in model.items() if value}}
