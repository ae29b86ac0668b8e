"""Hand-written configs: what is generated from their import is equivalent, and no key of them is left anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agentd.core.gateway.checks import check
from agentd.core.gateway.document import render
from agentd.core.gateway.facts import Facts
from agentd.core.gateway.importing import Imported, import_config
from agentd.core.gateway.install import NOT_INSTALLED
from agentd.core.gateway.model import Catalog
from agentd.core.gateway.read import read_catalog
from agentd.core.gateway.secret_words import looks_secret
from agentd.core.gateway.yaml_text import dump, parse
from agentd.errors import AgentdError
from agentd.findings import Severity

FOLDER = Path(__file__).parent / "gateway_imports"
CASES = sorted(path.name for path in FOLDER.glob("*.yaml"))


def imported(name: str) -> Imported:
    return import_config(parse((FOLDER / name).read_text(), name))


def catalog_of(found: Imported) -> Catalog:
    catalog, problems = read_catalog({name: parse(text, name) for name, text in found.texts.items()})
    assert problems == ()
    assert catalog is not None
    return catalog


def both(name: str) -> tuple[dict[str, Any], dict[str, Any], Imported]:
    """(the original, what is generated from its import, the import)"""
    found = imported(name)
    return (
        yaml.safe_load((FOLDER / name).read_text()),
        yaml.safe_load(render(catalog_of(found), NOT_INSTALLED, {}, {}).text),
        found,
    )


LEFT_OUT = {
    "07-azure.yaml": {"azure/*", "strange"},
    "10-json-like.yaml": {7, None},
}
MODELS = {"gpt-4o-mini": "openai/gpt-4o-mini", "claude-sonnet-4-5": "anthropic/claude-sonnet-4-5"}
"""Models that LiteLLM finds the provider of by itself."""
OURS = {"timeout", "stream_timeout", "max_retries", "cooldown_time", "rpm", "tpm"}
"""Set by the policy where the original says nothing."""


def params(entry: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What LiteLLM is told, without the different ways to say it and without the keys."""
    said = dict(entry["litellm_params"])
    said["model"] = MODELS.get(said["model"], said["model"])
    if "base_url" in said:
        said["api_base"] = said.pop("base_url")
    said.pop("custom_llm_provider", None)
    for key, value in said.items():
        said[key] = str(value) if key == "api_version" else value
    return {key: value for key, value in said.items() if key not in OURS and key != name}


@pytest.mark.parametrize("name", CASES)
def test_the_models_are_the_same(name: str) -> None:
    original, generated, found = both(name)
    variables = {secret.value: f"os.environ/{secret.variable}" for secret in found.secrets}
    wanted = [e for e in original["model_list"] if e.get("model_name") not in LEFT_OUT.get(name, set())]
    assert wanted
    got = generated["model_list"]
    # Deployments of one model stand together; their order among themselves stays.
    names = list(dict.fromkeys(e["model_name"] for e in wanted))
    wanted = [e for model in names for e in wanted if e["model_name"] == model]
    assert [e["model_name"] for e in got] == [e["model_name"] for e in wanted]
    for before, after in zip(wanted, got, strict=True):
        was, now = params(before, "api_key"), params(after, "api_key")
        assert now.pop("api_base", None) == was.pop(
            "api_base", "http://127.0.0.1:11434" if "ollama" in now["model"] else None
        )
        for key, value in was.items():
            assert now.pop(key) == replaced(value, variables), (before["model_name"], key)
        assert now == {}, "nothing is added"
        key = before["litellm_params"].get("api_key")
        if key in ("none", "EMPTY", "not-needed", None):
            assert after["litellm_params"].get("api_key") in ("no-key", None)
        else:
            assert after["litellm_params"]["api_key"] == variables.get(key, key)
        for limit in ("rpm", "tpm"):
            explicit = before["litellm_params"].get(limit)
            if explicit:
                assert after["litellm_params"][limit] == explicit
            elif explicit == 0:
                assert limit not in after["litellm_params"]
        info = {k: v for k, v in before.get("model_info", {}).items() if k != "id"}
        assert {k: after["model_info"].get(k) for k in info} == info


def replaced(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: replaced(inner, variables) for key, inner in value.items()}
    return variables.get(value, value) if isinstance(value, str) else value


def table(value: Any) -> dict[str, list[str]]:
    return {name: targets for entry in value or [] for name, targets in entry.items()}


@pytest.mark.parametrize("name", CASES)
def test_aliases_and_fallbacks_are_the_same(name: str) -> None:
    original, generated, _ = both(name)
    models = {entry["model_name"] for entry in generated["model_list"]}
    router, litellm = original.get("router_settings") or {}, original.get("litellm_settings") or {}
    aliases = {
        alias: target["model"] if isinstance(target, dict) else target
        for alias, target in router.get("model_group_alias", {}).items()
    }
    got = generated["router_settings"]
    assert got.get("model_group_alias", {}) == {a: t for a, t in aliases.items() if t in models}
    for key in ("fallbacks", "context_window_fallbacks"):
        now = table(got.get(key))
        for model, targets in table(router.get(key) or litellm.get(key)).items():
            wanted = [target for target in targets if target in models]
            if model in models and wanted:
                assert [t for t in now[model] if t in wanted] == wanted
                assert now[model][0] == wanted[0]
    for model in models - set(router.get("default_fallbacks", [])):
        if router.get("default_fallbacks") and model not in table(router.get("fallbacks")):
            assert table(got["fallbacks"])[model] == router["default_fallbacks"]


