"""Which drop-ins a configuration asks for: profiles by role, what a service wants different, profiles of one's own."""

from __future__ import annotations

import tomllib

import pytest

from agentd import resources
from agentd.core.dropin import DropIn, Purpose, parse
from agentd.core.layers import Fragment, merge
from agentd.core.profile import desired, is_resource, profile_of, shortfalls
from agentd.core.schema import Service, Settings
from agentd.core.settings import validate
from agentd.errors import AgentdError
from agentd.evidence import HostEvidence
from agentd.findings import Severity, Verdict
from agentd.types import Scope

TEXTS = resources.profile_texts()
USER = HostEvidence(scope=Scope.USER, systemd=252, home="/home/ai")
SYSTEM = HostEvidence(scope=Scope.SYSTEM, systemd=257)
SMALL = {
    "gateway.security.conf": "# About.\n\n[Unit]\n# Order.\nAfter=a\n\n[Service]\n# Home.\nProtectHome=yes\n# Paths.\n"
    "ReadWritePaths=-/a\nReadWritePaths=-/b\n",
    "gateway.resources.conf": "# Limits.\n\n[Service]\n# Memory.\nMemoryMax=2G\n# Tasks.\nTasksMax=9\n",
}


def settings(text: str) -> Settings:
    merged = merge([Fragment("test.toml", tomllib.loads(text))])
    return validate(merged.data, merged.provenance, home="/home/ai")


def gateway(text: str, host: HostEvidence = USER) -> dict[Purpose, str]:
    """The bodies of a gateway's drop-ins below the small texts."""
    whole = f'[services.g]\nunit = "g.service"\nprofile = "gateway"\n{text}'
    return {dropin.purpose: dropin.body for dropin in desired(settings(whole), SMALL, host)}


def directives(dropin: DropIn | str) -> list[str]:
    body = dropin if isinstance(dropin, str) else dropin.body
    return [line for line in body.splitlines() if line and line[0] not in "#["]


def test_the_body_is_the_text() -> None:
    assert gateway("") == {
        Purpose.SECURITY: "# Profile gateway.\n# About.\n\n[Unit]\n# Order.\nAfter=a\n\n[Service]\n# Home.\n"
        "ProtectHome=yes\n# Paths.\nReadWritePaths=-/a\nReadWritePaths=-/b\n",
        Purpose.RESOURCES: "# Profile gateway.\n# Limits.\n\n[Service]\n# Memory.\nMemoryMax=2G\n# Tasks.\n"
        "TasksMax=9\n",
    }


def test_by_role() -> None:
    roles = {"model": "gpu", "runtime": "gpu", "gateway": "gateway", "store": "store", "generic": "generic"}
    assert {role: profile_of(Service(unit="x.service", role=role)) for role in roles} == roles  # type: ignore[arg-type]


def test_two_drop_ins_for_each_service_with_a_profile() -> None:
    found = desired(
        settings(
            '[services.a]\nunit = "a.service"\n[services.b]\nunit = "b.service"\nprofile = "none"\n'
            '[services.c]\nunit = "c.service"\nprofile = "store"\n'
        ),
        TEXTS,
        USER,
    )
    assert [dropin.path for dropin in found] == [
        f"{name}.service.d/90-agentd-{purpose}.conf" for name in "ac" for purpose in ("security", "resources")
    ]
    for dropin in found:
        read = parse(dropin.text)
        assert read is not None
        assert not read.edited
    assert "# Profile generic." in found[0].body
    assert "OOMPolicy=continue" in directives(found[3])


def test_a_set_directive_takes_the_place_of_the_profile_s() -> None:
    found = gateway('[services.g.hardening.set]\nProtectHome = "tmpfs"\nTasksMax = "7"\n')
    assert "# Home.\n# services.g.hardening:\nProtectHome=tmpfs\n# Paths.\n" in found[Purpose.SECURITY]
    assert directives(found[Purpose.RESOURCES]) == ["MemoryMax=2G", "TasksMax=7"]


def test_a_list_replaces_all_its_lines() -> None:
    found = gateway('[services.g.hardening.set]\nReadWritePaths = ["", "/c", "/d"]\n')
    assert directives(found[Purpose.SECURITY]) == [
        *("After=a", "ProtectHome=yes", "ReadWritePaths=", "ReadWritePaths=/c", "ReadWritePaths=/d")
    ]


def test_an_empty_value_resets_and_unset_leaves_out() -> None:
    found = gateway('[services.g.hardening]\nset = { ProtectHome = "" }\nunset = ["MemoryMax", "ReadWritePaths"]\n')
    assert directives(found[Purpose.SECURITY]) == ["After=a", "ProtectHome="]
    assert directives(found[Purpose.RESOURCES]) == ["TasksMax=9"]


def test_a_new_directive_goes_where_it_belongs() -> None:
    found = gateway('[services.g.hardening.set]\nUMask = "0077"\nIOWeight = "5"\nMemoryDenyWriteExecute = "yes"\n')
    assert directives(found[Purpose.SECURITY])[-2:] == ["UMask=0077", "MemoryDenyWriteExecute=yes"]
    assert directives(found[Purpose.RESOURCES])[-1] == "IOWeight=5"
    assert found[Purpose.SECURITY].index("[Service]") < found[Purpose.SECURITY].index("UMask=")


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        *((key, True) for key in ("MemoryMax", "CPUQuota", "LimitNOFILE", "OOMPolicy", "ManagedOOMPreference", "Nice")),
        *((key, False) for key in ("MemoryDenyWriteExecute", "PrivateTmp", "IPAddressDeny", "UMask")),
    ],
)
def test_what_is_a_resource(key: str, expected: bool) -> None:
    assert is_resource(key) is expected


