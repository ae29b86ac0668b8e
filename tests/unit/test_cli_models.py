"""agentctl models add, remove, show and verify on files of their own; without systemd, with and without an agentd."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.cli import Result, Run
from fakes.serving import Served
from modelfiles import cached, model, torn

from agentd import offline_models, paths
from agentd.adapters import fileset, unit_loading
from agentd.cli import exits, models_verify
from agentd.cli.context import Context
from agentd.cli.terminal import Terminal
from agentd.core.model_unit import unit_name
from agentd.errors import AgentdError, ConfigError, ConfigProblem
from agentd.model_facts import ModelFacts, SleepFacts
from agentd.types import ActiveState, UnitState

BASE = """\
[slots.gpu0]

[services.qwen]
unit = "vllm-qwen.service"
role = "model"
url = "http://127.0.0.1:8001"
model = { slot = "gpu0", served_name = "qwen" }
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home with a configuration and a vllm program; systemd cannot be asked."""
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "AGENTD_CONFIG_DIR", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    made = tmp_path / "home"
    monkeypatch.setenv("HOME", str(made))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={tmp_path}/no-bus")
    monkeypatch.setattr(paths, "ETC", tmp_path / "etc")
    monkeypatch.setattr("agentd.offline_models_plan.LinuxKernel.port_holder", lambda _self, _port: None)
    vllm = made / ".local/bin/vllm"
    vllm.parent.mkdir(parents=True)
    vllm.write_text("#!/bin/sh\n")
    vllm.chmod(0o755)
    config(made, BASE)
    model(made / "models/llama")
    return made


def config(home: Path, text: str) -> None:
    file = home / ".config/agentd/agentd.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def unit(home: Path, name: str = "llama") -> Path:
    return home / ".config/systemd/user" / unit_name(name)


def fragment(home: Path, name: str = "llama") -> Path:
    return home / f".config/agentd/config.d/60-model-{name}.toml"


def service(home: Path, name: str = "llama") -> dict[str, object]:
    found: dict[str, object] = tomllib.loads(fragment(home, name).read_text())["services"][name]
    return found


def add(run: Run, home: Path, *options: str, name: str = "llama") -> Result:
    return run("models", "add", name, "--path", str(home / "models/llama"), *options)


def left(home: Path) -> list[str]:
    """Files that an add has left."""
    folders = (home / ".config/systemd", home / ".config/agentd/config.d")
    return sorted(str(p.relative_to(home)) for folder in folders for p in folder.rglob("*") if p.is_file())


def test_add_writes_both_files_and_says_where(run: Run, home: Path) -> None:
    done = add(run, home)
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        "llama: added; vllm-llama.service, http://127.0.0.1:8002",
        f"  {unit(home)}",
        f"  {fragment(home)}",
        "! it asks for no API key; --api-key-credential FILE or --env-file FILE gives it one",
        "! systemd could not be asked; once it runs: systemctl --user daemon-reload",
        "! agentd does not run; it finds the model at its start",
        "make it resident: agentctl switch-model llama",
    ]
    assert service(home)["model"] == {
        "slot": "gpu0", "served_name": "llama", "path": str(home / "models/llama"), "utilization": 0.9,
    }  # fmt: skip
    assert run("config", "check").code == 0


def test_the_same_again_changes_nothing(run: Run, home: Path) -> None:
    add(run, home, "--utilization", "0.8", "--", "--max-num-seqs", "4")
    before = {path: (home / path).stat().st_ino for path in left(home)}
    done = add(run, home, "--utilization", "0.8", "--", "--max-num-seqs", "4")
    assert (done.code, done.out.splitlines()[0]) == (0, "llama: already so; vllm-llama.service, http://127.0.0.1:8002")
    assert {path: (home / path).stat().st_ino for path in left(home)} == before


def test_other_arguments_need_replace_and_keep_the_port(run: Run, home: Path) -> None:
    add(run, home)
    add(run, home, name="second")
    done = add(run, home, "--utilization", "0.5")
    assert (done.code, done.err.splitlines()[0]) == (
        exits.REFUSED, "agentctl: llama is there already, with other settings",
    )  # fmt: skip
    assert add(run, home, "--utilization", "0.5", "--replace").code == 0
    assert "AGENTD_UTILIZATION=0.5" in unit(home).read_text()
    assert service(home)["url"] == "http://127.0.0.1:8002"
    assert service(home, "second")["url"] == "http://127.0.0.1:8003"


def test_any_number_of_models_each_on_its_own_port(run: Run, home: Path) -> None:
    for number in range(5):
        assert add(run, home, name=f"m{number}").code == 0
    assert {service(home, f"m{n}")["url"] for n in range(5)} == {f"http://127.0.0.1:{p}" for p in range(8002, 8007)}


def test_the_gateways_registry_of_ports(run: Run, home: Path) -> None:
    assert run("gateway", "init").code == 0
    with (home / ".config/agentd/gateway/ports.yaml").open("a") as file:
        file.write("  other: 8002\n  phi: 8123\n")
    add(run, home)
    add(run, home, name="phi")
    assert (service(home)["url"], service(home, "phi")["url"]) == ("http://127.0.0.1:8003", "http://127.0.0.1:8123")
    done = add(run, home, "--port", "8002", name="third")
    assert (done.code, "! the gateway's ports.yaml gives port 8002 to other" in done.out) == (0, True)


def test_two_at_once_do_not_choose_the_same_port(run: Run, home: Path) -> None:
    from agentd.offline_models_plan import Wanted

    path, problems = str(home / "models/llama"), []

    def work(name: str) -> None:
        try:
            offline_models.add(Wanted(name, path=path))
        except AgentdError as error:
            problems.append(error.message)

    threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert problems == []
    assert len({service(home, f"t{n}")["url"] for n in range(4)}) == 4
    assert run("config", "check").code == 0


KILLED = """
import os, sys
from agentd.adapters import fileset
commit = fileset.commit
def once(step):
    commit(step)
    os._exit(9)
