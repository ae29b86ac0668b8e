"""Checks of keys: there, strong, the same everywhere, and nowhere in the clear. No value of one gets into a problem."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from agentd.core.gateway import keys
from agentd.core.gateway.checks_context import ERROR, WARNING, Context, place_of, vllm
from agentd.core.gateway.checks_litellm import ENVIRONMENT, place_in
from agentd.core.gateway.facts import Secrets
from agentd.core.gateway.model import Kind, Provider
from agentd.core.gateway.problems import Problem
from agentd.core.gateway.settings import REFERENCE
from agentd.core.gateway.tree import Place
from agentd.core.redact import redact, without_credentials
from agentd.findings import Severity

_SECRET_NAME = re.compile(
    r"(?:^|_)(?:(?:api|master|access|private|secret|salt|account|auth|session|public)_?key|key|license|"
    r"password|passwd|secret|credentials?|(?:access|auth|api|hf|bearer|refresh|session|security|identity)_?token|token)$",
    re.IGNORECASE,
)
_TOKEN = re.compile(
    r"\b(?:gsk_|xai-|pplx-|nvapi-|glpat-|r8_|csk-|tgp_v1_|github_pat_)[A-Za-z0-9_-]{16}"
    r"|\bAIza[A-Za-z0-9_-]{30}|\bAKIA[A-Z0-9]{16}\b|\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10}"
)
"""What keys of known makers begin with. Guessing by randomness would take names of models for keys."""
_NO_SECRET = re.compile(r"(?:^|_)(?:max|min|total|input|output|prompt|completion|cost|per|stop|pad|eos|bos)_", re.I)
_DUMMIES = frozenset(
    {"", "none", "null", "empty", "dummy", "fake", "anything", "not-needed", "no-key", "ollama", "-", "x"}
)
"""What stands for "no key" where a server wants none and a client library does."""
_MAKE = "make a strong one with: agentctl secrets rotate"
_PLACEHOLDERS = ("changeme", "change-me", "change_me", "your", "xxxx", "placeholder", "example", "insert", "<", "todo")


def _walk(value: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every text below a value, with its keys; without recursion."""
    todo: list[tuple[object, tuple[str, ...]]] = [(value, path)]
    while todo:
        item, at = todo.pop()
        if isinstance(item, str):
            yield at, item
        elif isinstance(item, Mapping):
            todo.extend((below, (*at, str(key))) for key, below in reversed(list(item.items())))
        elif isinstance(item, list | tuple):
            todo.extend((below, at) for below in reversed(item))


def _params(context: Context) -> Iterator[tuple[str, Place, tuple[str, ...], str]]:
    """(whose, place, keys, text) of everything that is handed through to LiteLLM."""
    for provider in context.catalog.providers:
        for path, text in _walk(provider.params, ()):
            place = place_of(provider, f"params.{'.'.join(path)}", "params")
            yield f"params of {provider.name}", place, path, text
    for model in context.catalog.models:
        for deployment in model.deployments:
            alone = len(model.deployments) == 1
            for path, text in _walk(deployment.params, ()):
                place = place_of(model, f"params.{'.'.join(path)}", "params") if alone else deployment.place
                yield f"params of {model.name}", place, path, text
        for path, text in _walk(model.info, ()):
            yield f"info of {model.name}", place_of(model, "info"), path, text
    for path, text in _walk(context.policy.litellm, ()):
        yield path[0] if path else "litellm", place_in(context, *path), path[1:], text


def secret_in_source(context: Context) -> Iterator[Problem]:
    for whose, place, path, text in _params(context):
        if _is_secret(path, text):
            name = path[-1] if path else ""
            said = f"{whose} has a secret in {name or 'a text'}; everybody who can read the file has it too"
            fix = f"put it into the env file and write {REFERENCE}NAME here, and change the secret"
            yield Problem("secret-in-source", ERROR, place, name, said, fix)
    for provider in context.providers.values():
        if without_credentials(provider.base_url).partition("?")[0] != provider.base_url.partition("?")[0]:
            said = f'the base_url of "{provider.name}" holds a user name or a password'
            fix = "remove it, name the variable with key:, and change the password"
            place = place_of(provider, "base_url")
            yield Problem("secret-in-source", ERROR, place, without_credentials(provider.base_url), said, fix)


