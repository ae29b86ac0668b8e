"""`config show`: every value with its origin, as TOML that reads back to the same settings."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from agentd.adapters.config_files import load
from agentd.core.layers import Origin
from agentd.core.render import (
    Setting,
    config_json,
    render_check,
    render_config,
    render_provenance,
    settings_list,
)
from agentd.core.settings import LoadedConfig, validate

STACK = Path(__file__).parents[2] / "etc/examples/stack.toml"
EXTRA = """
[daemon]
resync = 90.5

[slots.gpu0]
vram_margin = "1536M"
gpus = [0, 1]

[services."web.ui"]
unit = "web.service"
depends_on = ["litellm"]
readiness = { http = { path = "http://127.0.0.1:3030/health", expect = [200, 204] }, timeout = "1500ms" }
profile = "mine"
network = "localhost"

[services."web.ui".hardening]
memory_max = "1.5G"
memory_high = 1073741824
write_paths = ["/srv/web", "%t/web"]
set = { ProtectHome = "tmpfs", DeviceAllow = ["", "/dev/kfd rw"], UMask = "" }

[profiles.mine]
base = "generic"
resources.MemoryMax = "24G"

[hardening]
readiness = "degrade"
"""


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedConfig:
    (tmp_path / "agentd.toml").write_bytes(STACK.read_bytes())
    (tmp_path / "config.d").mkdir()
    (tmp_path / "config.d/10-extra.toml").write_text(EXTRA)
    return load([tmp_path])


def test_values_are_written_as_systemd_writes_them(loaded: LoadedConfig, tmp_path: Path) -> None:
    rows = {row.key: row for row in settings_list(loaded)}
    extra = str(tmp_path / "config.d/10-extra.toml")
    assert rows["daemon.resync"] == Setting("daemon.resync", '"1min 30.5s"', Origin(extra, 3))
    assert rows["slots.gpu0.vram_margin"] == Setting("slots.gpu0.vram_margin", '"1536M"', Origin(extra, 6))
    assert rows["slots.gpu0.gpus"] == Setting("slots.gpu0.gpus", "[0, 1]", Origin(extra, 7))
    key = 'services."web.ui".readiness.timeout'
    assert rows[key] == Setting(key, '"1.5s"', Origin(extra, 12))
    web = 'services."web.ui"'
    written = {
        "profile": ('"mine"', 13),
        "network": ('"localhost"', 14),
        "hardening.memory_max": ('"1536M"', 17),
        "hardening.memory_high": ('"1G"', 18),
        "hardening.write_paths": ('["/srv/web", "%t/web"]', 19),
        "hardening.set.ProtectHome": ('"tmpfs"', 20),
    }
    for name, (text, line) in written.items():
        assert rows[f"{web}.{name}"] == Setting(f"{web}.{name}", text, Origin(extra, line))
    assert rows[f"{web}.hardening.set.DeviceAllow"].text == '["", "/dev/kfd rw"]'
    assert rows[f"{web}.hardening.set.UMask"].text == '""'
    assert rows["profiles.mine.resources.MemoryMax"].text == '"24G"'
    assert rows["hardening.readiness"].text == '"degrade"'
    assert rows["slots.gpu0.default"].origin == Origin(str(tmp_path / "agentd.toml"), 5)
    assert "daemon.listen" not in rows


def test_defaults_are_shown_on_demand(loaded: LoadedConfig) -> None:
    rows = {row.key: row for row in settings_list(loaded, defaults=True)}
    assert rows["daemon.listen"] == Setting("daemon.listen", '"127.0.0.1:9775"', None)
    assert rows["services.qwen.startup.failure_threshold"] == Setting(
        "services.qwen.startup.failure_threshold", "600", None
    )
    assert rows["services.redis.readiness.redis"].text == "true"
    assert rows["services.redis.network"].text == '"any"'
    assert rows["services.redis.hardening.tasks_max"].text == "0"
    assert rows["hardening.verify"] == Setting("hardening.verify", "true", None)
    assert 'services."web.ui".liveness.period' not in rows


@pytest.mark.parametrize("defaults", [False, True])
def test_the_text_is_the_configuration_again(loaded: LoadedConfig, defaults: bool) -> None:
    again = validate(tomllib.loads(render_config(loaded, provenance=True, defaults=defaults)), {})
    rows = settings_list(LoadedConfig(again, loaded.provenance, (), ""), defaults=True)
    assert rows == settings_list(loaded, defaults=True)


def test_provenance_text(tmp_path: Path) -> None:
    path = tmp_path / "agentd.toml"
    path.write_text('\n[daemon]\nlisten = ""\n')
    setting = 'daemon.listen = ""'
    assert render_provenance(load([tmp_path])).splitlines() == [
        "# read, later ones win:",
        f"# {path}",
        "",
        f"{setting:<64}  # {path}:3",
    ]


def test_provenance_of_nothing() -> None:
    assert render_provenance(load([])) == "# read, later ones win:\n# no file\n\n# nothing is set"


def test_json(loaded: LoadedConfig, tmp_path: Path) -> None:
    body = json.loads(json.dumps(config_json(loaded)))
    assert body["files"] == [str(tmp_path / "agentd.toml"), str(tmp_path / "config.d/10-extra.toml")]
    assert body["digest"] == loaded.digest
    rows = {row["key"]: row for row in body["settings"]}
    assert rows["daemon.resync"] == {
        "key": "daemon.resync",
        "value": 90.5,
        "text": '"1min 30.5s"',
        "file": str(tmp_path / "config.d/10-extra.toml"),
        "line": 3,
    }
    assert rows["daemon.listen"]["file"] is None


def test_check_text(loaded: LoadedConfig, tmp_path: Path) -> None:
    assert render_check(loaded).splitlines() == [
        "the configuration is valid: 6 services, 1 slot",
        f"  {tmp_path}/agentd.toml",
        f"  {tmp_path}/config.d/10-extra.toml",
    ]
