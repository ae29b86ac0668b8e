"""Profiles of use: laid over the configuration last, chosen by a file, checked with it, each value with its origin."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentd import paths
from agentd.adapters.config_files import load
from agentd.adapters.profile_files import ProfileFiles
from agentd.core.render import render_check, render_provenance
from agentd.core.schema import Model
from agentd.core.settings import LoadedConfig
from agentd.core.use_profiles import selected_name, selection_text
from agentd.errors import AgentdError, ConfigError

BASE = """
[slots.gpu0]
default = "qwen"

[services.qwen]
unit = "vllm-qwen.service"
role = "model"
url = "http://127.0.0.1:8001"

[services.qwen.model]
slot = "gpu0"
served_name = "qwen"
utilization = 0.7

[services.dolphin]
unit = "vllm-dolphin.service"
role = "model"
url = "http://127.0.0.1:8002"

[services.dolphin.model]
slot = "gpu0"
served_name = "dolphin"

[services.redis]
unit = "redis.service"
role = "store"
url = "redis://127.0.0.1:6379"
"""
FAST = """[use]
description = "All that the GPU has"
services = { dolphin = false }
models = { utilization = 0.95 }

[services.qwen.model]
ready_timeout = "20min"

[daemon]
log_level = "warning"
"""


class Place:
    """Two layers: what a package brings, and the user's own."""

    def __init__(self, root: Path) -> None:
        self.packaged, self.own = root / "packaged", root / "own"
        self.layers = (self.packaged, self.own)
        self.write("agentd.toml", BASE)
        self.packaged.mkdir()

    def write(self, name: str, text: str, *, packaged: bool = False) -> None:
        path = (self.packaged if packaged else self.own) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def load(self, profile: str | None = None) -> LoadedConfig:
        return load(self.layers, profile=profile)

    def problems(self, profile: str | None = None) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            self.load(profile)
        return [str(p).replace(f"{self.own}/", "") for p in caught.value.problems]


def model(loaded: LoadedConfig, name: str) -> Model:
    found = loaded.settings.services[name].model
    assert found is not None
    return found


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_without_a_selection_nothing_is_laid_over(place: Place) -> None:
    place.write("profiles/fast.toml", FAST)
    loaded = place.load()
    assert loaded.profile == ""
    assert loaded.settings.services["dolphin"].enabled
    assert loaded.files == (str(place.own / "agentd.toml"),)


def test_the_selected_one_comes_last_and_says_where_each_value_is_from(place: Place) -> None:
    place.write("profiles/fast.toml", FAST)
    place.write("config.d/99-last.toml", '[daemon]\nlog_level = "debug"\n')
    place.write("profile", selection_text("fast"))
    loaded = place.load()
    assert loaded.profile == "fast"
    services = loaded.settings.services
    assert (services["qwen"].enabled, services["dolphin"].enabled) == (True, False)
    assert (model(loaded, "qwen").utilization, model(loaded, "dolphin").utilization) == (0.95, 0.95)
    assert float(model(loaded, "qwen").ready_timeout) == 1200
    assert services["redis"].model is None
    assert loaded.settings.daemon.log_level == "warning"
    file = str(place.own / "profiles/fast.toml")
    assert loaded.files[-1] == file
    origins = {key: str(loaded.provenance[key]) for key in loaded.provenance}
    assert origins["services", "dolphin", "enabled"] == f"{file}:3"
    assert origins["services", "qwen", "model", "utilization"] == f"{file}:4"
    assert origins["services", "qwen", "model", "ready_timeout"] == f"{file}:7"
    assert f"# {file}:3" in render_provenance(loaded)
    assert "profile of use: fast" in render_check(loaded)


def test_what_is_said_of_one_wins_over_what_is_said_of_all(place: Place) -> None:
    text = """[use]
roles = { model = false }
services = { qwen = true }
models = { utilization = 0.5, switch = "auto" }
[services.qwen.model]
utilization = 0.6
"""
    place.write("profiles/one.toml", text)
    loaded = place.load("one")
    services = loaded.settings.services
    assert {name: service.enabled for name, service in services.items()} == {
        "qwen": True, "dolphin": False, "redis": True,
    }  # fmt: skip
    assert (model(loaded, "qwen").utilization, model(loaded, "dolphin").utilization) == (0.6, 0.5)
    assert model(loaded, "qwen").switch == "auto"


def test_without_models_a_slot_has_no_default(place: Place) -> None:
    place.write("profiles/cpu.toml", "[use]\nroles = { model = false, runtime = false }\n")
    settings = place.load("cpu").settings
    assert settings.slots["gpu0"].default == ""
    assert place.load("").settings.slots["gpu0"].default == "qwen"