def _is_secret(path: tuple[str, ...], text: str) -> bool:
    if not text or text.startswith(REFERENCE):
        return False
    if redact(text) != text or _TOKEN.search(text):
        return True
    name = path[-1] if path else ""
    named = bool(_SECRET_NAME.search(name)) and not _NO_SECRET.search(name) and not name.endswith(("_name", "_id"))
    return named and len(text) > 3 and text.lower() not in _DUMMIES


def _references(context: Context) -> Iterator[tuple[str, str, Place]]:
    """(variable, who needs it, place) of enabled things."""
    policy = context.policy
    yield policy.master_key, "the gateway", context.policy_place("master_key")
    used = {provider.name for provider in context.used()}
    for provider in context.providers.values():
        if provider.name not in used:
            continue
        if provider.key:
            yield provider.key, provider.name, place_of(provider, "key")
        for path, text in _walk(provider.params, ()):
            if text.startswith(REFERENCE):
                place = place_of(provider, f"params.{'.'.join(path)}", "params")
                yield text.removeprefix(REFERENCE), provider.name, place
    for model in context.catalog.models:
        for deployment in model.deployments if model.enabled else ():
            for _, text in _walk(deployment.params, ()):
                if deployment.provider in used and text.startswith(REFERENCE):
                    yield text.removeprefix(REFERENCE), model.name, deployment.place
    for path, text in _walk(policy.litellm, ()):
        if text.startswith(REFERENCE):
            yield text.removeprefix(REFERENCE), ".".join(path[:2]), place_in(context, *path)


def missing_variable(context: Context) -> Iterator[Problem]:
    environment = context.facts.environment
    if environment is None:
        return
    file = context.facts.env_file
    fact = context.facts.files.get(file)
    if fact is not None and (not fact.exists or fact.problem):
        why = "does not exist" if not fact.exists else f"cannot be read: {fact.problem}"
        fix = "make it with: agentctl secrets init" if not fact.exists else "make it readable for yourself"
        yield Problem("missing-variable", ERROR, Place(file), "", f"the env file {why}", fix)
        return
    own: Mapping[str, Any] = context.policy.litellm.get(ENVIRONMENT, {})
    told: set[str] = set()
    for name, who, place in _references(context):
        if name in told or name in own or environment.values.get(name):
            continue
        told.add(name)
        state = "is empty" if name in environment.values else "is not set"
        what = "LiteLLM does not start without it" if name == context.policy.master_key else "its requests fail"
        text = f"the variable {name}, which {who} needs, {state} in {file}: {what}"
        fix = "make it with: agentctl secrets init" if _ours(context, name) else f"add a line {name}=... to {file}"
        yield Problem("missing-variable", ERROR, place, name, text, fix)


def _ours(context: Context, name: str) -> bool:
    """A key that agentctl can make: the gateway's, or that of a vLLM."""
    vllms = (provider.key for provider in context.providers.values() if vllm(provider))
    return name == context.policy.master_key or name in vllms


def weak_key(context: Context) -> Iterator[Problem]:
    environment = context.facts.environment
    if environment is None:
        return
    master = context.policy.master_key
    value = environment.values.get(master, "")
    weakness = keys.strength(value) if value else ""
    if weakness:
        place = context.policy_place("master_key") if context.policy.places.get("master_key") else _env(context)
        yield _weak(place, master, weakness, WARNING if _only_prefix(value) else ERROR)
    told = {master}
    for provider in context.used():
        name = provider.key
        value = environment.values.get(name, "")
        if name in told or not value:
            continue
        told.add(name)
        weakness, severity = _of_provider(provider, value)
        if weakness:
            fix = _MAKE if vllm(provider) else f"write the real key of {provider.name} to {context.facts.env_file}"
            yield _weak(place_of(provider, "key"), name, weakness, severity, fix)
        elif value == environment.values.get(master):
            text = f"{name} is the same key as {master}: who runs {provider.name} can use the whole gateway"
            fix = "make another one with: agentctl secrets rotate"
            yield Problem("weak-key", WARNING, place_of(provider, "key"), name, text, fix)


