"""What the policy of a catalog promises, one statement for each thing that a proof measures. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from agentd.core.gateway.model import Kind, Policy
from agentd.core.gateway.proof_catalog import API_KINDS, Rig, allowance, fitting_retries, silence_is_moot, start_limit

BREAKER = {
    "500": "HTTP 500",
    "503": "HTTP 503",
    "401": "a refused key (401)",
    "timeout": "a try without an answer in time",
    "refused": "a refused connection",
    "stream": "a stream that does not begin in time",
}
"""Kind of failure -> in words."""
FALLBACK = {
    "500": "HTTP 500",
    "429": "the provider's own rate limit (429)",
    "timeout": "no answer in time",
    "refused": "a refused connection",
}


@dataclass(frozen=True, slots=True)
class Promise:
    name: str
    """ "breaker-500", "chain:qwen"."""
    text: str
    """What is promised, with the numbers that are measured."""
    how: str


@dataclass(frozen=True, slots=True)
class Measured:
    promise: Promise
    measured: str
    ok: bool
    detail: str = ""
    """Why it is not so, or what else was seen."""


class _Times:
    """Seconds as the policy has them, and as they are tried where that differs."""

    def __init__(self, rig: Rig) -> None:
        self._factor = rig.factor

    def __call__(self, scaled: float) -> str:
        return f"{scaled * self._factor:g} s" + (f" (tried as {scaled:g} s)" if self._factor > 1 else "")


def promises(rig: Rig) -> Mapping[str, Promise]:
    """By name, in the order in which they are shown."""
    times = _Times(rig)
    found = [
        *_breaker(rig, times),
        *_times(rig.policy, times),
        *_limits(rig.policy),
        *_fallbacks(rig.policy),
        *_chains(rig),
        *_surface(),
    ]
    return {promise.name: promise for promise in found}


def matching(names: Mapping[str, Promise], wanted: str) -> tuple[str, ...]:
    """Those that `wanted` names: a name, a shell pattern, or what a name begins with; all for ""."""
    if wanted in names:
        return (wanted,)
    return tuple(name for name in names if name.startswith(wanted) or fnmatchcase(name, wanted))


def has_breaker(policy: Policy) -> bool:
    return policy.failures >= 1 and policy.cooldown > 0


def _breaker(rig: Rig, times: _Times) -> Iterator[Promise]:
    policy = rig.policy
    if not has_breaker(policy):
        return
    count = policy.failures
    for name in breakers(rig):
        kind, _, api = name.partition(":")
        by = f" by {api}" if api else ""
        how = f"{count} requests{by} fail by {BREAKER[kind]} at a model with one deployment; one more must not reach it"
        yield Promise(f"breaker-{name}", f"opens at failure {count}, not before", how)
    text = f"of two deployments one is left out from failure {count} on"
    yield Promise("breaker-group", text, "one of two deployments fails; the other must get the next requests")
    if policy.retries and count > 1:
        text = "a request counts once, whatever its retries"
        yield Promise("breaker-retries", text, "a request with all its retries, one failure short of opening")
    text = f"closed again after {times(policy.cooldown)}"
    yield Promise("breaker-recovery", text, "requests all the time after it opened; when the first reaches the server")


def breakers(rig: Rig) -> tuple[str, ...]:
    """ "500", and "500:ollama_chat" for the other APIs of the sources."""
    return (*BREAKER, *(f"{kind}:{api}" for api in rig.apis for kind in API_KINDS))


def _times(policy: Policy, times: _Times) -> Iterator[Promise]:
    tries = policy.retries + 1
    text = f"a try ends after {times(policy.try_timeout)}"
    yield Promise("try-timeout", text, "a server that never answers; when LiteLLM gives it up")
    yield Promise("retries", f"{tries} tries in all", "a server that answers 500; how often it is asked")
    if policy.retries:
        text = f"pauses between tries, {allowance(policy.retries):g} s in all at most"
        yield Promise("back-off", text, "a server that answers 500; the times between its requests")
    quiet, whole = times(policy.silence_timeout), times(policy.answer_timeout)
    yield from _silent_servers(policy, times)
    if not silence_is_moot(policy):
        yield Promise("stream-silence", f"a silent stream ends after {quiet}", "a stream that stops after 2 chunks")
        text = f"a stream that never begins: the fallback answers after {quiet}"
        yield Promise("stream-start", text, "a stream without a first chunk, and a fallback")
        how = "pauses between its chunks, longer in all than a try or a silence may be"
        yield Promise("slow-stream", "a stream that talks slowly is not cut", how)
    yield Promise("answer-stream", f"a whole answer ends after {whole}", "a stream without an end")
    text = f"retries and fallbacks end after {whole}"
    yield Promise("answer-chain", text, "a model and its two fallbacks, none of which ever answers")


def _silent_servers(policy: Policy, times: _Times) -> Iterator[Promise]:
    """Streams of servers that take a request and send not even the head of an answer."""
    retries = fitting_retries(policy, 1)
    if retries is not None:
        text = f"cut after {times(start_limit(policy))}, {retries + 1} tries in all, then the fallback answers"
        yield Promise("stream-try", text, "a stream of a server that never answers, and a fallback")
    if fitting_retries(policy, 2) is not None:
        text = "a stream over two silent servers takes their tries and pauses, no more"
        how = "two models that never answer, with as many retries as fit within the whole answer"
        yield Promise("stream-chain", text, how)


def _limits(policy: Policy) -> Iterator[Promise]:
    for kind in Kind:
        limits = policy.limits.get(kind)
        if limits and limits.rpm:
            how = "fast requests within one clock minute; how many reach the server"
            yield Promise(f"rpm-{kind}", f"{limits.rpm} requests a minute, then 429", how)
        if limits and limits.tpm:
            how = "answers of a quarter of it each; LiteLLM counts tokens once an answer is there"
            yield Promise(f"tpm-{kind}", f"{limits.tpm} tokens a minute, then 429", how)


def _fallbacks(policy: Policy) -> Iterator[Promise]:
    for kind, words in FALLBACK.items():
        yield Promise(f"fallback-{kind}", f"fires on {words}", "a model that fails so, and a fallback that answers")
    text = "fires when the model's own rate limit is reached"
    yield Promise("fallback-limit", text, "a model with 2 requests a minute, and a fallback")
    if has_breaker(policy):
        text = "fires while the breaker is open"
        yield Promise("fallback-open", text, "a model whose breaker has opened, and a fallback")


def _chains(rig: Rig) -> Iterator[Promise]:
    for name, chain in rig.chains.items():
        how = "each model of it refuses the request but the last"
        yield Promise(f"chain:{name}", " -> ".join(chain), how)
    for name, chain in rig.context_chains.items():
        how = "the prompt is too long for each model of it but the last"
        yield Promise(f"context:{name}", " -> ".join(chain), how)


def _surface() -> Iterator[Promise]:
    text = "disabled models, and references to them, are left out"
    yield Promise("disabled", text, "asked by name; and a fallback that leads past a disabled one")
    yield Promise("models", "/v1/models lists exactly what the sources do", "the list, name by name")
    yield Promise("key", "right key 200, no key 401, wrong key refused", "GET /v1/models with each")