fileset.commit = once
from agentd.cli.main import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("what", ["add", "remove"])
def test_killed_half_way(run: Run, home: Path, what: str) -> None:
    """One of the two files is done; whoever comes next finds all as it was before, and then does it."""
    arguments = ["models", what, "llama"]
    if what == "add":
        arguments += ["--path", str(home / "models/llama")]
    else:
        add(run, home)
    before = left(home)
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False, timeout=60, capture_output=True)
    assert done.returncode == 9, done.stderr
    assert left(home) != before
    assert run(*arguments).code == 0
    assert len(left(home)) == (2 if what == "add" else 0)


def test_a_full_disk_leaves_nothing(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = fileset.stage

    def full(intent: fileset.Intent, text: str | None) -> fileset.Step:
        if intent.path.suffix == ".toml":
            raise OSError(28, "No space left on device", str(intent.path))
        return stage(intent, text)

    monkeypatch.setattr(fileset, "stage", full)
    done = add(run, home)
    assert (done.code, "no space left on device" in done.err) == (exits.FAILED, True), done.err
    assert left(home) == []


def test_json(run: Run, home: Path) -> None:
    found = add(run, home, "--json").json
    assert (found["name"], found["url"], found["changed"]) == ("llama", "http://127.0.0.1:8002", True)
    assert found["files"] == [str(unit(home)), str(fragment(home))]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--port", "8001"], "--port 8001 is the port of services.qwen"),
        (["--port", "11434"], "--port 11434 is the port of Ollama"),
        (["--port", "9775"], "--port 9775 is the port of agentd"),
        (["--utilization", "1.5"], '--utilization "1.5" is not above 0 and at most 1'),
        (["--tensor-parallel", "2"], "--tensor-parallel 2 wants more GPUs than there are: slot gpu0 has 1 GPU"),
        (["--slot", "gpu9"], '--slot "gpu9" is not a slot'),
        (["--max-model-len", "long"], '--max-model-len "long" is no length'),
        (["--loader", "Fast!"], '--loader "Fast!" is no load format'),
        (["--vllm", "/none/vllm"], 'there is no program "/none/vllm"'),
        (["--uds", "relative"], "is no path to a .sock"),
        (["--uds", "/tmp/a.sock"], "a hardened unit has a /tmp of its own"),
        (["--uds", "/none/a.sock"], "/none is no directory"),
        (["--uds", "/" + "x" * 200 + ".sock"], "of at most 107 bytes"),
        (["--uds", "/a.sock", "--port", "8005"], "--port and --uds cannot stand together"),
        (["--id", "org/model"], "one of --path DIR and --id REPO"),
        (["--env-file", "/none.env"], "no such file"),
        (["--", "--port", "9"], "--port cannot stand after --"),
        (["--served-name", "a\nb"], "--served-name is empty or has control characters"),
        (["--served-name", "a\\"], "ends with a backslash"),
        (["--env-file", "/x/y "], "begins or ends with a blank"),
    ],
)
def test_what_cannot_be(run: Run, home: Path, options: list[str], problem: str) -> None:
    done = add(run, home, *options)
    assert done.code == exits.USAGE
    assert problem in done.err
    assert left(home) == []


