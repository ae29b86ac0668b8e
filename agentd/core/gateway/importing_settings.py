"""From the settings of a hand-written config to the policy, and to the aliases and fallbacks of its models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentd.core.gateway.importing_models import Models
from agentd.core.gateway.importing_words import REFERENCE, Gathered, is_good_name
from agentd.core.gateway.model import Policy
from agentd.core.gateway.read_policy import ROUTING
from agentd.core.gateway.secret_words import is_variable
from agentd.core.gateway.settings import COUNTED, POLICY_KEYS
from agentd.core.gateway.settings import SECTIONS as KEPT

ROUTER, LITELLM, GENERAL, ENVIRONMENT = (
    "router_settings",
    "litellm_settings",
    "general_settings",
    "environment_variables",
)
_CALLBACKS = ("callbacks", "success_callback", "failure_callback")


class Settings:
    """The four sections. Where LiteLLM has a setting in two places, the one that it follows counts."""

    def __init__(self, document: Mapping[str, Any], models: Models, gathered: Gathered) -> None:
        self._models = models
        self._gathered = gathered
        self._sections: dict[str, Mapping[str, Any]] = {}
        for name in KEPT:
            section = document.get(name)
            if section is not None and not isinstance(section, Mapping):
                gathered.note(f"{name} is left out, it is no mapping")
            self._sections[name] = section if isinstance(section, Mapping) else {}

    def policy(self) -> dict[str, Any]:
        """The document below `policy:`; what is as the default is not written."""
        self._aliases()
        self._fallbacks()
        policy = self._breaker() | self._timeouts()
        retries = self._first("num_retries", ROUTER, LITELLM)
        if _whole(retries):
            policy["retries"] = retries
        for name in (
            "retry_policy",
            "model_group_retry_policy",
            "content_policy_fallbacks",
            "enable_weighted_failover",
        ):
            if self._first(name, ROUTER, LITELLM) is not None:
                self._gathered.note(f"{name} is left out: the policy decides about retries and fallbacks")
        if self._sections[ROUTER].get("enable_pre_call_checks") is False:
            policy["pre_call_checks"] = False
        routing = self._sections[ROUTER].get("routing_strategy")
        if routing in ROUTING and routing != Policy().routing:
            policy["routing"] = routing
        elif routing is not None and routing not in ROUTING:
            self._gathered.note(f"the routing strategy {routing} is left out: {Policy().routing} holds")
        return policy | self._master_key() | self._metrics() | self._rest()

    def _first(self, key: str, *sections: str) -> Any:
        return next((self._sections[s][key] for s in sections if self._sections[s].get(key) is not None), None)

    # -- the breaker and the timeouts -------------------------------------------------------------------------------
    def _breaker(self) -> dict[str, Any]:
        if self._sections[ROUTER].get("disable_cooldowns"):
            self._gathered.note("disable_cooldowns is left out: the policy always has a breaker")
        found: dict[str, Any] = {}
        allowed = self._allowed()
        if allowed is not None:
            found["failures"] = allowed + 1
        cooldown = self._first("cooldown_time", ROUTER, LITELLM)
        if _positive(cooldown):
            found["cooldown"] = cooldown
        return {"breaker": found} if found else {}

    def _allowed(self) -> int | None:
        """How many failures are let pass. One number for all kinds of failures."""
        by_kind = self._sections[ROUTER].get("allowed_fails_policy")
        if isinstance(by_kind, Mapping):
            numbers = {value for value in by_kind.values() if _whole(value)}
            if len(numbers) == 1:
                missing = [name for name in COUNTED if f"{name}AllowedFails" not in by_kind]
                if missing:
                    self._gathered.note(f"the breaker now counts these failures as well: {', '.join(missing)}")
                return int(numbers.pop())
            if numbers:
                self._gathered.note("allowed_fails_policy had several numbers, the smallest holds for all failures")
                return int(min(numbers))
        allowed = self._first("allowed_fails", ROUTER, LITELLM)
        return int(allowed) if _whole(allowed) else None

    def _timeouts(self) -> dict[str, Any]:
        """request_timeout beats the router's timeout, as measured."""
        found = {}
        for name, value in (
            ("try", self._first("request_timeout", LITELLM) or self._first("timeout", ROUTER)),
            ("silence", self._first("stream_timeout", ROUTER)),
        ):
            if _positive(value):
                found[name] = value
            elif value is not None:
                self._gathered.note(f"a timeout is left out, it is no number of seconds: the policy's {name} holds")
        return {"timeouts": found} if found else {}

    # -- keys, metrics, everything else -----------------------------------------------------------------------------
    def _master_key(self) -> dict[str, Any]:
        key = self._sections[GENERAL].get("master_key")
        default = Policy().master_key
        text = str(key) if key is not None else ""
        if not text:
            self._gathered.note(f"the gateway had no master_key: from now on it wants the one in {default}")
            return {}
        name = text.removeprefix(REFERENCE)
        if name == text or not is_variable(name):
            name = self._gathered.variable_for(text, default, "master_key")
        return {} if name == default else {"master_key": name}

    def _metrics(self) -> dict[str, Any]:
        """Off where it was off: it is one more thing that LiteLLM does."""
        found = [name for key in _CALLBACKS for name in _listed(self._sections[LITELLM].get(key))]
        return {} if "prometheus" in found else {"metrics": False}

    def _rest(self) -> dict[str, Any]:
        """What the policy has no word for, as it is."""
        kept: dict[str, Any] = {}
        for section in KEPT:
            settings = {}
            for key, value in self._sections[section].items():
                if key in POLICY_KEYS[section]:
                    continue
                if key in _CALLBACKS or key == "optional_pre_call_checks":
                    value = [name for name in _listed(value) if name not in ("prometheus", "enforce_model_rate_limits")]
                    if not value:
                        continue
                settings[key] = self._cleaned(section, str(key), value)
            kept.update({section: {k: v for k, v in settings.items() if v is not None}} if settings else {})
        return {"litellm": kept} if any(kept.values()) else {}

    def _cleaned(self, section: str, key: str, value: Any) -> Any:
        """Without literal keys; None for a variable that moves to the environment file."""
        if section == ENVIRONMENT and any(s.variable == key and s.value == value for s in self._gathered.secrets):
            return None
        return self._gathered.without_keys(value, key, f"{key} of {section}")

    # -- references between models ----------------------------------------------------------------------------------
    def _aliases(self) -> None:
        for section, key in (
            (ROUTER, "model_group_alias"),
            (LITELLM, "model_group_alias_map"),
            (LITELLM, "model_alias_map"),
        ):
            table = self._sections[section].get(key)
            for alias, target in table.items() if isinstance(table, Mapping) else ():
                name = target.get("model") if isinstance(target, Mapping) else target
                if isinstance(target, Mapping) and target.get("hidden"):
                    self._gathered.note(f"the alias {alias} was hidden, now it is listed")
                if name not in self._models.names or not is_good_name(alias) or alias in self._models.names:
                    self._gathered.note(f"the alias {alias} is left out: {_why(alias, name, self._models.names)}")
                else:
                    self._models.refer(str(name), "aliases", [alias])

    def _fallbacks(self) -> None:
        for key, field in (("fallbacks", "fallbacks"), ("context_window_fallbacks", "context_fallbacks")):
            self._references(key, field, self._first(key, ROUTER, LITELLM))
        usual = self._targets("default_fallbacks", self._first("default_fallbacks", ROUTER, LITELLM))
        if usual:
            without = [
                name for name in self._models.names if not self._models.has(name, "fallbacks") and name not in usual
            ]
            for name in without:
                self._models.refer(name, "fallbacks", usual)
            self._gathered.note(f"default_fallbacks are written to the models without fallbacks: {', '.join(without)}")

    def _references(self, key: str, field: str, value: object) -> None:
        for entry in value if isinstance(value, list) else []:
            for name, targets in entry.items() if isinstance(entry, Mapping) else ():
                found = self._targets(f"{key} of {name}", targets)
                if name in self._models.names:
                    self._models.refer(name, field, [target for target in found if target != name])
                else:
                    self._gathered.note(f"{key} of {name} are left out: there is no such model in model_list")

    def _targets(self, what: str, value: object) -> list[str]:
        found = value if isinstance(value, list) else []
        for target in found:
            if not self._known(target):
                shown = target if isinstance(target, str) else "an entry"
                self._gathered.note(f"{shown} in {what} is left out: there is no such model in model_list")
        return [target for target in found if self._known(target)]

    def _known(self, name: object) -> bool:
        return isinstance(name, str) and self._models.knows(name)


def _why(alias: object, name: object, names: tuple[str, ...]) -> str:
    if name not in names:
        return f"there is no model {name} in model_list"
    return "a model has this name" if alias in names else "the name holds * or others that we do not take"


def _listed(value: object) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9
