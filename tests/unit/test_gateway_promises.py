"""The catalog that a proof runs, and what it proves: nothing of the user's is reached, no promise is forgotten."""

from __future__ import annotations

import re
from dataclasses import replace
from random import Random

import pytest
from gatewaycatalogs import INSTALL, arbitrary, catalog, model, provider

from agentd.core.gateway.document import render
from agentd.core.gateway.generated import Rendered
from agentd.core.gateway.model import Catalog, Kind, Limits, Policy
from agentd.core.gateway.promises import matching, promises
from agentd.core.gateway.proof_catalog import KEY, PREFIX, Rig, factor_of, fitting_retries, rig
from agentd.managers.gateway.prove import jobs

URL, REFUSED = "http://127.0.0.1:9001/v1", "http://127.0.0.1:9002/v1"


def made(sources: Catalog, *, full: bool = False) -> Rig:
    return rig(sources, url=URL, refused=REFUSED, full=full)


def rendered(sources: Catalog) -> Rendered:
    return render(made(sources).catalog, INSTALL, {}, {})


@pytest.mark.parametrize(
    ("policy", "factor"),
    [
        (Policy(), 20),
        (Policy(try_timeout=5), 5),
        (Policy(cooldown=2), 2),
        (Policy(cooldown=0), 20),
        (Policy(try_timeout=0.5), 1),
        (Policy(try_timeout=600, silence_timeout=600, cooldown=600), 20),
    ],
)
def test_times_are_divided_but_not_below_a_second(policy: Policy, factor: float) -> None:
    assert factor_of(policy) == factor


def test_all_times_keep_their_ratios() -> None:
    scaled = made(catalog(model("a", try_timeout=60.0, silence_timeout=20.0)))
    policy, own = scaled.policy, scaled.catalog.models[0]
    assert (policy.try_timeout, policy.silence_timeout, policy.answer_timeout) == (1.5, 6, 15)
    assert (policy.cooldown, own.try_timeout, own.silence_timeout) == (3, 3, 1)
    assert made(catalog(model("a")), full=True).policy.try_timeout == 30
    assert "times are divided by 20" in scaled.notes


def test_a_promise_is_told_with_the_users_time_and_the_one_that_is_tried() -> None:
    sources = catalog(model("a"))
    assert promises(made(sources))["try-timeout"].text == "a try ends after 30 s (tried as 1.5 s)"
    assert promises(made(sources, full=True))["try-timeout"].text == "a try ends after 30 s"


def test_nothing_of_the_users_is_reached() -> None:
    """Neither an address, nor a key, nor a setting that names another machine, whatever the sources are."""
    for seed in range(300):
        sources = arbitrary(Random(seed))
        providers = tuple(
            replace(p, base_url=f"https://user-{n}.example/v1", key="USER_KEY", params={"api_version": "user"})
            for n, p in enumerate(sources.providers)
        )
        litellm = {
            "router_settings": {"redis_host": "user", "redis_url": "user", "debug_level": "INFO"},
            "litellm_settings": {"cache": True, "cache_params": {"host": "user"}, "success_callback": ["user"]},
            "general_settings": {"database_url": "user"},
            "environment_variables": {"USER_KEY": "user"},
        }
        policy = replace(sources.policy, litellm=litellm, metrics=True)
        text = rendered(replace(sources, providers=providers, policy=policy)).text
        assert "user" not in re.sub(r"#.*", "", text).lower()
        assert set(re.findall(r"https?://[^\s\"']+", text)) <= {URL, REFUSED, URL[:-3], REFUSED[:-3]}
        assert set(re.findall(r"os\.environ/(\w+)", text)) <= {KEY, policy.master_key}


def test_every_promise_is_measured_and_nothing_else() -> None:
    for seed in range(100):
        found = made(arbitrary(Random(seed)))
        measured = [name for job in jobs(found) for name in job.names]
        assert len(measured) == len(set(measured))
        assert set(promises(found)) <= set(measured)


