"""The table of checks, and a run of them. What they find beyond the sources needs Facts; without one it is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from agentd.core.gateway import (
    checks_addresses,
    checks_files,
    checks_keys,
    checks_limits,
    checks_litellm,
    checks_models,
    checks_names,
    checks_ports,
)
from agentd.core.gateway.checks_context import ERROR, INFO, WARNING, Context
from agentd.core.gateway.facts import Facts
from agentd.core.gateway.model import SOURCES, Catalog
from agentd.core.gateway.problems import Problem
from agentd.findings import Severity


@dataclass(frozen=True, slots=True)
class Check:
    """`severity`: the usual one; a single problem may weigh less. `run` is None where reading the sources finds it."""

    id: str
    about: str
    severity: Severity
    run: Callable[[Context], Iterator[Problem]] | None = None


CHECKS: tuple[Check, ...] = (
    Check("missing-file", "A source file is missing or cannot be read.", ERROR),
    Check("yaml-syntax", "A source is not valid YAML.", ERROR),
    Check("unknown-key", "A field that does not exist is written.", ERROR),
    Check("missing-key", "A field that is needed is missing.", ERROR),
    Check("wrong-type", "A field holds another kind of value than it needs.", ERROR),
    Check("bad-value", "A value is not one of those that are allowed.", ERROR),
    Check("duplicate-name", "A name means two things.", ERROR, checks_names.duplicate_name),
    Check("unknown-provider", "A model names a provider that does not exist.", ERROR, checks_names.unknown_provider),
    Check("unknown-port", "A provider names a port that the registry does not have.", ERROR, checks_names.unknown_port),
    Check("unknown-fallback", "A fallback is no model.", ERROR, checks_names.unknown_fallback),
    Check("gateway-port", "The gateway's own port is missing or differs.", WARNING, checks_names.gateway_port),
    Check("unknown-service", "A provider names no service of agentd.toml.", WARNING, checks_names.unknown_service),
    Check("slot-unmatched", "A vLLM belongs to no slot.", INFO, checks_names.slot_unmatched),
    Check("served-name", "vLLM serves its model under another name.", WARNING, checks_names.served_name),
    Check("disabled-provider", "A provider of an enabled model is disabled.", WARNING, checks_models.disabled_provider),
    Check("disabled-fallback", "A fallback is disabled and left out.", WARNING, checks_models.disabled_fallback),
    Check("no-model-left", "The gateway would serve no model.", ERROR, checks_models.no_model_left),
    Check("repeated-fallback", "A fallback is listed twice.", WARNING, checks_models.repeated_fallback),
    Check("fallback-cycle", "Fallbacks lead back to where they began.", ERROR, checks_models.fallback_cycle),
    Check("chain-too-long", "A request can take longer than an answer may.", ERROR, checks_models.chain_too_long),
    Check("capability-mismatch", "A fallback cannot do what it is for.", WARNING, checks_models.capability_mismatch),
    Check("port-conflict", "Two things claim one port or address.", ERROR, checks_ports.port_conflict),
    Check("unregistered-port", "The registry lacks a provider's port.", INFO, checks_ports.unregistered_port),
    Check("port-in-use", "Somebody else listens on a registered port.", WARNING, checks_ports.port_in_use),
    Check("port-4000", "LiteLLM leaves port 4000 silently when it is taken.", WARNING, checks_ports.port_4000),
    Check("base-url", "LiteLLM would ask a wrong address.", ERROR, checks_addresses.base_url),
    Check("http-for-cloud", "A key travels unencrypted.", ERROR, checks_addresses.http_for_cloud),
    Check("local-address-for-cloud", "A cloud provider is near.", WARNING, checks_addresses.local_for_cloud),
    Check("public-address-for-local", "A local provider is far away.", WARNING, checks_addresses.public_for_local),
    Check("unreachable-provider", "A provider does not answer.", WARNING, checks_ports.unreachable_provider),
    Check("secret-in-source", "A source holds a secret itself.", ERROR, checks_keys.secret_in_source),
    Check("missing-variable", "An environment variable is not set.", ERROR, checks_keys.missing_variable),
    Check("weak-key", "A key can be guessed.", ERROR, checks_keys.weak_key),
    Check("key-mismatch", "Two that need the same key have different ones.", ERROR, checks_keys.key_mismatch),
    Check("env-file-mode", "Others can read a file with keys.", ERROR, checks_keys.env_file_mode),
    Check("litellm-missing", "No LiteLLM is installed.", WARNING, checks_litellm.litellm_missing),
    Check("unknown-litellm-key", "LiteLLM ignores a setting.", WARNING, checks_litellm.unknown_litellm_key),
    Check("policy-key", "A setting contradicts the policy.", ERROR, checks_litellm.policy_key),
    Check("unsupported-policy", "LiteLLM lacks what the policy needs.", WARNING, checks_litellm.unsupported_policy),
    Check("default-fallbacks", "Default fallbacks hide errors.", WARNING, checks_litellm.default_fallbacks),
    Check("dangerous-setting", "A setting gives something away.", WARNING, checks_litellm.dangerous_setting),
    Check("limits-implausible", "A number is hardly what is meant.", WARNING, checks_limits.limits_implausible),
    Check("stale-file", "The generated file is not of today's sources.", WARNING, checks_files.stale_file),
    Check("edited-by-hand", "The generated file was changed by hand.", WARNING, checks_files.edited_by_hand),
)


def check(catalog: Catalog, facts: Facts | None = None, shape: Sequence[Problem] = ()) -> tuple[Problem, ...]:
    """All problems, in the order of the files and their lines; the same one is said once.

    `shape`: what reading the sources found, which is not part of the answer: a reference to something that could not
    be read is no second error.
    """
    context = Context(catalog, facts or Facts(), shape)
    return ordered(problem for item in CHECKS if item.run is not None for problem in item.run(context))


def ordered(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """The sources first, each once, by line; then other files by name."""
    return tuple(sorted(dict.fromkeys(problems), key=_order))


def _order(problem: Problem) -> tuple[int, str, int, int]:
    place = problem.place
    name = place.file.rpartition("/")[2]
    return SOURCES.index(name) if name in SOURCES else len(SOURCES), place.file, place.line, place.column