def test_a_default_that_is_switched_off_is_refused(place: Place) -> None:
    place.write("profiles/off.toml", "[use.services]\nqwen = false\n")
    [problem] = place.problems("off")
    assert problem.startswith("agentd.toml:3: slots.gpu0.default: is switched off: services.qwen.enabled is false")


def test_everything_that_is_wrong_is_said_with_its_line(place: Place) -> None:
    text = """[use]
description = 3
servces = {}
roles = { modell = false }
services = { dolfin = false, redis = "off" }
models = { utilization = 2, path = "/x", vramm = 1 }

[services.redis]
url = "http://x"

[use2]
"""
    place.write("profiles/bad.toml", text)
    found = [p.removeprefix("profiles/bad.toml:") for p in place.problems("bad")]
    assert [line.split(": ")[0:2] for line in found] == [
        ["2", "use.description"],
        ["3", "use.servces"],
        ["4", "use.roles.modell"],
        ["5", "use.services.dolfin"],
        ["5", "use.services.redis"],
        ["6", "use.models.path"],
        ["6", "use.models.vramm"],
        ["6", "services.qwen.model.utilization"],
        ["6", "services.dolphin.model.utilization"],
        ["9", "services.redis.url"],
        ["11", "use2"],
    ]
    assert 'is not a service, did you mean "dolphin"?' in found[3]
    assert "expected true or false" in found[4]
    assert "cannot be the same for every model" in found[5]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("", ""), ("fast\n", "fast"), ("# c\n\n fast \n", "fast"), ("two words", None), ("a\nb", None),
        ("../etc/passwd", None), ("-x", None),
    ],
)  # fmt: skip
def test_the_selection_file(text: str, name: str | None) -> None:
    assert selected_name(text) == name


def test_what_is_written_is_read(place: Place) -> None:
    for name in ("", "fast", "a.b-c_1"):
        assert selected_name(selection_text(name)) == name


@pytest.mark.parametrize("text", ["gone", "no name", "../agentd"])
def test_a_selection_of_nothing_is_said_at_its_file(place: Place, text: str) -> None:
    place.write("profiles/fast.toml", FAST)
    place.write("profile", text)
    [problem] = place.problems()
    assert problem.startswith("profile: ")
    assert "agentctl profile use" in problem
    assert place.load("").profile == "", "what is wrong can be left"


def test_the_highest_layer_wins(place: Place) -> None:
    place.write("profiles/fast.toml", '[use]\ndescription = "theirs"\n', packaged=True)
    place.write("profiles/slow.toml", '[use]\ndescription = "slow"\n', packaged=True)
    place.write("profiles/gone.toml", '[use]\ndescription = "gone"\n', packaged=True)
    place.write("profiles/fast.toml", FAST)
    (place.own / "profiles/gone.toml").symlink_to("/dev/null")
    place.write("profile", "slow\n", packaged=True)
    files = ProfileFiles(place.layers)
    assert {p.name: p.description for p in files.known()} == {"fast": "All that the GPU has", "slow": "slow"}
    assert place.load().profile == "slow"
    place.write("profile", selection_text(""))
    assert place.load().profile == "", "an own selection of none counts"
    assert files.selection_path == place.own / "profile"
    files.check_name("fast")
    with pytest.raises(AgentdError, match='did you mean "fast"') as caught:
        files.check_name("fats")
    assert caught.value.kind == "profile-not-found"
    [problem] = place.problems("gone")
    assert 'no profile of use "gone"' in problem


def test_the_packaged_profiles_fit_the_example(tmp_path: Path) -> None:
    packaged = paths.share_dir() / "etc"
    (tmp_path / "agentd.toml").write_bytes((packaged / "examples/stack.toml").read_bytes())
    layers = (packaged, tmp_path)
    known = ProfileFiles(layers).known()
    assert {"development", "staging", "production", "monitoring", "optimized", "testing"} <= {p.name for p in known}
    for profile in known:
        assert profile.description, profile.name
        loaded = load(layers, profile=profile.name)
        assert loaded.profile == profile.name
        assert loaded.digest != load(layers, profile="").digest, f"{profile.name} changes nothing"
    assert len({load(layers, profile=p.name).digest for p in known}) == len(known)


def test_the_packaged_profiles_fit_an_empty_configuration(tmp_path: Path) -> None:
    layers = (paths.share_dir() / "etc", tmp_path)
    for profile in ProfileFiles(layers).known():
        assert load(layers, profile=profile.name).profile == profile.name