def test_names_that_are_taken(run: Run, home: Path) -> None:
    done = add(run, home, name="qwen")
    assert (done.code, 'there is a service "qwen" already' in done.err) == (exits.REFUSED, True)
    config(home, BASE.replace("services.qwen", "services.big").replace("vllm-qwen", "vllm-llama"))
    done = add(run, home)
    assert (done.code, "is already the unit of services.big" in done.err) == (exits.REFUSED, True)
    config(home, BASE)
    unit(home).parent.mkdir(parents=True)
    unit(home).write_text("[Service]\nExecStart=/bin/true\n")
    done = add(run, home, "--replace", "--force")
    assert (done.code, "not made by agentctl models add" in done.err) == (exits.REFUSED, True)
    assert add(run, home, name="Big Model").code == exits.USAGE


def damaged(home: Path) -> None:
    torn(home / "models/llama/model.safetensors")


def emptied(home: Path) -> None:
    (home / "models/llama/model.safetensors").unlink()


def unconfigured(home: Path) -> None:
    (home / "models/llama/config.json").unlink()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [(damaged, "ends after"), (emptied, "has no weights"), (unconfigured, "config.json is missing")],
)
def test_a_model_that_is_not_whole(run: Run, home: Path, damage: Callable[[Path], None], problem: str) -> None:
    damage(home)
    done = add(run, home)
    assert (done.code, problem in done.err) == (exits.REFUSED, True), done.err
    assert left(home) == []


def test_a_configuration_that_is_wrong_already(run: Run, home: Path) -> None:
    config(home, BASE + "[daemon]\nresync = 0\n")
    done = add(run, home)
    assert (done.code, "daemon.resync" in done.err, left(home)) == (exits.FAILED, True, [])


def test_not_for_the_systems_manager(run: Run, home: Path) -> None:
    config(home, BASE + '[daemon]\nscope = "system"\n')
    for done in (add(run, home), run("models", "remove", "llama")):
        assert (done.code, "would run as root" in done.err) == (exits.USAGE, True)


def test_slots(run: Run, home: Path) -> None:
    config(home, BASE + "[slots.two]\ngpus = [1, 2]\n")
    done = add(run, home)
    assert (done.code, 'write --slot with one of "gpu0", "two"' in done.err) == (exits.USAGE, True)
    assert add(run, home, "--slot", "two").code == 0
    assert "CUDA_VISIBLE_DEVICES=1,2" in unit(home).read_text()
    assert "AGENTD_TENSOR_PARALLEL=2" in unit(home).read_text()
    config(home, "")
    assert "no slot is configured" in add(run, home, name="other").err


def test_a_name_of_hugging_face(run: Run, home: Path) -> None:
    done = run("models", "add", "tiny", "--id", "org/tiny")
    assert "the first start downloads it" in done.out
    assert "HF_HUB_OFFLINE" not in unit(home, "tiny").read_text()
    root = cached(home / ".cache/huggingface/hub")
    assert run("models", "add", "tiny", "--id", "org/tiny", "--replace").code == 0
    assert "HF_HUB_OFFLINE=1" in unit(home, "tiny").read_text()
    assert " serve org/tiny " in unit(home, "tiny").read_text()
    assert service(home, "tiny")["model"]["path"] == str(root)  # type: ignore[index]
    assert run("models", "verify", "tiny", "--checksums").code == 0
    assert "HF_HOME" not in unit(home, "tiny").read_text()


def test_what_was_downloaded_since_changes_nothing_without_replace(run: Run, home: Path) -> None:
    run("models", "add", "tiny", "--id", "org/tiny")
    before = unit(home, "tiny").read_text(), fragment(home, "tiny").read_text()
    cached(home / ".cache/huggingface/hub")
    done = run("models", "add", "tiny", "--id", "org/tiny")
    assert (done.code, done.out.splitlines()[0].split(";")[0]) == (0, "tiny: already so"), done.err
    assert "! its files are there now: --replace has them checked" in done.out
    assert (unit(home, "tiny").read_text(), fragment(home, "tiny").read_text()) == before
    assert run("models", "add", "tiny", "--id", "org/tiny", "--utilization", "0.5").code == exits.REFUSED


