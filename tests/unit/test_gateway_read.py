"""Reading the sources: what they say, and everything that can be wrong with their shape."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.core.gateway.model import Absent, Catalog, Deployment, Kind, Limits, Policy
from agentd.core.gateway.problems import Problem
from agentd.core.gateway.read import read_catalog
from agentd.core.gateway.tree import Node, Place
from agentd.core.gateway.yaml_text import dump, parse
from agentd.findings import Severity

ROOT = Path(__file__).resolve().parents[2]
PROVIDERS = """\
providers:
  qwen:
    kind: vllm
    port: qwen
    service: qwen
    key: VLLM_API_KEY
  ollama: {kind: local, api: ollama_chat, port: ollama}
  openai: {kind: cloud, api: openai, key: OPENAI_API_KEY, status: disabled, params: {organization: org-1}}
  far: {kind: local, base_url: "http://10.0.0.9:9000/v1"}
"""
PORTS = """\
ports:
  gateway: 4001
  qwen: 8001
  ollama: {port: 11434, host: 0.0.0.0, unit: ollama.service}
  six: {port: 9100, host: "::1"}
"""
MODELS = """\
models:
  qwen:
    provider: qwen
    model: Qwen/Qwen3
    aliases: [default, coder]
    capabilities: [chat, tools]
    fallbacks: [llama]
    context_fallbacks: [llama]
    limits: {rpm: 20}
    when_absent: wait
    timeouts: {try: 1min, silence: 30}
    info: {max_tokens: 8192, deep: {list: [1]}}
    params: {temperature: 0.2}
  llama:
    status: disabled
    limits: {rpm: 7, tpm: 0}
    params: {temperature: 0.1, top_p: 1}
    deployments:
      - {provider: ollama, model: "llama3:8b"}
      - {provider: far, model: llama, limits: {rpm: 9}, params: {temperature: 0.5}}
policy:
  breaker: {failures: 3, cooldown: 2min}
  timeouts: {try: 10, silence: 20, answer: 100, wait: 0}
  retries: 1
  pre_call_checks: false
  routing: least-busy
  limits: {cloud: {rpm: 1}, vllm: {tpm: 2}}
  master_key: GATEWAY_KEY
  metrics: false
  litellm:
    router_settings: {redis_host: localhost}
