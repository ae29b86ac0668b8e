"""The checks of the gateway's sources beyond the bad sets: arbitrary catalogs, large ones, and what they report."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.cli import exits
from agentd.core.gateway import chains, report
from agentd.core.gateway.checks import CHECKS, check
from agentd.core.gateway.facts import ClientFact, Facts, FileFact, Listener, Secrets, ServiceFact
from agentd.core.gateway.install import Install
from agentd.core.gateway.model import (
    Absent,
    Catalog,
    Deployment,
    Kind,
    Limits,
    Model,
    Policy,
    Port,
    Provider,
)
from agentd.core.gateway.problems import Problem, errors
from agentd.core.gateway.prune import prune
from agentd.core.gateway.read import read_catalog
from agentd.core.gateway.report_sarif import as_sarif
from agentd.core.gateway.tree import Place
from agentd.core.gateway.yaml_text import parse
from agentd.findings import Severity

HERE = Place("model-mappings.yaml", 1, 1)
NAMES = st.sampled_from(["a", "b", "c", "d", "gateway", "a/b", ""])
URLS = st.one_of(
    st.sampled_from(
        ["", "http://127.0.0.1:8001/v1", "http://[::1]:80/", "https://api.example.com", "http://[", "x://y:z"]
    ),
    st.text(max_size=30),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
SETTINGS = st.dictionaries(
    st.sampled_from(["timeout", "api_key", "fallbacks", "default_fallbacks", "x"]), VALUES, max_size=3
)
SECONDS = st.floats(-10, 1e6, allow_nan=False)
LIMITS = st.builds(Limits, st.none() | st.integers(-1, 500), st.none() | st.integers(-1, 500))
PLACES = st.builds(
    Place, st.sampled_from(["providers.yaml", "ports.yaml", "model-mappings.yaml"]), st.integers(0, 9), st.just(1)
)
LISTS = st.lists(NAMES, max_size=4).map(tuple)
PROVIDERS = st.builds(
    Provider, NAMES, st.sampled_from(Kind), PLACES, NAMES, URLS, st.booleans(), NAMES, NAMES, NAMES, SETTINGS
)
DEPLOYMENTS = st.builds(Deployment, NAMES, NAMES, PLACES, LIMITS, SETTINGS)
MODELS = st.builds(
    Model,
    NAMES,
    PLACES,
    st.lists(DEPLOYMENTS, min_size=1, max_size=3).map(tuple),
    LISTS,
    st.lists(st.sampled_from(["chat", "embedding", "vision", "audio", "tools"]), max_size=3).map(tuple),
    LISTS,
    LISTS,
    st.booleans(),
    st.sampled_from(Absent),
    st.none() | SECONDS,
    st.none() | SECONDS,
    SETTINGS,
)
POLICIES = st.builds(
    Policy,
    failures=st.integers(-1, 20),
    cooldown=SECONDS,
    try_timeout=SECONDS,
    silence_timeout=SECONDS,
    answer_timeout=SECONDS,
    retries=st.integers(0, 20),
    absent_wait=SECONDS,
    limits=st.dictionaries(st.sampled_from(Kind), LIMITS),
    master_key=NAMES,
    litellm=st.dictionaries(
        st.sampled_from(["litellm_settings", "router_settings", "general_settings", "environment_variables", "other"]),
        SETTINGS,
    ),
)
CATALOGS = st.builds(
    Catalog,
    st.lists(PROVIDERS, max_size=5).map(tuple),
    st.lists(st.builds(Port, NAMES, st.integers(1, 4), PLACES), max_size=4).map(tuple),
    st.lists(MODELS, max_size=6).map(tuple),
    POLICIES,
)
KEYS = st.builds(Secrets, st.dictionaries(NAMES, st.sampled_from(["", "sk-1234", "none", "x" * 30])))
FACTS = st.builds(
    Facts,
    environment=st.none() | KEYS,
    clients=st.dictionaries(NAMES, st.builds(ClientFact, NAMES, NAMES)),
    service_keys=st.none() | KEYS,
    files=st.dictionaries(NAMES, st.builds(FileFact, st.booleans(), st.integers(0, 0o777), st.booleans(), NAMES)),
    listeners=st.none() | st.dictionaries(st.integers(1, 4), st.builds(Listener, st.integers(0, 3), NAMES, NAMES)),
    reachable=st.none() | st.dictionaries(NAMES, NAMES),
    resident=st.none() | st.dictionaries(NAMES, st.none() | NAMES),
    generated=st.none() | NAMES,
    install=st.none() | st.builds(Install, NAMES, NAMES, NAMES, st.just(frozenset({"timeout"}))),
    services=st.none() | st.dictionaries(NAMES, st.builds(ServiceFact, NAMES, URLS, st.just("gateway"), NAMES, NAMES)),
)


@settings(max_examples=100, deadline=None)
@given(CATALOGS, FACTS)
def test_any_catalog_gets_an_answer(catalog: Catalog, facts: Facts) -> None:
    problems = check(catalog, facts)
    assert {problem.check for problem in problems} <= {item.id for item in CHECKS}
    assert problems == check(catalog, facts)
    json.loads(as_sarif(problems, "1.0"))
    json.loads(report.as_json(problems))


SOME = ["m0", "m1", "m2", "m3", "m4"]


@st.composite
def tidy_catalogs(draw: st.DrawFn) -> Catalog:
    """Every name is right; what may be wrong are cycles, lengths, and that nothing is enabled."""
    providers = tuple(Provider(f"p{n}", Kind.LOCAL, HERE, "openai", enabled=draw(st.booleans())) for n in range(3))
    references = st.lists(st.sampled_from([*SOME, "alias"]), max_size=2, unique=True).map(tuple)
    models = tuple(
        Model(
            name,
            HERE,
            (Deployment(draw(st.sampled_from(["p0", "p1", "p2"])), "x", HERE),),
            ("alias",) if name == "m4" else (),
            fallbacks=draw(references),
            context_fallbacks=draw(references),
            enabled=draw(st.booleans()),
        )
        for name in SOME
    )
    policy = Policy(try_timeout=draw(st.sampled_from([5.0, 30.0, 80.0, 150.0])), retries=draw(st.integers(0, 2)))
    return Catalog(providers, (Port("gateway", 4001, HERE),), models, policy)


@settings(max_examples=100, deadline=None)
@given(tidy_catalogs())
def test_what_passes_is_sound_and_what_does_not_is_not(catalog: Catalog) -> None:
    found = {problem.check for problem in errors(check(catalog))}
    pruned = {model.name: model for model in prune(catalog).models}
    wrong = set()
    if not pruned:
        wrong.add("no-model-left")
    if any(leads_back(pruned, field, name) for field in ("fallbacks", "context_fallbacks") for name in pruned):
        wrong.add("fallback-cycle")
    elif any(too_long(catalog.policy, pruned, chain) for chain in chains.reach(pruned.values()).values()):
        wrong.add("chain-too-long")
    assert found - ({"chain-too-long"} if "fallback-cycle" in wrong else set()) == wrong


def leads_back(models: Mapping[str, Model], field: str, start: str) -> bool:
    """Over every way, step by step, and not by what the checks use."""
    todo, seen = list(getattr(models[start], field)), set()
    while todo:
        name = todo.pop()
        if name == start:
            return True
        if name not in seen:
            seen.add(name)
            todo += getattr(models[name], field)
    return False


def too_long(policy: Policy, models: Mapping[str, Model], chain: Sequence[str]) -> bool:
    return chains.worst_case(policy, [models[name] for name in chain]).seconds > policy.answer_timeout


def large(count: int, fallbacks: str = "") -> Catalog:
    """`fallbacks`: "chain": each leads to the next one; "ring": the last one to the first as well."""
    providers = tuple(
        Provider(f"p{n}", Kind.LOCAL, HERE, "openai", f"http://127.0.0.1:{9000 + n}/v1", key=f"K{n}")
        for n in range(count // 5)
    )
    after = {n: (f"m{(n + 1) % count}",) for n in range(count if fallbacks == "ring" else count - 1) if fallbacks}
    models = tuple(
        Model(
            f"m{n}", HERE, (Deployment(f"p{n % len(providers)}", "x", HERE),), (f"a{n}",), ("chat",), after.get(n, ())
        )
        for n in range(count)
    )
    return Catalog(providers, (Port("gateway", 4001, HERE),), models, Policy())


def test_a_ring_of_thousands_is_one_cycle_and_no_recursion() -> None:
    found = [problem for problem in check(large(5000, "ring")) if problem.severity is Severity.ERROR]
    assert [problem.check for problem in found] == ["fallback-cycle"]
    assert found[0].value.startswith("m0 -> m1 -> ")
    assert found[0].value.endswith("m4999 -> m0")
    assert len(found[0].value) < 200


def test_a_chain_of_a_thousand_is_too_long_for_all_but_its_end() -> None:
    found = errors(check(large(1000, "chain")))
    assert {problem.check for problem in found} == {"chain-too-long"}
    assert len(found) == 997
    assert max(len(problem.text) for problem in found) < 1000


def test_time_grows_with_the_number_of_models() -> None:
    """By CPU time, with much room: 8 times the models may take 24 times as long, and 64 times would be a square."""

    def cost(count: int) -> float:
        catalog = large(count, "chain")
        times = []
        for _ in range(3):
            began = time.process_time()
            check(catalog, Facts(environment=Secrets(), services={}, listeners={}, generated=""))
            times.append(time.process_time() - began)
        return min(times)

    assert cost(800) < 24 * max(cost(100), 0.001)


def test_five_hundred_models_with_parsing_in_a_second() -> None:
    """0.2 s by CPU time on a machine of 2020."""
    models = "".join(
        f"  m{n}: {{provider: p{n % 9}, model: x, aliases: [a{n}], fallbacks: [m0]}}\n" for n in range(1, 500)
    )
    texts = {
        "providers.yaml": "providers:\n" + "".join(f"  p{n}: {{kind: local, port: p{n}}}\n" for n in range(9)),
        "ports.yaml": "ports:\n  gateway: 4001\n" + "".join(f"  p{n}: {9000 + n}\n" for n in range(9)),
        "model-mappings.yaml": "models:\n  m0: {provider: p0, model: x}\n" + models,
    }
    began = time.process_time()
    catalog, shape = read_catalog({name: parse(text, name) for name, text in texts.items()})
    assert catalog is not None
    assert shape == ()
    assert errors(check(catalog)) == []
    assert time.process_time() - began < 1


ONE = Model("a", HERE, (Deployment("p", "x", HERE),))
SMALL = Catalog((Provider("p", Kind.LOCAL, HERE, "openai", "http://127.0.0.1:1/v1"),), (), (ONE,), Policy())


def ids(catalog: Catalog, **facts: Any) -> set[str]:
    return {problem.check for problem in check(catalog, Facts(**facts))} - {"gateway-port", "unregistered-port"}


def test_names_twice_in_a_list() -> None:
    """Which YAML forbids, and a catalog that was made otherwise may have."""
    port = Port("x", 5, HERE)
    twice = Catalog(SMALL.providers * 2, (port, port), (ONE, ONE), Policy())
    found = [problem.text for problem in check(twice) if problem.check == "duplicate-name"]
    assert [text.split(" is ")[0] for text in found] == ['the provider "p"', 'the port "x"', 'the model "a"']


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("api_key", "correct-horse", True),
        ("api_key", "os.environ/KEY", False),
        ("api_key", "none", False),
        ("aws_secret_access_key", "correct-horse", True),
        ("hf_token", "correct-horse", True),
        ("max_tokens", "4096", False),
        ("stop_token", "</s>!", False),
        ("output_cost_per_token", "0.0001", False),
        ("vertex_credentials", "correct-horse", True),
        ("region_name", "eu-central-1", False),
        ("extra", "Bearer abcdefgh", True),
        ("extra", "sk-abcdefghijklmnop1234", True),
        ("extra", "postgres://me:correct-horse@db", True),
        ("extra", "gsk_" + "aB3dE5fG7hI9jK1l", True),
        ("extra", "AKIA" + "ABCDEFGH12345678", True),
        ("extra", "Qwen/Qwen2.5-7B-Instruct-AWQ", False),
        ("base_model", "gpt-4o-mini-2024-07-18-preview", False),
    ],
)
def test_what_counts_as_a_secret(name: str, value: str, secret: bool) -> None:
    provider = replace(SMALL.providers[0], params={"deep": [{name: value}]})
    problems = check(replace(SMALL, providers=(provider,)))
    assert ("secret-in-source" in {problem.check for problem in problems}) is secret
    assert value not in repr(problems)


def test_a_listener_of_the_named_unit_is_none_of_ours() -> None:
    catalog = replace(SMALL, ports=(Port("gateway", 4001, HERE, unit="litellm.socket"),))
    for unit, comm, wrong in [
        ("litellm.service", "python3", False),
        ("litellm-standby.service", "python3", False),
        ("user@1000.service", "systemd", False),
        ("other.service", "python3", True),
        ("", "nc", True),
    ]:
        found = ids(catalog, listeners={4001: Listener(7, comm, unit)})
        assert ("port-in-use" in found) is wrong, unit
    assert "port-in-use" not in ids(catalog, listeners={4001: Listener()})


def test_the_unit_of_an_unnamed_port_comes_from_the_services() -> None:
    catalog = replace(SMALL, ports=(Port("p", 8001, HERE),))
    services = {"p": ServiceFact("p.service", "http://127.0.0.1:8001")}
    assert "port-in-use" in ids(catalog, services=services, listeners={8001: Listener(7, "nc")})
    assert "port-in-use" not in ids(catalog, services={}, listeners={8001: Listener(7, "nc")})


def test_a_service_on_a_unix_socket_is_out_of_litellms_reach() -> None:
    provider = replace(SMALL.providers[0], service="p")
    for url, wanted in (("http+unix:///run/p.sock", {"base-url"}), ("http://127.0.0.1:8001", set())):
        found = check(replace(SMALL, providers=(provider,)), Facts(services={"p": ServiceFact("p.service", url)}))
        assert {problem.check for problem in found if "unix socket" in problem.text} == wanted


def test_a_variable_may_be_set_in_the_config_itself() -> None:
    policy = replace(SMALL.policy, litellm={"environment_variables": {"LITELLM_MASTER_KEY": "os.environ/OTHER"}})
    found = [p.value for p in check(replace(SMALL, policy=policy), Facts(environment=Secrets({"OTHER": "x"})))]
    assert "LITELLM_MASTER_KEY" not in found


def test_no_look_means_no_statement() -> None:
    assert ids(SMALL) == set()


PROBLEMS = (
    Problem(
        "fallback-cycle", Severity.ERROR, Place("model-mappings.yaml", 3, 5), "a -> a", "it leads back", "remove it"
    ),
    Problem("stale-file", Severity.WARNING, Place("/home/me/a b.yaml"), "", "it is old", "make it anew"),
    Problem("slot-unmatched", Severity.INFO, Place("providers.yaml", 2, 3), "ä", "it is alone", ""),
    Problem("gateway-missing", Severity.WARNING, Place(""), "", "of nobody's table", ""),
)


def test_exit_codes_are_the_house_s() -> None:
    assert (report.CLEAN, report.ERRORS) == (exits.OK, exits.REFUSED)
    assert [report.exit_code(PROBLEMS[n:]) for n in range(4)] == [3, 0, 0, 0]
    assert [report.exit_code(PROBLEMS[n : n + 1], strict=True) for n in range(3)] == [3, 3, 0]
    assert report.exit_code(()) == report.exit_code((), strict=True) == 0


def test_text() -> None:
    assert report.as_text(PROBLEMS[:3]).splitlines() == [
        "model-mappings.yaml:3:5: error: it leads back [fallback-cycle]",
        "    fix: remove it",
        "/home/me/a b.yaml: warning: it is old [stale-file]",
        "    fix: make it anew",
        "providers.yaml:2:3: info: it is alone [slot-unmatched]",
        "1 error, 1 warning, 1 info",
    ]
    assert report.as_text(()) == "no problems\n"


def test_json() -> None:
    document = json.loads(report.as_json(PROBLEMS[:2]))
    assert document["ok"] is False
    assert document["counts"] == {"error": 1, "warning": 1}
    assert document["problems"][0] == {
        "check": "fallback-cycle",
        "severity": "error",
        "file": "model-mappings.yaml",
        "line": 3,
        "column": 5,
        "value": "a -> a",
        "text": "it leads back",
        "fix": "remove it",
    }
    assert json.loads(report.as_json(PROBLEMS[1:]))["ok"] is True


def test_sarif_has_what_code_hosts_require() -> None:
    """GitHub's list of required properties for uploads, and what SARIF 2.1.0 says of the values."""
    document = json.loads(as_sarif(PROBLEMS, "0.5.0", base="deploy/gateway"))
    assert document["version"] == "2.1.0"
    assert document["$schema"].endswith("sarif-2.1.0.json")
    (run,) = document["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"]
    assert driver["semanticVersion"] == "0.5.0"
    assert [rule["id"] for rule in driver["rules"]] == [item.id for item in CHECKS]
    for rule in driver["rules"]:
        assert rule["shortDescription"]["text"]
        assert rule["defaultConfiguration"]["level"] in ("error", "warning", "note")
    results = run["results"]
    for result in results:
        assert result["message"]["text"]
        assert result["partialFingerprints"]
        region = result["locations"][0]["physicalLocation"]["region"]
        assert region["startLine"] >= 1
        assert region["startColumn"] >= 1
        if "ruleIndex" in result:
            assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
    assert [result["level"] for result in results] == ["error", "warning", "note", "warning"]
    uris = [result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for result in results]
    assert uris[:2] == ["deploy/gateway/model-mappings.yaml", "file:///home/me/a%20b.yaml"]
    assert len({json.dumps(result["partialFingerprints"]) for result in results}) == len(results)


def test_a_fingerprint_outlives_a_moved_line() -> None:
    moved = replace(PROBLEMS[0], place=Place("model-mappings.yaml", 30, 5))
    before, after = (json.loads(as_sarif([p], "1"))["runs"][0]["results"][0] for p in (PROBLEMS[0], moved))
    assert before["partialFingerprints"] == after["partialFingerprints"]
    assert before["locations"] != after["locations"]


def test_every_check_is_described_once() -> None:
    assert len({item.id for item in CHECKS}) == len(CHECKS)
    assert all(item.about.endswith(".") for item in CHECKS)


def test_values_of_keys_are_in_no_repr() -> None:
    facts = Facts(environment=Secrets({"KEY": "hunter2"}), clients={"/x": ClientFact("KEY", "hunter2")})
    assert "hunter2" not in repr(facts)
    assert "KEY" in repr(facts)


def test_a_litellm_without_its_metrics_package_is_told() -> None:
    install = Install("/x", "/y", "1.106.2", prometheus=False)
    (problem,) = [p for p in check(SMALL, Facts(install=install)) if p.check == "unsupported-policy"]
    assert "prometheus_client is not installed" in problem.text
    assert "unsupported-policy" not in ids(SMALL, install=replace(install, prometheus=True))