def test_chains_are_the_users_own() -> None:
    sources = catalog(
        model("a", "b", "c", aliases=("aa",)),
        model("b", "d"),
        model("c"),
        model("d"),
        model("e", context_fallbacks=("a",), enabled=True),
    )
    found = made(sources)
    assert found.chains == {"a": ("a", "b", "d", "c"), "aa": ("a", "b", "d", "c"), "b": ("b", "d")}
    assert found.context_chains == {"e": ("e", "a", "b", "d", "c")}
    assert "chain:a" in promises(found)
    assert promises(found)["context:e"].text == "e -> a -> b -> d -> c"


def test_disabled_names_are_to_be_absent() -> None:
    sources = catalog(model("a"), model("b", aliases=("bee",), enabled=False))
    assert made(sources).disabled == ("b", "bee", f"{PREFIX}off", f"{PREFIX}off-provider")
    assert not set(made(sources).disabled) & set(rendered(sources).expected)


def test_the_users_models_have_no_limit_and_ours_the_kinds_own() -> None:
    sources = catalog(model("a"), limits={Kind.LOCAL: Limits(7, 700)})
    found = made(sources)
    own = next(m for m in found.catalog.models if m.name == f"{PREFIX}rpm-local")
    assert found.catalog.models[0].deployments[0].limits == Limits(0, 0)
    assert own.deployments[0].limits == Limits(7, 0)
    names = promises(found)
    assert {"rpm-local", "tpm-local"} <= set(names)
    assert not {"rpm-cloud", "rpm-vllm"} & set(names)


def test_many_requests_a_minute_are_proved_with_fewer_and_that_is_said() -> None:
    found = made(catalog(model("a"), limits={Kind.CLOUD: Limits(6000, 0)}))
    assert found.policy.limits[Kind.CLOUD].rpm == 60
    assert "cloud: 6000 requests a minute are proved as 60" in found.notes


def test_a_silence_that_is_never_reached_is_not_promised() -> None:
    about = {"stream-silence", "stream-start", "slow-stream"}
    usual = made(catalog(model("a")))
    moot = made(catalog(model("a"), silence_timeout=120.0, answer_timeout=60.0))
    assert about <= set(promises(usual))
    assert not about & set(promises(moot))
    assert "silence in a stream (120 s) is not tried: the whole answer (60 s) ends before" in moot.notes
    assert not [note for note in usual.notes if "silence" in note]


@pytest.mark.parametrize("policy", [{"failures": 0}, {"cooldown": 0.0}])
def test_without_a_breaker_there_is_none_to_prove(policy: dict[str, float]) -> None:
    names = promises(made(catalog(model("a"), **policy)))
    assert not [name for name in names if name.startswith("breaker") or name == "fallback-open"]


def test_other_apis_are_tried_where_they_are_used() -> None:
    providers = (provider(), provider("o", api="ollama_chat"), provider("off", api="anthropic", enabled=False))
    found = made(catalog(model("a"), providers=providers))
    assert found.apis == ("ollama_chat",)
    assert "breaker-refused:ollama_chat" in promises(found)
    assert "ollama_chat/agentd-proof-breaker-refused:ollama_chat" in render(found.catalog, INSTALL, {}, {}).text


@pytest.mark.parametrize(
    ("wanted", "count"), [("key", 1), ("rpm", 3), ("*-vllm", 2), ("rpm-cloud", 1), ("nothing", 0), ("chain:[ab]", 1)]
)
def test_some_of_them_by_name(wanted: str, count: int) -> None:
    names = promises(made(catalog(model("a", "b"), model("b"))))
    assert len(matching(names, wanted)) == count
    assert len(matching(names, "")) == len(names)


@pytest.mark.parametrize(
    ("policy", "retries"),
    [
        (Policy(), (2, 1)),  # scaled: 1.5 s a try, 15 s in all; pauses are not scaled
        (Policy(retries=0), (0, 0)),
        (Policy(answer_timeout=60), (0, None)),
        (Policy(answer_timeout=30), (None, None)),
        (Policy(try_timeout=600, silence_timeout=20, cooldown=0, retries=0), (0, 0)),
    ],
)
def test_a_silent_stream_is_tried_as_often_as_fits(policy: Policy, retries: tuple[int | None, int | None]) -> None:
    found = made(replace(catalog(model("a")), policy=policy))
    assert (fitting_retries(found.policy, 1), fitting_retries(found.policy, 2)) == retries
    offered = promises(found)
    assert ("stream-try" in offered, "stream-chain" in offered) == tuple(one is not None for one in retries)