SETTINGS: dict[str, dict[str, Any]] = {
    "01-two-vllm.yaml": {"num_retries": 0, "timeout": 600, "allowed_fails": 4, "cooldown_time": 60},
    "02-aliases.yaml": {"routing_strategy": "least-busy", "num_retries": 2, "enable_pre_call_checks": True},
    "03-several-deployments.yaml": {
        "allowed_fails": 3, "cooldown_time": 30, "num_retries": 3, "timeout": 45, "redis_host": "os.environ/REDIS_HOST",
        "redis_port": 6379,
    },
    "05-fallbacks.yaml": {"num_retries": 1, "timeout": 20, "allowed_fails": 2},
    "06-ollama.yaml": {"stream_timeout": 90, "timeout": 30},
    "07-azure.yaml": {"allowed_fails": 9},
    "08-environment.yaml": {"optional_pre_call_checks": ["enforce_model_rate_limits", "prompt_caching"]},
    "09-default-fallbacks.yaml": {"routing_strategy": "simple-shuffle", "cooldown_time": 60},
    "10-json-like.yaml": {"timeout": 12.5, "cooldown_time": 60, "routing_strategy": "usage-based-routing-v2"},
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_the_settings_are_the_same(name: str) -> None:
    original, generated, _ = both(name)
    assert {key: generated["router_settings"].get(key) for key in SETTINGS[name]} == SETTINGS[name]
    general = original["general_settings"]
    key = general.get("master_key", "os.environ/LITELLM_MASTER_KEY")
    assert generated["general_settings"]["master_key"] == key
    for setting in set(general) - {"master_key", "database_url"}:
        assert generated["general_settings"][setting] == general[setting]
    for setting in ("drop_params", "cache", "json_logs", "set_verbose", "default_team_settings", "success_callback"):
        if setting in (original.get("litellm_settings") or {}):
            assert generated["litellm_settings"][setting] == original["litellm_settings"][setting]
    assert generated.get("environment_variables") == original.get("environment_variables"), name


def test_metrics_stay_on_or_off() -> None:
    assert {name: catalog_of(imported(name)).policy.metrics for name in CASES} == {
        name: name.startswith(("03", "08")) for name in CASES
    }


def test_timeouts_of_single_models() -> None:
    models = {m.name: m for m in catalog_of(imported("09-default-fallbacks.yaml")).models}
    assert (models["local"].try_timeout, models["local"].silence_timeout) == (15.0, 60.0)
    assert catalog_of(imported("03-several-deployments.yaml")).models[0].try_timeout == 20.0


def test_literal_keys_become_variables() -> None:
    name = "04-literal-keys.yaml"
    found = imported(name)
    values = {secret.variable: secret.value[-4:] for secret in found.secrets}
    assert values == {
        "OPENAI_API_KEY": "0001", "OPENAI_API_KEY_2": "0002", "ANTHROPIC_API_KEY_2": "0003",
        "AWS_SECRET_ACCESS_KEY": "0004", "EXTRA_HEADERS_AUTHORIZATION": "0005",
        "ANTHROPIC_API_KEY": "0006", "CACHE_PARAMS_PASSWORD": "0007",
        "LITELLM_MASTER_KEY": "0008", "DATABASE_URL": "ellm",
    }  # fmt: skip
    for text in (*found.texts.values(), *found.notes, repr(found), repr(found.secrets)):
        assert "SECRETSECRET" not in text
    generated = both(name)[1]
    assert generated["litellm_settings"]["cache_params"]["password"] == "os.environ/CACHE_PARAMS_PASSWORD"
    assert generated["general_settings"]["database_url"] == "os.environ/DATABASE_URL"
    assert generated["environment_variables"] == {"LANGFUSE_HOST": "https://langfuse.example.org"}


def test_where_providers_are() -> None:
    catalog = catalog_of(imported("10-json-like.yaml"))
    assert [(p.name, p.kind.value, p.port, p.base_url) for p in catalog.providers] == [
        ("vllm-8001", "vllm", "vllm-8001", "http://[::1]:8001/v1"),
        ("vllm-8001-2", "vllm", "", "http://gpu-2:8001/v1"),
        ("openai", "local", "openai", "http://127.0.0.1:4001/v1"),
    ]
    assert {p.name: p.number for p in catalog.ports} == {"gateway": 4002, "vllm-8001": 8001, "openai": 4001}


NOTES = {
    "02-aliases.yaml": ["the alias nothing is left out: there is no model missing"],
    "03-several-deployments.yaml": [
        "chat: its id is left out",
        "chat: its deployments had different timeouts",
        "info base_model now",
    ],
    "05-fallbacks.yaml": ["fallbacks of gone are left out", "missing in fallbacks of c is left out", "placeholder"],
    "06-ollama.yaml": ["without an api_base LiteLLM asks Ollama", "the gateway had no master_key"],
    "07-azure.yaml": ["entry 3 of model_list", "strange: a deployment is left out", "retry_policy", "counts these"],
    "08-environment.yaml": ["the section guardrails is left out"],
    "09-default-fallbacks.yaml": ["default_fallbacks are written", "max_retries is left out", "strategy nonsense"],
    "10-json-like.yaml": ["entry 4 of model_list", "entry 5 of model_list"],
}


@pytest.mark.parametrize("name", sorted(NOTES))
def test_what_is_lost_is_said(name: str) -> None:
    notes = imported(name).notes
    for part in NOTES[name]:
        assert any(part in note for note in notes), (part, notes)


@pytest.mark.parametrize("text", ["", "a: 1\n", "[]\n", "model_list: {}\n"])
def test_what_is_no_config(text: str) -> None:
    with pytest.raises(AgentdError, match=r"cannot import x\.yaml: it has no model_list") as caught:
        import_config(parse(text, "x.yaml"))
    assert caught.value.kind == "gateway-import"


@pytest.mark.parametrize("name", CASES)
def test_the_sources_are_good(name: str) -> None:
    problems = check(catalog_of(imported(name)), Facts())
    assert [p for p in problems if p.severity is Severity.ERROR] == []


def test_a_long_answer_and_a_cycle_are_said() -> None:
    tree = parse(
        (FOLDER / "01-two-vllm.yaml").read_text() + "  fallbacks: [{qwen: [dolphin]}, {dolphin: [qwen]}]\n", "x"
    )
    found = import_config(tree)
    assert any("qwen -> dolphin -> qwen lead back" in note for note in found.notes)
    assert catalog_of(found).policy.answer_timeout == 1200.0
    assert any("may take 1200 s" in note for note in found.notes)
    assert catalog_of(imported("01-two-vllm.yaml")).policy.answer_timeout == 600.0


KEY, KEYS = "sk-1234567890", ("api_key", "password", "api_base", "api_version", "master_key", "base_model", "callbacks")
WORDS = st.sampled_from(
    ["a", "b", "*", "x y", "openai/x", "ollama/y", "hosted_vllm/z", "os.environ/K", "http://localhost:1/v1",
     "http://[", "simple-shuffle", "chat", "prometheus", "all-proxy-models"]
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.integers(0, 2), inner, max_size=3),
    max_leaves=8,
)