@pytest.mark.parametrize(("variable", "below"), [("HF_HOME", "hub"), ("HF_HUB_CACHE", "")])
def test_a_cache_elsewhere_is_told_to_the_unit(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch, variable: str, below: str
) -> None:
    place = home / "big $disk 100%"
    root = cached(place / below)
    monkeypatch.setenv(variable, str(place))
    assert run("models", "add", "tiny", "--id", "org/tiny").code == 0
    written = str(place).replace("%", "%%")
    assert f'\nEnvironment="{variable}={written}"\n' in unit(home, "tiny").read_text()
    assert service(home, "tiny")["model"]["path"] == str(root)  # type: ignore[index]
    assert service(home, "tiny")["hardening"] == {"write_paths": [written]}
    add(run, home)
    assert variable not in unit(home).read_text(), "a directory is in no cache"


def test_a_cache_is_told_by_its_absolute_path(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", "~/disk")
    assert run("models", "add", "tiny", "--id", "org/tiny").code == 0
    assert f"\nEnvironment=HF_HOME={home}/disk\n" in unit(home, "tiny").read_text()


def test_a_place_in_hugging_faces_cache_is_no_directory_for_vllm(run: Run, home: Path) -> None:
    usual, other = cached(home / ".cache/huggingface/hub"), cached(home / "disk")
    done = run("models", "add", "tiny", "--path", str(usual))
    assert (done.code, done.err.splitlines()[-1]) == (exits.USAGE, "  write --id org/tiny")
    done = run("models", "add", "tiny", "--path", str(other))
    assert done.err.splitlines()[-1] == f"  write --id org/tiny, with HF_HUB_CACHE={home}/disk in the environment"
    assert left(home) == []
    other.rename(home / "renamed")
    [snapshot] = (home / "renamed/snapshots").iterdir()
    done = run("models", "add", "tiny", "--path", str(home / "renamed"))
    assert done.err.splitlines()[-1] == f"  a snapshot can be given: --path {snapshot}"
    assert run("models", "add", "tiny", "--path", str(snapshot)).code == 0


def test_a_program_whose_path_has_a_dollar_sign(run: Run, home: Path) -> None:
    program = home / "a$b/vllm"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    done = add(run, home, "--vllm", str(program))
    assert (done.code, f"a unit cannot start {program}: there is a $ in its path" in done.err) == (exits.USAGE, True)
    assert left(home) == []


def test_keys(run: Run, home: Path) -> None:
    key, env = home / "key", home / "key.env"
    for file, text in ((key, "secret-word\n"), (env, "VLLM_API_KEY=secret-word\n")):
        file.write_text(text)
        assert "others may read it" in add(run, home, "--env-file", str(file)).err
        file.chmod(0o600)
    assert "is not a file with the key alone" in add(run, home, "--api-key-credential", str(env)).err
    done = add(run, home, "--env-file", str(key))
    assert "has no line VLLM_API_KEY=..." in done.err, "systemd passes over a line without ="
    assert f"of the key alone: --api-key-credential {key}" in done.err
    done = add(run, home, "--api-key-credential", str(key))
    assert done.code == 0
    assert service(home)["model"]["api_key_file"] == str(key)  # type: ignore[index]
    assert f"LoadCredential=api-key:{key}" in unit(home).read_text()
    for path in left(home):
        assert "secret-word" not in (home / path).read_text()
    shown = run("models", "show", "llama")
    assert f"in {key}" in shown.out
    assert "secret-word" not in shown.out + run("models", "show", "llama", "--json").out


def test_the_shared_key_is_taken_where_it_is_there(run: Run, home: Path) -> None:
    shared = home / ".config/agentd/vllm.env"
    shared.write_text("VLLM_API_KEY=x\n")
    assert "asks for no API key" not in add(run, home).out
    assert f"EnvironmentFile={shared}" in unit(home).read_text()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("alone", "has no line VLLM_API_KEY=..."),
        ("export VLLM_API_KEY=alone\n", 'has "export VLLM_API_KEY=...", a line that systemd passes over'),
    ],
)
def test_a_key_that_systemd_would_not_read_is_not_taken(run: Run, home: Path, text: str, problem: str) -> None:
    """The server would ask for no key at all."""
    for file in (home / "own.env", home / ".config/agentd/vllm.env"):
        file.write_text(text)
        file.chmod(0o600)
    done = add(run, home, "--env-file", str(home / "own.env"))
    assert (done.code, problem in done.err, left(home)) == (exits.USAGE, True, [])
    done = add(run, home)
    assert f"! the shared key is not taken: {home}/.config/agentd/vllm.env {problem}" in done.out
    assert "! it asks for no API key" in done.out
    assert "EnvironmentFile" not in unit(home).read_text()
    assert "api_key_file" not in str(service(home))


