"""Validation: what a good configuration becomes, the role's probes, and rules of single values."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.core.addresses import AddressError, check_unit, parse_listen, parse_url
from agentd.core.layers import Fragment, merge
from agentd.core.probes import effective_probes
from agentd.core.schema import (
    Hardening,
    HardeningPolicy,
    HttpCheck,
    Model,
    Probe,
    Profile,
    RedisPolicy,
    Runtime,
    Service,
    Settings,
)
from agentd.core.settings import check, digest, validate
from agentd.types import ProbeKind

ROOT = Path(__file__).parents[2]
KINDS = [ProbeKind.STARTUP, ProbeKind.READINESS, ProbeKind.LIVENESS]


def parse(text: str, **options: Any) -> Settings:
    merged = merge([Fragment("test.toml", tomllib.loads(text))])
    return validate(merged.data, merged.provenance, **options)


def test_nothing_configured_is_valid() -> None:
    assert validate({}, {}) == Settings()


def test_the_packaged_defaults_change_nothing() -> None:
    assert parse((ROOT / "etc/agentd.toml").read_text()) == Settings()


def test_the_commented_defaults_are_the_built_in_ones() -> None:
    """Uncommented, the packaged file is valid and (but for the example's own names) still changes nothing."""
    lines = []
    for line in (ROOT / "etc/agentd.toml").read_text().splitlines():
        bare = line.removeprefix("# ")
        if bare.startswith("[") or (" = " in bare and bare.split(" = ")[0].isidentifier()):
            lines.append(bare)
    shown = parse("\n".join(lines))
    assert shown.daemon == Settings().daemon
    plain = parse(
        '[slots.gpu0]\ndefault = "qwen"\n[services.qwen]\nunit = "vllm-qwen.service"\nrole = "model"\n'
        'url = "http://127.0.0.1:8001"\nmodel = { slot = "gpu0", served_name = "qwen" }\n'
    )
    assert shown.slots == plain.slots
    assert effective_probes(shown.services["qwen"]) == effective_probes(plain.services["qwen"])
    assert shown.services["qwen"].model == plain.services["qwen"].model
    assert shown.services["qwen"].recovery == plain.services["qwen"].recovery
    named = {line.split(" = ")[0] for line in lines if " = " in line}
    for table in (Settings().daemon, plain.slots["gpu0"], plain.services["qwen"].recovery, Probe()):
        assert set(table.__struct_fields__) <= named
    assert set(Model.__struct_fields__) <= named
    tables = {"startup", "readiness", "liveness", "recovery", "model", "hardening", "runtime"}
    assert set(Service.__struct_fields__) - tables <= named
    assert shown.services["qwen"].runtime == Runtime()
    assert set(Runtime.__struct_fields__) <= named
    assert shown.services["qwen"].hardening == Hardening()
    assert shown.hardening == HardeningPolicy()
    assert shown.redis == RedisPolicy()
    assert shown.profiles == {"mine": Profile()}
    for struct in (Hardening, HardeningPolicy, Profile, RedisPolicy):
        assert set(struct.__struct_fields__) <= named


def test_the_example_stack() -> None:
    stack = parse((ROOT / "etc/examples/stack.toml").read_text())
    assert stack.models("gpu0") == ("qwen", "dolphin")
    assert stack.slots["gpu0"].default == "qwen"
    assert {name: (s.unit, s.role, s.url) for name, s in stack.services.items()} == {
        "qwen": ("vllm-qwen.service", "model", "http://127.0.0.1:8001"),
        "dolphin": ("vllm-dolphin.service", "model", "http://127.0.0.1:8002"),
        "ollama": ("ollama.service", "runtime", "http://127.0.0.1:11434"),
        "redis": ("agentd-redis.service", "store", "redis://127.0.0.1:6379"),
        "litellm": ("litellm.service", "gateway", "http://127.0.0.1:4001"),
    }
    assert stack.services["litellm"].depends_on == ("redis",)
    assert all(ProbeKind.READINESS in effective_probes(service) for service in stack.services.values())


def test_values_arrive_in_base_units() -> None:
    good = parse(
        '[daemon]\nresync = "1min 30s"\nbus_timeout = 5\n[slots.gpu0]\nvram_margin = "1.5G"\ncooldown = 0\n'
        'gpus = [0, 1]\nvram_stable = "250ms"\n'
    )
    assert good.daemon.resync == 90.0
    assert good.daemon.bus_timeout == 5.0
    assert isinstance(good.daemon.bus_timeout, float)
    assert good.slots["gpu0"].vram_margin == 1536 * 1024**2
    assert good.slots["gpu0"].cooldown == 0.0
    assert good.slots["gpu0"].vram_stable == 0.25
    assert good.slots["gpu0"].gpus == (0, 1)


def test_models_of_one_slot_may_share_a_port() -> None:
    service = 'role = "model"\nurl = "http://127.0.0.1:8001/"\n'
    text = "".join(
        f'[services.{name}]\nunit = "{name}.service"\n{service}model = {{ slot = "gpu0", served_name = "main" }}\n'
        for name in ("a", "b")
    )
    assert parse("[slots.gpu0]\n" + text).services["b"].url == "http://127.0.0.1:8001"


def test_home_is_put_into_paths_and_nowhere_else() -> None:
    text = (
        '[slots.gpu0]\n[services.a]\nunit = "a.service"\nrole = "model"\nurl = "http://127.0.0.1:8001"\n'
        'model = { slot = "gpu0", served_name = "~/a", path = "~/models/a", api_key_file = "~/key" }\n'
    )
    model = parse(text, home="/home/user").services["a"].model
    assert model is not None
    assert (model.path, model.api_key_file, model.served_name) == ("/home/user/models/a", "/home/user/key", "~/a")


def test_home_is_put_into_defaults_too() -> None:
    for text in ("", '[gateway]\nclient_env_files = ["~/webui/.env:OPENAI_API_KEY"]\n'):
        gateway = parse(text, home="/home/user").gateway
        assert gateway.config == "/home/user/.config/litellm/litellm-unified.yaml"
    assert gateway.client_env_files == ("/home/user/webui/.env:OPENAI_API_KEY",)


def test_digest_is_of_the_meaning() -> None:
    one = digest(parse('[daemon]\nresync = "90s"\nlog_level = "info"\n'))
    assert one == digest(parse('# a comment\n[daemon]\nlog_level = "info"\nresync = "1min 30s"\n'))
    assert one != digest(parse('[daemon]\nresync = "91s"\n'))


@pytest.mark.parametrize(
    ("role", "handler"),
    [
        ("model", Probe(http=HttpCheck("/health"))),
        ("runtime", Probe(http=HttpCheck("/api/version"))),
        ("gateway", Probe(http=HttpCheck("/health/liveliness"))),
        ("store", Probe(redis=True)),
    ],
)
def test_roles_bring_their_probes(role: Any, handler: Probe) -> None:
    model = Model(slot="gpu0", served_name="x", ready_timeout=42.5) if role == "model" else None  # type: ignore[arg-type]
    probes = effective_probes(Service(unit="x.service", role=role, url="-", model=model))
    assert list(probes) == KINDS
    assert {(p.http, p.redis) for p in probes.values()} == {(handler.http, handler.redis)}
    if model:
        startup = probes[ProbeKind.STARTUP]
        assert startup.period * startup.failure_threshold >= 42.5


def test_generic_services_have_the_probes_that_are_configured() -> None:
    assert effective_probes(Service(unit="x.service")) == {}
    probe = Probe(exec=("true",))
    assert effective_probes(Service(unit="x.service", liveness=probe)) == {ProbeKind.LIVENESS: probe}


def model_probes(extra: str) -> Any:
    base = '[slots.gpu0]\n[services.a]\nunit = "a.service"\nrole = "model"\nurl = "http://127.0.0.1:8001"\n'
    table = '[services.a.model]\nslot = "gpu0"\nserved_name = "a"\nready_timeout = "5min"\n'
    return effective_probes(parse(base + extra + table).services["a"])


def test_a_probe_keeps_what_is_not_written() -> None:
    probes = model_probes(
        'readiness = { period = "2s" }\nstartup = { period = "2s", http = { path = "/v1/models" } }\n'
    )
    assert probes[ProbeKind.READINESS] == Probe(http=HttpCheck("/health"), period=2.0, timeout=3.0)
    assert probes[ProbeKind.STARTUP] == Probe(
        http=HttpCheck("/v1/models"), period=2.0, timeout=3.0, failure_threshold=150
    )


def test_another_check_replaces_the_roles() -> None:
    assert model_probes("liveness = { tcp = true }\n")[ProbeKind.LIVENESS] == Probe(tcp=True, timeout=5.0)


def test_none_switches_a_probe_off() -> None:
    assert list(model_probes("liveness = { none = true }\n")) == KINDS[:2]


@pytest.mark.parametrize("period", ['"1us"', '"100y"'])
def test_startup_threshold_stays_in_bounds(period: str) -> None:
    startup = model_probes(f"startup = {{ period = {period} }}\n")[ProbeKind.STARTUP]
    assert 1 <= startup.failure_threshold <= 1_000_000


@pytest.mark.parametrize("name", ["a.service", "a@1.service", "a@b@c.service", "a-b:c_d.e\\x2df.service"])
def test_good_unit_names(name: str) -> None:
    check_unit(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".service",
        "a",
        "a.socket",
        "@.service",
        "@a.service",
        "a@.service",
        "a b.service",
        "ä.service",
        "a/b.service",
        "a\n.service",
        "a" * 248 + ".service",
    ],
)
def test_bad_unit_names(name: str) -> None:
    with pytest.raises(AddressError):
        check_unit(name)


