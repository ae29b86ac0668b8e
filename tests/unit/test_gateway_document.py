"""The generated config: each key that makes the policy true, and what must hold for any sources."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gatewaycatalogs import INSTALL, catalog, model, provider

import agentd
from agentd.core.gateway.checks import check
from agentd.core.gateway.document import render
from agentd.core.gateway.generated import Rendered, SlotModel
from agentd.core.gateway.install import Install
from agentd.core.gateway.model import Absent, Catalog, Deployment, Kind, Limits
from agentd.core.gateway.problems import errors
from agentd.core.gateway.read import read_catalog
from agentd.core.gateway.yaml_text import parse

DEFAULTS = Path(__file__).resolve().parents[2] / "etc/gateway"
GOLDEN = Path(__file__).with_name("data") / "litellm-unified.yaml"
DIGESTS = {"providers.yaml": "a" * 64, "ports.yaml": "b" * 64, "model-mappings.yaml": "c" * 64}


def rendered(catalog: Catalog, **slots: SlotModel) -> Rendered:
    return render(catalog, INSTALL, slots, DIGESTS)


def read(made: Rendered) -> dict[str, Any]:
    plain = parse(made.text, "config").plain()
    assert isinstance(plain, dict)
    return plain


def document(catalog: Catalog, **slots: SlotModel) -> dict[str, Any]:
    return read(rendered(catalog, **slots))


def params(catalog: Catalog) -> dict[str, Any]:
    found: dict[str, Any] = document(catalog)["model_list"][0]["litellm_params"]
    return found


# -- the defaults -------------------------------------------------------------------------------------------------


def test_the_defaults_give_the_golden_file() -> None:
    """Where a change is meant: write what was made into the golden file and read the difference."""
    trees = {path.name: parse(path.read_text(), path.name) for path in DEFAULTS.glob("*.yaml")}
    sources, problems = read_catalog(trees)
    assert sources is not None
    assert errors((*problems, *check(sources))) == []
    slots = {"qwen": SlotModel("qwen", "gpu0"), "dolphin": SlotModel("dolphin", "gpu0")}
    made = render(sources, INSTALL, slots, DIGESTS)
    assert made.text.replace(f"# agentd: {agentd.__version__} ", "# agentd: VERSION ") == GOLDEN.read_text()
    assert {left.what.split()[0] for left in made.left_out} == {"provider", "model"}


def test_the_policy_of_the_stack_is_what_litellm_reads() -> None:
    router = document(catalog(model("a")))["router_settings"]
    assert router["allowed_fails"] == 4
    assert set(router["allowed_fails_policy"].values()) == {4}
    assert router["cooldown_time"] == 60
    assert (router["timeout"], router["stream_timeout"], router["num_retries"]) == (30, 120, 2)
    assert router["enable_pre_call_checks"] is True
    assert router["optional_pre_call_checks"] == ["enforce_model_rate_limits"]
    assert "request_timeout" not in document(catalog(model("a")))["litellm_settings"]


@pytest.mark.parametrize(
    ("kind", "rpm", "tpm"), [(Kind.CLOUD, 100, 50_000), (Kind.LOCAL, 100, 50_000), (Kind.VLLM, 50, 100_000)]
)
def test_limits_by_kind(kind: Kind, rpm: int, tpm: int) -> None:
    found = params(catalog(model("a"), providers=(provider(kind=kind, api="openai"),)))
    assert (found["rpm"], found["tpm"]) == (rpm, tpm)


# -- single keys --------------------------------------------------------------------------------------------------


def test_own_limits_and_none() -> None:
    def limited(limits: Limits) -> dict[str, Any]:
        return params(catalog(model("a", deployments=(Deployment("local", "x", model("x").place, limits),))))

    assert (limited(Limits(7, None))["rpm"], limited(Limits(7, None))["tpm"]) == (7, 50_000)
    assert {"rpm", "tpm"}.isdisjoint(limited(Limits(0, 0)))


@pytest.mark.parametrize(
    ("fields", "api_model", "key"),
    [
        ({"kind": Kind.VLLM}, "hosted_vllm/a-on-local", "no-key"),
        ({"kind": Kind.VLLM, "key": "VLLM_KEY"}, "hosted_vllm/a-on-local", "os.environ/VLLM_KEY"),
        ({"kind": Kind.LOCAL}, "openai/a-on-local", "no-key"),
        ({"kind": Kind.LOCAL, "api": "ollama_chat"}, "ollama_chat/a-on-local", None),
        ({"kind": Kind.LOCAL, "params": {"api_key": "os.environ/K"}}, "openai/a-on-local", "os.environ/K"),
        ({"kind": Kind.CLOUD, "api": "bedrock"}, "bedrock/a-on-local", None),
        ({"kind": Kind.CLOUD, "api": "anthropic", "key": "A"}, "anthropic/a-on-local", "os.environ/A"),
    ],
)
def test_a_local_server_never_gets_a_cloud_key(fields: dict[str, Any], api_model: str, key: str | None) -> None:
    found = params(catalog(model("a"), providers=(provider(**fields),)))
    assert (found["model"], found.get("api_key")) == (api_model, key)


def test_litellm_must_not_start_an_ollama_itself() -> None:
    found = params(catalog(model("a"), providers=(provider(api="ollama", base_url=""),)))
    assert found["api_base"] == "http://127.0.0.1:11434"


def test_timeouts_of_a_model() -> None:
    found = params(catalog(model("a", try_timeout=7.5, silence_timeout=20.0)))
    assert (found["timeout"], found["stream_timeout"], found["max_retries"]) == (7.5, 20, 0)


def test_capabilities_become_info() -> None:
    def info(*capabilities: str, **more: Any) -> dict[str, Any]:
        made = document(catalog(model("a", capabilities=capabilities, info=more)))["model_list"][0]["model_info"]
        assert made.pop("id") == "a/local/1"
        return dict(made)

    assert info() == {}
    assert info("tools", "vision", "json") == {
        "mode": "chat",
        "supports_vision": True,
        "supports_function_calling": True,
        "supports_response_schema": True,
    }
    assert info("embedding", max_input_tokens=512) == {"mode": "embedding", "max_input_tokens": 512}
    assert info("image")["mode"] == "image_generation"


def test_an_alias_gets_the_fallbacks_too() -> None:
    """LiteLLM looks them up by the name that was asked for."""
    router = document(catalog(model("a", "b", aliases=("x",)), model("b", "c"), model("c")))["router_settings"]
    assert router["model_group_alias"] == {"x": "a"}
    assert router["fallbacks"] == [{"a": ["b", "c"]}, {"x": ["b", "c"]}, {"b": ["c"]}]
    assert router["max_fallbacks"] == 2


def test_one_hop_at_least_is_allowed() -> None:
    assert document(catalog(model("a")))["router_settings"]["max_fallbacks"] == 1


@pytest.mark.parametrize(("name", "head"), [("openai/a", "a"), ("a", "openai/a")])
def test_a_name_does_not_borrow_anothers_fallbacks(name: str, head: str) -> None:
    """LiteLLM takes "openai/a" for "a" where it has none of its own."""
    router = document(catalog(model(name), model(head, "z"), model("z")))["router_settings"]
    assert router["fallbacks"] == [{name: []}, {head: ["z"]}]


def test_a_long_prompt_takes_the_fallbacks_where_there_are_no_others() -> None:
    """Once one model has context fallbacks, LiteLLM takes nothing else for the others."""
    router = document(catalog(model("a", context_fallbacks=("b",)), model("b", "c"), model("c")))["router_settings"]
    assert router["context_window_fallbacks"] == [{"a": ["b"]}, {"b": ["c"]}]


def test_a_long_prompt_does_not_come_down_again() -> None:
    """The large model falls back to the small one, and the small one's long prompts go to the large one."""
    pair = catalog(model("small", context_fallbacks=("large",)), model("large", "small", "other"), model("other"))
    router = document(pair)["router_settings"]
    assert router["fallbacks"] == [{"large": ["small", "other"]}]
    assert router["context_window_fallbacks"] == [{"small": ["large"]}, {"large": ["other"]}]