@pytest.mark.parametrize("text", ["# mine\nkey\n", " key\n", "key \n", "key\n\n", "key\r\n", "key==\n", "\n", "k\te\n"])
def test_a_credential_is_the_key_and_nothing_else(run: Run, home: Path, text: str) -> None:
    """All that is in the file becomes the key, and agentd reads the same file in its own way."""
    file = home / "key"
    file.write_text(text)
    file.chmod(0o600)
    done = add(run, home, "--api-key-credential", str(file))
    assert (done.code, f"{file} is not a file with the key alone: " in done.err) == (exits.USAGE, True), done.err
    assert left(home) == []


@pytest.mark.parametrize("option", ["--env-file", "--api-key-credential", ""])
def test_a_key_behind_a_link_is_named_by_its_own_place(run: Run, home: Path, option: str) -> None:
    """agentd reads no key through a link: every switch would be refused."""
    link, file = home / ".config/agentd/vllm.env", home / "store/secret"
    file.parent.mkdir()
    file.write_text("key" if "credential" in option else "VLLM_API_KEY=key\n")
    file.chmod(0o600)
    link.symlink_to(file)
    done = add(run, home, *([option, str(link)] if option else []))
    assert done.code == 0, done.err
    assert service(home)["model"]["api_key_file"] == str(file)  # type: ignore[index]
    assert str(link) not in unit(home).read_text()
    assert f"={file}\n" in unit(home).read_text() or f":{file}\n" in unit(home).read_text()


@pytest.mark.parametrize("mark", ["*", "?", "[1]", "\\x"])
def test_an_environment_file_is_no_pattern(run: Run, home: Path, mark: str) -> None:
    file = home / f"key{mark}.env"
    file.write_text("VLLM_API_KEY=key\n")
    file.chmod(0o600)
    done = add(run, home, "--env-file", str(file))
    assert (done.code, f"{file} cannot be read by systemd" in done.err) == (exits.USAGE, True), done.err


def test_the_quickest_loader_that_is_installed(run: Run, home: Path) -> None:
    assert "no quicker loader" in add(run, home, "--loader", "auto").out
    assert "--load-format" not in unit(home).read_text()
    packages = home / "venv/lib/python3.11/site-packages"
    (packages / "runai_model_streamer").mkdir(parents=True)
    (home / ".local/bin/vllm").write_text(f"#!{home}/venv/bin/python\n")
    assert add(run, home, "--loader", "auto", "--replace").code == 0
    assert "--load-format runai_streamer" in unit(home).read_text()
    (packages / "fastsafetensors").mkdir()
    assert add(run, home, "--loader", "auto", "--replace").code == 0
    assert "--load-format fastsafetensors" in unit(home).read_text()


def test_a_hand_edited_file_needs_force(run: Run, home: Path) -> None:
    add(run, home)
    unit(home).write_text(unit(home).read_text() + "# mine\n")
    for done in (add(run, home), add(run, home, "--replace"), run("models", "remove", "llama")):
        assert (done.code, "was edited by hand" in done.err) == (exits.REFUSED, True)
    assert unit(home).exists()
    assert fragment(home).exists()
    assert "made by models add, edited since" in run("models", "show", "llama").out
    assert run("models", "remove", "llama", "--force").code == 0
    assert left(home) == []