"""


def read(providers: str = PROVIDERS, ports: str = PORTS, models: str = MODELS) -> tuple[Catalog, tuple[Problem, ...]]:
    texts = {"providers.yaml": providers, "ports.yaml": ports, "model-mappings.yaml": models}
    catalog, problems = read_catalog({name: parse(text, name) for name, text in texts.items()})
    assert catalog is not None
    return catalog, problems


def test_everything_is_read() -> None:
    catalog, problems = read()
    assert problems == ()
    qwen, ollama, openai, far = catalog.providers
    assert (qwen.kind, qwen.api, qwen.base_url, qwen.port) == (
        Kind.VLLM,
        "hosted_vllm",
        "http://127.0.0.1:8001/v1",
        "qwen",
    )
    assert (qwen.enabled, qwen.key, qwen.service) == (True, "VLLM_API_KEY", "qwen")
    assert (ollama.api, ollama.base_url) == ("ollama_chat", "http://127.0.0.1:11434")
    assert (openai.enabled, openai.base_url, openai.params) == (False, "", {"organization": "org-1"})
    assert (far.api, far.base_url, far.port) == ("openai", "http://10.0.0.9:9000/v1", "")
    assert [(p.name, p.number, p.host, p.unit) for p in catalog.ports[1:3]] == [
        ("qwen", 8001, "127.0.0.1", ""),
        ("ollama", 11434, "0.0.0.0", "ollama.service"),
    ]
    model, llama = catalog.models
    assert model.deployments == (
        Deployment("qwen", "Qwen/Qwen3", Place("model-mappings.yaml", 3, 15), Limits(20, None), {"temperature": 0.2}),
    )
    assert (model.aliases, model.capabilities) == (("default", "coder"), ("chat", "tools"))
    assert (model.fallbacks, model.context_fallbacks) == (("llama",), ("llama",))
    assert (model.when_absent, model.try_timeout, model.silence_timeout) == (Absent.WAIT, 60.0, 30.0)
    assert model.info == {"max_tokens": 8192, "deep": {"list": [1]}}
    assert not llama.enabled
    assert [d.limits for d in llama.deployments] == [Limits(7, 0), Limits(9, 0)]
    assert [d.params for d in llama.deployments] == [{"temperature": 0.1, "top_p": 1}, {"temperature": 0.5, "top_p": 1}]
    policy = catalog.policy
    assert policy.limits == {Kind.CLOUD: Limits(1, 50_000), Kind.LOCAL: Limits(100, 50_000), Kind.VLLM: Limits(50, 2)}
    assert (policy.failures, policy.cooldown, policy.retries, policy.routing) == (3, 120.0, 1, "least-busy")
    assert (policy.try_timeout, policy.silence_timeout, policy.answer_timeout, policy.absent_wait) == (10, 20, 100, 0)
    assert (policy.pre_call_checks, policy.metrics, policy.master_key) == (False, False, "GATEWAY_KEY")
    assert policy.litellm == {"router_settings": {"redis_host": "localhost"}}


def test_places() -> None:
    catalog, _ = read()
    lines = MODELS.splitlines()
    qwen, llama = catalog.models
    places = {**{f"qwen {k}": p for k, p in qwen.places.items()}, **{f"llama {k}": p for k, p in llama.places.items()}}
    places |= {f"policy {k}": p for k, p in catalog.policy.places.items()}
    found = {key: lines[place.line - 1][place.column - 1 :] for key, place in places.items()}
    for key, text in {
        "qwen aliases.1": "coder]", "qwen fallbacks.0": "llama]", "qwen timeouts.try": "1min", "qwen limits.rpm": "20}",
        "qwen info.deep.list.0": "1]", "qwen deployments.0.model": "Qwen/Qwen3", "qwen provider": "qwen",
        "llama deployments.1.provider": "far,", "llama deployments.1.limits.rpm": "9}", "llama status": "disabled",
        "policy breaker.cooldown": "2min}", "policy limits.cloud.rpm": "1}", "policy retries": "1",
        "policy litellm.router_settings.redis_host": "localhost}",
    }.items():  # fmt: skip
        assert found[key].startswith(text), key
    assert catalog.provider("qwen").places["key"] == Place("providers.yaml", 6, 10)  # type: ignore[union-attr]
    assert catalog.port("ollama").place == Place("ports.yaml", 4, 18)  # type: ignore[union-attr]


def test_what_is_not_said_is_the_default() -> None:
    catalog, problems = read("providers: {}\n", "ports:\n", "models:\n")
    assert problems == ()
    assert (catalog.providers, catalog.ports, catalog.models) == ((), (), ())
    assert catalog.policy == Policy()


def one(field: str) -> str:
    return f"models:\n  m:\n    provider: qwen\n    model: x\n    {field}\n"


P, Q, M = "providers.yaml", "ports.yaml", "model-mappings.yaml"
WRONG = [
    (P, "providers:\n  a: {kind: vlm, port: qwen}\n", "2:13 bad-value", "vlm", 'did you mean "vllm"?'),
    (P, "providers:\n  a: {port: qwen}\n", "2:3 missing-key", "", "add kind: local or cloud or vllm"),
    (P, "providers:\n  a: {kind: cloud}\n", "2:3 missing-key", "", "add api:"),
    (P, "providers:\n  a: {kind: local}\n", "2:3 missing-key", "", "add base_url:"),
    (P, "providers:\n  a: {kind: vllm, port: 8001}\n", "2:25 wrong-type", "8001", "add NAME: 8001 to ports.yaml"),
    (P, "providers:\n  a: {kind: vllm, port: x, base_url: y}\n", "2:25 bad-value", "x", "keep one"),
    (P, "providers:\n  a: {kind: vllm, port: x, base_ul: y}\n", "2:28 unknown-key", "base_ul", '"base_url"'),
    (P, "providers:\n  a: {kind: vllm, port: x, status: off}\n", "2:36 bad-value", "false", "enabled, disabled"),
    (P, "providers:\n  a: {kind: vllm, port: x, key: os.environ/K}\n", "2:33 bad-value", "os.environ/K", "write K"),
    (P, "providers:\n  a: {kind: vllm, port: x, key: sk-12345678}\n", "2:33 secret-in-source", "", "environment file"),
    (P, "providers:\n  a: {kind: vllm, port: x, key: hf_abcdefghijklmn1}\n", "2:33 secret-in-source", "", "key: ITS"),
    (P, "providers:\n  a: {kind: vllm, port: x, key: 12345}\n", "2:33 secret-in-source", "", "key: ITS"),
    (P, "providers:\n  a: {kind: vllm, port: x, key: a b}\n", "2:33 secret-in-source", "", "key: ITS"),
    (P, "providers:\n  a: x\n", "2:6 wrong-type", "x", "NAME: VALUE"),
    (P, "providers: [a]\n", "1:12 wrong-type", "", "NAME: VALUE"),
    (P, "providers:\n  a b: {kind: vllm, port: x}\n", "2:3 bad-value", "a b", "use letters"),
    (P, "providers:\n  a: &a {kind: vllm, port: x}\n  a: *a\n", "3:3 duplicate-name", "a", "rename"),
    (P, "providers:\n  a: {kind: vllm, port: x, kind: local}\n", "2:28 duplicate-name", "kind", "remove"),
    (P, "providers:\n  a: {kind: vllm, port: x, params: {a: {b: 1, b: 2}}}\n", "2:47 duplicate-name", "b", "remove"),
    (P, "providers:\n  a: {kind: vllm, port: x, params: 3}\n", "2:36 wrong-type", "3", "NAME: VALUE"),
    (P, "{}\n", "1:1 missing-key", "", "add providers:"),
    (P, "# none yet\n", ":0 missing-key", "", "begin it with providers:"),
    (P, "providers: {}\nmodels: {}\n", "2:1 unknown-key", "models", "move it to model-mappings.yaml"),
    (P, "providers: {}\nprovider: {}\n", "2:1 unknown-key", "provider", '"providers"'),
    (P, "- providers\n", "1:1 wrong-type", "", "NAME: VALUE"),
    (Q, "ports:\n  a: '8001'\n", "2:6 wrong-type", "8001", "write 8001, without quotes"),
    (Q, "ports:\n  a: 08001\n", "2:6 wrong-type", "08001", "write 8001, without quotes or leading zeros"),
    (Q, "ports:\n  a: 0o17\n", "2:6 wrong-type", "0o17", "whole number"),
    (Q, "ports:\n  a: 70000\n", "2:6 bad-value", "70000", "from 1 to 65535"),
    (Q, "ports:\n  a: true\n", "2:6 wrong-type", "true", "whole number"),
    (Q, "ports:\n  a: {unit: x}\n", "2:3 missing-key", "", "add port: NUMBER"),
    (Q, "ports:\n  a: {port: 1, hots: x}\n", "2:16 unknown-key", "hots", '"host"'),
    (Q, "ports:\n  8001: a\n", "2:3 wrong-type", "8001", 'quotes: "8001"'),
    (M, "models:\n  off: {provider: qwen, model: x}\n", "2:3 wrong-type", "false", "YAML reads yes, no, on and off"),
    (M, "models:\n  m: {provider: qwen}\n", "2:3 missing-key", "", "add model:"),
    (M, "models:\n  m: {}\n", "2:3 missing-key", "", "add provider: and model:"),
    (M, "models:\n  m:\n", "2:3 missing-key", "", "add provider: and model:"),
    (M, "models:\n  m: {provider: q, model: 4.1}\n", "2:27 wrong-type", "4.1", 'quotes: "4.1"'),
    (M, "models:\n  m: {deployments: []}\n", "2:20 bad-value", "", "add provider:"),
    (M, "models:\n  m: {deployments: {provider: a}}\n", "2:20 wrong-type", "", "dash"),
    (M, "models:\n  m: {deployments: [{provider: a}]}\n", "2:21 missing-key", "", "add model:"),
    (M, "models:\n  m: {deployments: [{provider: a, model: b, x: 1}]}\n", "2:45 unknown-key", "x", "allowed: provider"),
    (M, "models:\n  m: {model: a, deployments: [{provider: a, model: b}]}\n", "2:14 bad-value", "a", "move model"),
    (M, "models:\n  all-proxy-models: {provider: a, model: b}\n", "2:3 bad-value", "all-proxy-models", "another name"),
    (M, one("aliases: x"), "5:14 wrong-type", "x", "write aliases: [x]"),
    (M, one("aliases: [a, 4.1]"), "5:18 wrong-type", "4.1", 'quotes: "4.1"'),
    (M, one("aliases: [a, b, a]"), "5:21 duplicate-name", "a", "remove"),
    (M, one("aliases: ['a*']"), "5:15 bad-value", "a*", "use letters"),
    (M, one("capabilities: [caht]"), "5:20 bad-value", "caht", '"chat"'),
    (M, one("fallback: [x]"), "5:5 unknown-key", "fallback", '"fallbacks"'),
    (M, one("when_absent: later"), "5:18 bad-value", "later", "allowed: fallback, wait, switch, refuse"),
    (M, one("limits: {rpm: -1}"), "5:19 bad-value", "-1", "from 0"),
    (M, one("limits: {rpm: 1.5}"), "5:19 wrong-type", "1.5", "whole number"),
    (M, one("limits: {rps: 1}"), "5:14 unknown-key", "rps", '"rpm"'),
    (M, one("limits: 5"), "5:13 wrong-type", "5", "NAME: VALUE"),
    (M, one("timeouts: {try: 5 parsecs}"), "5:21 bad-value", "5 parsecs", "a duration like"),
    (M, one("timeouts: {try: 0}"), "5:21 bad-value", "0", "a duration like"),
    (M, one("timeouts: {try: soon}"), "5:21 bad-value", "soon", "a duration like"),
    (M, one("timeouts: {try: [1]}"), "5:21 bad-value", "", "a duration like"),
    (M, "models: {}\npolicy: {breaker: {failures: 0}}\n", "2:30 bad-value", "0", "from 1"),
    (M, "models: {}\npolicy: {retry: 1}\n", "2:10 unknown-key", "retry", '"retries"'),
    (M, "models: {}\npolicy: {pre_call_checks: 1}\n", "2:27 wrong-type", "1", "true or false"),
    (M, "models: {}\npolicy: {routing: fast}\n", "2:19 bad-value", "fast", "allowed: simple-shuffle"),
    (M, "models: {}\npolicy: {master_key: sk-1234}\n", "2:22 secret-in-source", "", "master_key: ITS_VARIABLE"),
    (M, "models: {}\npolicy: {limits: {gpu: {rpm: 1}}}\n", "2:19 unknown-key", "gpu", "allowed: local, cloud, vllm"),
    (M, "models: {}\npolicy: {litellm: {router_set: {a: 1}}}\n", "2:20 unknown-key", "router_set", '"router_settings"'),
    (M, "models: {}\npolicy: {litellm: {router_settings: [a]}}\n", "2:37 wrong-type", "", "NAME: VALUE"),
    (M, "policy: {}\n", "1:1 missing-key", "", "add models:"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "text", "where", "value", "fix"), WRONG, ids=[str(n) for n in range(len(WRONG))])
def test_wrong(file: str, text: str, where: str, value: str, fix: str) -> None:
    texts = {P: "providers: {}\n", Q: "ports: {qwen: 8001}\n", M: "models: {}\n", file: text}
    _, problems = read(texts[P], texts[Q], texts[M])
    (problem,) = problems
    place = f"{file}:{where.split()[0]}" if not where.startswith(":") else file
    assert (str(problem.place), problem.check) == (place, where.split()[1])
    assert problem.severity is Severity.ERROR
    assert problem.value == value
    assert fix in problem.fix
    assert not any(secret in f"{problem.text} {problem.fix}" for secret in ("sk-1234", "hf_abc", "12345", "a b"))


def test_all_errors_of_all_files_in_order() -> None:
    trees = {
        P: parse("providers:\n  b: {kind: x, port: y}\n  a: {kid: vllm}\n", P),
        M: parse("policy: {retries: x}\nmodels: {m: {provider: 1}}\n", M),
    }
    catalog, problems = read_catalog(trees)
    assert catalog is None
    assert [f"{p.place} {p.check}" for p in problems] == [
        "providers.yaml:2:13 bad-value",
        "providers.yaml:3:3 missing-key",
        "providers.yaml:3:3 missing-key",
        "providers.yaml:3:7 unknown-key",
        "ports.yaml missing-file",
        "model-mappings.yaml:1:19 wrong-type",
        "model-mappings.yaml:2:10 missing-key",
        "model-mappings.yaml:2:24 wrong-type",
    ]


def test_what_is_known_of_a_file_is_not_said_twice() -> None:
    known = Problem("yaml-syntax", Severity.ERROR, Place(Q, 3, 1), "", "it is not valid YAML", "correct it")
    trees = {P: parse("providers: {}\n", P), M: parse("models: {}\n", M)}
    assert read_catalog(trees, [known]) == (None, (known,))


@pytest.mark.parametrize(
    "secret", ["sk-proj-abc", "http://me:password@host/v1", "gsk_1234567890", "AKIAABCDEFGHIJKLMNOP"]
)
def test_a_key_in_the_wrong_place_is_not_shown(secret: str) -> None:
    texts = [
        f"providers:\n  a: {{kind: '{secret}', port: x}}\n",
        f"providers:\n  '{secret}': {{kind: vllm, port: x}}\n  a: {{'{secret}': 1, kind: vllm, port: x}}\n",
    ]
    for text in texts:
        _, problems = read(text)
        assert problems
        assert secret not in repr([p for p in problems if p.place.file == P])


KEYS = st.sampled_from(
    ["kind", "port", "base_url", "key", "status", "params", "limits", "rpm", "deployments", "provider", "model", "a"]
)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 70000) | st.floats() | st.sampled_from(["vllm", "x", "30s", "", "on"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.integers(0, 3), inner, max_size=5),
    max_leaves=25,
)


@given(ANY, ANY, ANY)
def test_nothing_is_ever_raised(providers: object, ports: object, models: object) -> None:
    documents = {P: {"providers": providers}, Q: {"ports": ports}, M: {"models": models, "policy": providers}}
    trees: dict[str, Node] = {name: parse(dump(document), name) for name, document in documents.items()}
    catalog, problems = read_catalog(trees)
    assert catalog is not None
    assert all(problem.text and problem.fix and problem.place.file in trees for problem in problems)
    assert read_catalog(trees) == (catalog, problems) or "nan" in repr(catalog)


def test_five_hundred_models_are_quick() -> None:
    model = {"provider": "qwen", "model": "x", "capabilities": ["chat"], "limits": {"rpm": 5}, "fallbacks": ["m1"]}
    text = dump({"models": {f"m{n}": model for n in range(500)}})
    start = time.process_time()
    catalog, problems = read(models=text)
    assert time.process_time() - start < 1, "of CPU; it takes a tenth of that"
    assert (len(catalog.models), problems) == (500, ())


def test_the_defaults_read_without_a_problem() -> None:
    folder = ROOT / "etc" / "gateway"
    catalog, problems = read(*((folder / name).read_text() for name in (P, Q, M)))
    assert problems == ()
    assert catalog.policy == replace(Policy(), places=catalog.policy.places)
    assert [p.name for p in catalog.providers if p.enabled] == ["vllm-qwen", "vllm-dolphin", "ollama"]
    assert {p.base_url for p in catalog.providers if p.enabled} == {
        "http://127.0.0.1:8001/v1", "http://127.0.0.1:8002/v1", "http://127.0.0.1:11434",
    }  # fmt: skip
    assert catalog.port("gateway") is not None
    assert [m.name for m in catalog.models if m.enabled] == ["qwen", "dolphin", "llama"]