@pytest.mark.parametrize("policy", [{"failures": 0}, {"cooldown": 0.0}])
def test_no_breaker(policy: dict[str, Any]) -> None:
    found = document(catalog(model("a"), **policy))
    assert found["router_settings"]["disable_cooldowns"] is True
    assert "allowed_fails" not in found["router_settings"]
    assert "cooldown_time" not in found["model_list"][0]["litellm_params"]


def test_metrics_need_their_package() -> None:
    there, gone = (Install("l", "p", "1.106.2", frozenset(), has) for has in (True, False))
    sources = catalog(model("a"))
    assert read(render(sources, there, {}, {}))["litellm_settings"] == {
        "callbacks": ["prometheus"],
        "require_auth_for_metrics_endpoint": True,
    }
    without = render(sources, gone, {}, {})
    assert "litellm_settings" not in read(without)
    (left,) = without.left_out
    assert (left.what, left.why) == (
        "litellm_settings.callbacks: prometheus",
        "the package prometheus_client is not installed with LiteLLM",
    )


def test_router_keys_that_litellm_lacks_are_said() -> None:
    known = frozenset(document(catalog(model("a")))["router_settings"]) - {"max_fallbacks"}
    made = render(catalog(model("a")), replace(INSTALL, router_keys=known), {}, {})
    assert set(read(made)["router_settings"]) == known
    assert [(left.what, left.why) for left in made.left_out] == [
        ("router_settings.max_fallbacks", "LiteLLM 1.106.2 does not know it")
    ]