def test_remove_takes_what_is_ours_and_nothing_else(run: Run, home: Path) -> None:
    from agentd.core.dropin import readiness

    add(run, home)
    ours = readiness("vllm-llama.service", "http://127.0.0.1:8002/health", 60)
    folder = unit(home).parent / "vllm-llama.service.d"
    folder.mkdir()
    (unit(home).parent / ours.path).write_text(ours.text)
    (folder / "override.conf").write_text("[Service]\nNice=5\n")
    done = run("models", "remove", "llama")
    assert done.code == 0
    assert f"kept {folder}/override.conf: it is not ours, or was edited" in done.out
    assert left(home) == [".config/systemd/user/vllm-llama.service.d/override.conf"]
    assert (home / "models/llama/model.safetensors").exists()
    assert run("models", "remove", "llama").code == exits.USAGE


def test_remove_only_from_the_configuration(run: Run, home: Path) -> None:
    add(run, home)
    assert run("models", "remove", "llama", "--keep-files").code == 0
    assert left(home) == [".config/systemd/user/vllm-llama.service"]
    assert add(run, home).code == exits.REFUSED, "the unit that was kept is there, and its port may be another"
    assert add(run, home, "--replace").code == 0


def test_remove_refuses_what_it_did_not_make(run: Run, home: Path) -> None:
    done = run("models", "remove", "qwen")
    assert (done.code, "was not made by agentctl models add" in done.err) == (exits.REFUSED, True)
    assert run("models", "remove", "nothing").code == exits.USAGE


def test_remove_refuses_the_default_of_a_slot(run: Run, home: Path) -> None:
    add(run, home)
    config(home, BASE.replace("[slots.gpu0]", '[slots.gpu0]\ndefault = "llama"'))
    done = run("models", "remove", "llama")
    assert (done.code, "slots.gpu0.default: is not a model of this slot" in done.err) == (exits.FAILED, True)
    assert len(left(home)) == 2