def test_named_limits() -> None:
    found = gateway(
        '[services.g.hardening]\nmemory_max = "1.5G"\nmemory_swap_max = "0"\ncpu_quota = "150%"\ncpu_weight = 50\n'
        "io_weight = 60\ntasks_max = 70\nopen_files = 80\n"
    )
    assert directives(found[Purpose.RESOURCES]) == [
        *("MemoryMax=1536M", "TasksMax=70", "MemorySwapMax=0", "CPUQuota=150%", "CPUWeight=50", "IOWeight=60"),
        "LimitNOFILE=80",
    ]


@pytest.mark.parametrize(
    ("high", "most"),
    [("3G", "4G"), ("30%", "40%"), ("90%", "100%"), ("infinity", "infinity"), ("1000000", "1300K")],
)
def test_memory_high_alone_raises_the_maximum(high: str, most: str) -> None:
    found = gateway(f'[services.g.hardening]\nmemory_high = "{high}"\n')
    assert f"MemoryMax={most}" in directives(found[Purpose.RESOURCES])


def test_paths_come_on_top() -> None:
    found = gateway(
        '[services.g.hardening]\nwrite_paths = ["~/models", "/mnt/my disk", "%t/sock", "/a\\"b\\\\c"]\n'
        'hide_paths = ["/etc/secret"]\n'
    )
    assert directives(found[Purpose.SECURITY]) == [
        *("After=a", "ProtectHome=yes", "ReadWritePaths=-/a", "ReadWritePaths=-/b"),
        'ReadWritePaths=-/home/ai/models "-/mnt/my disk" -%t/sock "-/a\\"b\\\\c"',
        "InaccessiblePaths=-/etc/secret",
    ]


def test_addresses_are_allowed_where_others_are_denied() -> None:
    text = 'network = "localhost"\nhardening.allow_addresses = ["10.0.0.1", "fd00::/8"]\n'
    assert "IPAddressAllow=10.0.0.1 fd00::/8" in directives(gateway(text, SYSTEM)[Purpose.SECURITY])
    assert not any("IPAddress" in line for line in directives(gateway(text, USER)[Purpose.SECURITY]))


def test_network_policies_of_the_system_manager() -> None:
    found = {}
    for network in ("any", "localhost", "private", "internet"):
        config = settings(f'[services.x]\nunit = "x.service"\nnetwork = "{network}"\n')
        lines = directives(desired(config, TEXTS, SYSTEM)[0])
        found[network] = [line for line in lines if line.startswith(("IPAddress", "RestrictNetworkInterfaces"))]
    assert found["any"] == []
    assert found["localhost"] == ["IPAddressDeny=any", "IPAddressAllow=localhost", "RestrictNetworkInterfaces=lo"]
    assert found["private"][0] == "IPAddressDeny=any"
    assert "192.168.0.0/16" in found["private"][1]
    assert "192.168.0.0/16" in found["internet"][0]
    assert found["internet"][1] == "IPAddressAllow=localhost"


def test_a_policy_that_cannot_be_enforced_is_said() -> None:
    config = settings(
        '[services.x]\nunit = "x.service"\nnetwork = "private"\n[services.y]\nunit = "y.service"\n'
        '[services.z]\nunit = "z.service"\nnetwork = "localhost"\nprofile = "none"\n'
    )
    (finding,) = shortfalls(config, USER)
    assert (finding.subject, finding.aspect, finding.declared) == ("x.service", "network", "private")
    assert (finding.verdict, finding.severity) == (Verdict.NOT_ENFORCEABLE, Severity.WARNING)
    assert shortfalls(config, SYSTEM) == ()


OWN = """
[profiles.base]
base = "gateway"
security = { ProtectHome = "read-only", UMask = ["0027"] }
unset = ["TasksMax"]

[profiles.mine]
base = "base"
security = { UMask = "0077" }
resources = { MemoryMax = "8G", Nice = "5" }

[services.g]
unit = "g.service"
profile = "mine"
hardening.memory_max = "3G"
"""


def test_profiles_of_one_s_own() -> None:
    security, resources_ = desired(settings(OWN), SMALL, USER)
    assert directives(security) == [
        *("After=a", "ProtectHome=read-only", "ReadWritePaths=-/a", "ReadWritePaths=-/b", "UMask=0077")
    ]
    assert directives(resources_) == ["MemoryMax=3G", "Nice=5"]
    assert security.body.startswith("# Profile mine.\n# About.\n")
    assert "# profiles.base:\nProtectHome=read-only\n" in security.body
    assert "# profiles.mine:\nUMask=0077\n" in security.body


def test_a_profile_from_nothing() -> None:
    config = settings('[profiles.p]\nsecurity = { UMask = "0077" }\n[services.g]\nunit = "g.service"\nprofile = "p"\n')
    (only,) = desired(config, {}, USER)
    assert (only.purpose, only.body) == (
        Purpose.SECURITY,
        "# Profile p.\n\n[Service]\n# profiles.p:\nUMask=0077\n",
    )


def test_an_override_of_something_conditional_is_unconditional() -> None:
    config = settings(
        '[profiles.p]\nbase = "generic"\nsecurity = { IPAddressDeny = "any" }\n'
        '[services.g]\nunit = "g.service"\nprofile = "p"\n'
    )
    assert [x for x in directives(desired(config, TEXTS, USER)[0]) if x.startswith("IPAddress")] == [
        "IPAddressDeny=any"
    ]


def test_a_missing_text() -> None:
    with pytest.raises(AgentdError) as caught:
        desired(settings('[services.g]\nunit = "g.service"\n'), {}, USER)
    assert caught.value.kind == "profile-missing"
    assert "generic.security.conf" in caught.value.message