def test_what_the_policy_does_not_set_is_taken_over() -> None:
    more = {
        "litellm_settings": {"drop_params": True, "request_timeout": 9, "callbacks": "langfuse"},
        "router_settings": {
            "redis_host": "r",
            "num_retries": 9,
            "default_fallbacks": ["a"],
            "optional_pre_call_checks": ["prompt_caching"],
        },
        "general_settings": {"master_key": "sk-literal", "max_parallel_requests": 3},
        "environment_variables": {"B": "2", "A": "1"},
    }
    made = rendered(catalog(model("a"), litellm=more))
    found = read(made)
    assert found["litellm_settings"]["drop_params"] is True
    assert found["litellm_settings"]["callbacks"] == ["prometheus", "langfuse"]
    assert found["router_settings"]["redis_host"] == "r"
    assert found["router_settings"]["num_retries"] == 2
    assert found["router_settings"]["optional_pre_call_checks"] == ["enforce_model_rate_limits", "prompt_caching"]
    assert found["general_settings"] == {"master_key": "os.environ/LITELLM_MASTER_KEY", "max_parallel_requests": 3}
    assert list(found["environment_variables"]) == ["A", "B"]
    assert "sk-literal" not in made.text
    assert {left.what: left.why for left in made.left_out} == {
        "policy.litellm.litellm_settings.request_timeout": "policy.timeouts.try decides it",
        "policy.litellm.router_settings.num_retries": "policy.retries decides it",
        "policy.litellm.router_settings.default_fallbacks": "models.NAME.fallbacks decides it",
        "policy.litellm.general_settings.master_key": "policy.master_key decides it",
    }


def test_params_that_the_sources_decide_are_left_out() -> None:
    at = model("x").place
    own = Deployment("local", "x", at, params={"num_retries": 9, "temperature": 0.5, "rpm": 1})
    made = rendered(
        catalog(
            model("a", deployments=(own,), info={"id": "mine", "base_model": "b"}),
            providers=(provider(params={"timeout": 600, "organization": "o"}),),
        )
    )
    entry = read(made)["model_list"][0]
    assert entry["litellm_params"]["timeout"] == 30
    assert (entry["litellm_params"]["organization"], entry["litellm_params"]["temperature"]) == ("o", 0.5)
    assert "num_retries" not in entry["litellm_params"]
    assert entry["model_info"] == {"id": "a/local/1", "base_model": "b"}
    assert [left.what for left in made.left_out] == [
        "params.timeout of provider local",
        "params.num_retries of a",
        "params.rpm of a",
        "info.id of a",
    ]


def test_the_section_says_which_models_may_be_absent() -> None:
    sources = catalog(model("a", "b", "c", when_absent=Absent.WAIT), model("b"), model("c", enabled=False))
    section = document(sources, a=SlotModel("qwen", "gpu0"), c=SlotModel("c", "gpu0"))["agentd"]
    assert section == {
        "version": 1,
        "answer_limit": 300,
        "absent_wait": 60,
        "expected_models": ["a", "b"],
        "slots": {"a": {"service": "qwen", "slot": "gpu0", "when_absent": "wait", "fallbacks": ["b"]}},
    }


def test_identities_are_nobody_elses_name() -> None:
    """LiteLLM takes an id for a model's name."""
    sources = catalog(model("a", providers=("local", "local")), model("a/local/1"), model("b", aliases=("a/local/2",)))
    ids = [entry["model_info"]["id"] for entry in document(sources)["model_list"]]
    assert ids == ["a/local/1+", "a/local/2+", "a/local/1/local/1", "b/local/1"]