def some(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    """These fields with any values, some of them with a key; or anything else."""
    fields = {name: VALUES | st.just(KEY) if name in KEYS else VALUES for name in names}
    return st.fixed_dictionaries({}, optional=fields) | VALUES  # type: ignore[return-value]


PARAMS = some(
    "model", "api_base", "api_key", "rpm", "timeout", "stream_timeout", "api_version", "password", "max_retries"
)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={"model_name": WORDS | VALUES, "litellm_params": PARAMS, "model_info": some("mode", "id", "base_model")},
)
CONFIGS = st.fixed_dictionaries(
    {"model_list": st.lists(ENTRIES, max_size=4)},
    optional={
        "router_settings": some(
            "fallbacks", "default_fallbacks", "model_group_alias", "allowed_fails", "allowed_fails_policy", "timeout"
        ),
        "litellm_settings": some(
            "fallbacks", "callbacks", "request_timeout", "num_retries", "context_window_fallbacks"
        ),
        "general_settings": some("master_key", "database_url"),
        "environment_variables": VALUES,
    },
)


@given(CONFIGS)
def test_any_config(config: dict[str, Any]) -> None:
    """Nothing is raised, the sources can be read, and no literal key is in them."""
    found = import_config(parse(dump(config), "x.yaml"))
    catalog, _ = read_catalog({name: parse(text, name) for name, text in found.texts.items()})
    assert catalog is not None
    for text in (*found.texts.values(), *found.notes):
        assert KEY not in text


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("sk-abcdef", True), ("hf_abcdefghijklmnop", True), ("0123456789abcdef0123456789abcdef", True),
        ("c0ffee00-1234-5678-9abc-def012345678", True), ("postgresql://me:word@host/db", True), ("Bearer abc", True),
        ("meta-llama-3-70b-instruct-fp8-dynamic", False), ("AZURE_OPENAI_API_KEY_EASTUS2", False),
        ("os.environ/OPENAI_API_KEY", False), ("Qwen/Qwen2.5-VL-72B-Instruct-AWQ", False), ("", False),
        ("anthropic.claude-3-sonnet-20240229-v1:0", False), ("text-embedding-3-large", False), ("http://h:1/v1", False),
    ],
)  # fmt: skip
def test_what_looks_like_a_key(text: str, secret: bool) -> None:
    assert looks_secret(text) is secret


def test_there_are_ten() -> None:
    assert len(CASES) == 10