@pytest.mark.parametrize("text", ["127.0.0.1:9775", "127.1.2.3:1", "[::1]:65535"])
def test_good_listen_addresses(text: str) -> None:
    host, port = parse_listen(text)
    assert text == (f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


@pytest.mark.parametrize("text", ["9775", ":9775", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "::1:9775", "[::]:1"])
def test_bad_listen_addresses(text: str) -> None:
    with pytest.raises(AddressError):
        parse_listen(text)


def test_url_parts() -> None:
    address = parse_url("http://[::1]:8001/base/")
    assert (address.host, address.port, address.path, address.loopback) == ("::1", 8001, "/base", True)
    assert parse_url("redis://cache").port == 6379
    assert parse_url("unix:///run/redis.sock").path == "/run/redis.sock"


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30) | st.from_regex(r"(http|redis|unix|tcp)://[a-z0-9.:@/\[\]?#]{0,12}", fullmatch=True))
def test_any_text_is_a_url_or_an_address_error(text: str) -> None:
    try:
        address = parse_url(text)
    except AddressError:
        return
    assert address.host or address.path


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["model", "gpu0", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "unit", "model", ""]), inner),
    max_leaves=4,
)
KEYS = st.sampled_from(["unit", "role", "url", "depends_on", "gate", "startup", "readiness", "recovery", "model", "x"])


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "gpu0"]), st.dictionaries(KEYS, JUNK) | JUNK), JUNK)
def test_no_data_makes_it_crash(services: Any, slots: Any) -> None:
    built, problems = check({"services": services, "slots": {"gpu0": slots}}, {})
    assert isinstance(built, Settings)
    assert all(str(problem) for problem in problems)


def test_importing_the_settings_is_cheap() -> None:
    """Beyond msgspec, only small modules: nothing of asyncio, HTTP or difflib."""
    code = (
        "import msgspec, sys; before = set(sys.modules); import agentd.core.settings; print(*set(sys.modules) - before)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    heavy = {"asyncio", "difflib", "tomllib", "http", "socket", "logging", "subprocess"}
    assert heavy.isdisjoint(output.split())