def test_remove_refuses_a_model_that_runs(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(run, home)
    running = UnitState(unit_name("llama"), load_state="loaded", active_state=ActiveState.ACTIVE)
    monkeypatch.setattr(unit_loading, "states", lambda *_units: {unit_name("llama"): running})
    done = run("models", "remove", "llama", "--force")
    assert (done.code, "vllm-llama.service is active" in done.err) == (exits.REFUSED, True)
    assert len(left(home)) == 2


def test_a_unit_that_systemd_does_not_take_leaves_nothing(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(unit: str, *, only_due: bool = False) -> tuple[str, ...]:
        if unit:
            raise AgentdError("unit-not-loaded", f"systemd does not take {unit}")
        return ()

    monkeypatch.setattr(unit_loading, "load", refuse)
    assert add(run, home).code == exits.FAILED
    assert left(home) == []


def test_agentd_reads_it_at_once(server: Served, run: Run, home: Path) -> None:
    assert "agentd does not run" not in add(run, home).out
    assert ("reload",) in server.ops.calls


def test_what_agentd_refuses_is_taken_back(server: Served, run: Run, home: Path) -> None:
    problem = ConfigError([ConfigProblem("x.toml", "a", "is wrong")])
    server.call(lambda ops: ops.fail.update(reload=problem))
    assert add(run, home).code == exits.FAILED
    assert left(home) == []


def refused_from(server: Served, count: int, problem: AgentdError) -> list[int]:
    """The first `count` reloads are refused, later ones are not; the list grows by one with each."""
    asked: list[int] = []

    def change(ops: Any) -> None:
        reload = ops.reload

        async def counted() -> Any:
            asked.append(len(asked))
            if len(asked) <= count:
                raise problem
            return await reload()

        ops.reload = counted

    server.call(change)
    return asked


@pytest.mark.parametrize("what", ["add", "remove"])
def test_what_was_taken_back_is_read_again(server: Served, run: Run, home: Path, what: str) -> None:
    """A reload that failed in part has the new configuration in force."""
    if what == "remove":
        add(run, home)
    before = left(home)
    asked = refused_from(server, 1, AgentdError("reload-incomplete", "gpus: cannot be read"))
    done = add(run, home) if what == "add" else run("models", "remove", "llama")
    assert (done.code, done.err) == (exits.FAILED, "agentctl: gpus: cannot be read\n")
    assert (len(asked), left(home)) == (2, before)


def test_what_was_taken_back_and_cannot_be_read_again_is_told(server: Served, run: Run, home: Path) -> None:
    refused_from(server, 2, AgentdError("reload-incomplete", "gpus: cannot be read"))
    assert add(run, home).err.splitlines() == [
        "agentctl: gpus: cannot be read",
        "  the files are as before, but agentd has not read them again (gpus: cannot be read): agentctl reload",
    ]


def test_remove_waits_for_no_change(server: Served, run: Run, home: Path) -> None:
    from dataclasses import replace

    add(run, home)
    server.call(lambda ops: setattr(ops, "slot", replace(ops.slot, models=("qwen", "llama"), change="s123")))
    done = run("models", "remove", "llama")
    assert (done.code, "s123 is running" in done.err) == (exits.BUSY, True)


def test_show_without_agentd(run: Run, home: Path) -> None:
    add(run, home, "--switch", "sleep1", "--", "--hf-token", "hunter2")
    lines = run("models", "show", "llama").out.splitlines()
    assert lines[0] == "llama"
    assert "  unit         vllm-llama.service (made by models add)" in lines
    assert any("vllm serve" in line and "--enable-sleep-mode" in line for line in lines)
    assert any("whole, 1 of weights" in line for line in lines)
    assert "  agentd       does not run" in lines
    assert "hunter2" not in "\n".join(lines)
    assert run("models", "show", "nope").code == exits.USAGE


def test_show_tells_what_was_learned(server: Served, run: Run, home: Path) -> None:
    facts = ModelFacts(
        "qwen", version="0.11.0", vram=14 << 30, load_seconds=41.0, phases={"loading weights": 12.0},
        sleep=(SleepFacts(1, 3.0, 0.5, 13 << 30, 1 << 30, 12 << 30), SleepFacts(2, broken="garbage after wake")),
    )  # fmt: skip
    server.call(lambda ops: ops.learned.update(qwen=facts))
    shown = run("models", "show", "qwen").out
    for line in (
        "state       ready, resident", "vLLM        0.11.0", "held        14.0 GiB of GPU memory when it served last",
        "cold start  41.0 s (loading weights 12.0 s)",
        "asleep in 3.00 s, awake in 0.50 s, frees 13.0 GiB, keeps 1.0 GiB of GPU memory, takes 12.0 GiB of main memory",
        "GPU need    needs 14G, 2G would be free", "not used: garbage after wake", "files       no path is configured",
    ):  # fmt: skip
        assert line in shown
    assert run("models", "show", "qwen", "--json").json["facts"]["version"] == "0.11.0"


def test_verify(run: Run, home: Path) -> None:
    path = str(home / "models/llama")
    done = run("models", "verify", path)
    assert (done.code, done.out) == (0, f"{path}: whole; 1 file of weights, 0.0 MiB\n")
    add(run, home)
    assert run("models", "verify", "llama").code == 0
    torn(home / "models/llama/model.safetensors")
    done = run("models", "verify", "llama", "--json")
    assert done.code == exits.FAILED
    assert done.json["problems"][0]["path"] == f"{path}/model.safetensors"
    done = run("models", "verify", "llama")
    assert done.out.splitlines()[0].startswith(f"x {path}/model.safetensors ends after")
    assert run("models", "verify", "nothing").code == exits.USAGE
    assert run("models", "verify", "qwen").code == exits.USAGE, "no path is configured"
    assert run("models", "verify").code == exits.USAGE


def test_verify_shows_how_far_it_is_on_a_terminal_alone(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached(home, shards=2)
    path = str(home / "models--org--tiny")
    assert "%" not in run("models", "verify", path, "--checksums").out
    written: list[str] = []
    monkeypatch.setattr(Terminal, "write", lambda _self, text: written.append(text))
    monkeypatch.setattr(Terminal, "line", lambda _self, text="": None)
    bar = models_verify._Bar(Context(argparse.Namespace(json=False), "models verify"))
    bar._ctx.out.live = True
    for done in (0, 1, 2, 999, 1000):
        bar.told(done, 1000)
    bar.end()
    assert [text.replace("\r\x1b[K", "") for text in written] == [
        "0 %, 0.0 MiB of 0.0 MiB", "99 %, 0.0 MiB of 0.0 MiB", "100 %, 0.0 MiB of 0.0 MiB", "",
    ]  # fmt: skip


def test_verify_a_directory_needs_no_configuration(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config(home, "not toml")
    monkeypatch.chdir(home / "models")
    assert run("models", "verify", "llama").code == 0
    assert json.loads(run("models", "verify", "./llama", "--json").out)["files"] == 1