def _only_prefix(value: str) -> bool:
    return not keys.strength(keys.PREFIX + value)


def _of_provider(provider: Provider, value: str) -> tuple[str, Severity]:
    """Keys of vLLM are ours to make; a cloud's are as strong as the cloud makes them, and only a placeholder is not."""
    if vllm(provider):
        return keys.strength(value, prefix=""), WARNING if value.lower() in _DUMMIES else ERROR
    if provider.kind is Kind.CLOUD and (value.lower() in _DUMMIES or any(w in value.lower() for w in _PLACEHOLDERS)):
        return "it is a placeholder", ERROR
    return "", ERROR


def _weak(place: Place, name: str, weakness: str, severity: Severity, fix: str = _MAKE) -> Problem:
    return Problem("weak-key", severity, place, name, f"the key in {name} is weak: {weakness}", fix)


def _env(context: Context) -> Place:
    return Place(context.facts.env_file or context.policy.master_key)


def key_mismatch(context: Context) -> Iterator[Problem]:
    environment, servers = context.facts.environment, context.facts.service_keys
    if environment is not None:
        yield from _clients(context, environment.values.get(context.policy.master_key, ""))
        if servers is not None:
            yield from _servers(context, environment, servers)
    own = context.facts.agentd_keys
    for service, key in own.values.items() if own is not None and servers is not None else ():
        if servers is not None and servers.values.get(service, key) != key:
            text = f"api_key_file of services.{service} holds another key than its server takes: agentd is refused"
            fix = "name the unit's environment file in api_key_file, or use: agentctl secrets rotate"
            yield Problem("key-mismatch", ERROR, Place("agentd.toml"), service, text, fix)


def _clients(context: Context, master: str) -> Iterator[Problem]:
    for path, client in context.facts.clients.items():
        if master and client.key != master:
            state = "is not set" if not client.key else f"differs from {context.policy.master_key} of the gateway"
            text = f"{client.variable} {state}: the client is refused"
            fix = f"write the gateway's key to {path}, or use: agentctl secrets rotate"
            yield Problem("key-mismatch", ERROR, Place(path), client.variable, text, fix)


def _servers(context: Context, environment: Secrets, servers: Secrets) -> Iterator[Problem]:
    for provider in context.used():
        service = context.service(provider)
        if not vllm(provider) or service not in servers.values:
            continue
        ours, theirs = environment.values.get(provider.key, "") if provider.key else "", servers.values[service]
        if theirs and ours != theirs:
            state = "differs from the key" if ours else "is not sent, though there is a key"
            text = f'{provider.key or "the key"} of "{provider.name}" {state} that services.{service} takes'
            fix = "write the same key to both, or use: agentctl secrets rotate"
            yield Problem("key-mismatch", ERROR, place_of(provider, "key"), provider.key, text, fix)


def env_file_mode(context: Context) -> Iterator[Problem]:
    for path, fact in context.facts.files.items():
        place, shown = Place(path), f"{fact.mode:04o}"
        if not fact.exists or fact.problem:
            if path != context.facts.env_file:
                why = "does not exist" if not fact.exists else f"cannot be read: {fact.problem}"
                text, fix = f"the client's file {why}", "correct client_env_files in agentd.toml"
                yield Problem("env-file-mode", WARNING, place, "", text, fix)
        elif fact.mode & 0o007:
            text, fix = f"the file holds keys, and its mode {shown} lets everybody at it", f"chmod 600 {path}"
            yield Problem("env-file-mode", ERROR, place, shown, text, fix)
        elif fact.mode & 0o070:
            text, fix = f"the file holds keys, and its mode {shown} lets its group at it", f"chmod 600 {path}"
            yield Problem("env-file-mode", WARNING, place, shown, text, fix)
        elif not fact.own:
            text, fix = "the file holds keys, and belongs to another user", f"chown $USER {path}"
            yield Problem("env-file-mode", WARNING, place, shown, text, fix)
