"""agentctl gateway as real processes on real files: what it writes, what it refuses, and that it loses nothing."""

from __future__ import annotations

import json
import os
import resource
import signal
from pathlib import Path

import pytest
from gatewayhome import Home

from agentd import offline_gateway_edit
from agentd.managers.gateway.generation import Plan
from agentd.offline_gateway import Read
from agentd.types import ExitCode

QUIET = ("--no-network",)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path)
    made.put_sources()
    assert made.ctl("secrets", "init").code == 0
    return made


def text(path: Path) -> str:
    return path.read_text()


# -- laying down, checking ------------------------------------------------------------------------------------------


def test_init_lays_sources_down_and_keeps_what_is_there(tmp_path: Path) -> None:
    home = Home(tmp_path)
    missing = home.ctl("gateway", "validate", *QUIET)
    assert missing.code == ExitCode.REFUSED
    assert "create the sources with: agentctl gateway init" in missing.out
    assert home.ctl("gateway", "init").out.count("wrote ") == 3
    (home.sources / "ports.yaml").write_text("ports: {gateway: 4001}\n")
    (home.sources / "providers.yaml").unlink()
    done = home.ctl("gateway", "init", "--json").json
    assert (done["written"], done["kept"]) == (["providers.yaml"], ["ports.yaml", "model-mappings.yaml"])
    assert text(home.sources / "ports.yaml") == "ports: {gateway: 4001}\n"


def test_validate_in_every_form(home: Home) -> None:
    good = home.ctl("gateway", "validate", *QUIET)
    assert good.code == 0, good.out
    assert home.ctl("gateway", "validate", "--strict", *QUIET).code == ExitCode.REFUSED, "there are warnings"
    with (home.sources / "model-mappings.yaml").open("a") as stream:
        stream.write("\nmodel: {}\n")
    bad = home.ctl("gateway", "validate", *QUIET)
    assert bad.code == ExitCode.REFUSED
    line = text(home.sources / "model-mappings.yaml").count("\n")
    assert f"model-mappings.yaml:{line}:1: error:" in bad.out
    found = home.ctl("gateway", "validate", "--format", "json", *QUIET).json
    assert (found["ok"], found["counts"]["error"]) == (False, 1)
    assert home.ctl("gateway", "validate", "--json", *QUIET).json == found
    assert home.ctl("gateway", "validate", "--json", "--format", "sarif", *QUIET).code == ExitCode.USAGE
    sarif = json.loads(home.ctl("gateway", "validate", "--format", "sarif", *QUIET).out)
    assert sarif["version"] == "2.1.0"
    assert "unknown-key" in {result["ruleId"] for result in sarif["runs"][0]["results"]}


def test_sources_elsewhere(home: Home, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert home.ctl("gateway", "init", "--into", "other").code == 0
    assert (other / "providers.yaml").exists()
    assert home.ctl("gateway", "validate", "--sources", "other", *QUIET).code == 0
    assert home.ctl("gateway", "validate", "--sources", "nowhere", *QUIET).code == ExitCode.REFUSED


# -- editing --------------------------------------------------------------------------------------------------------


def lines_that_differ(before: str, after: str) -> set[str]:
    return {line.strip() for line in set(before.splitlines()) ^ set(after.splitlines())}


def test_enable_and_disable_change_one_word(home: Home) -> None:
    providers = home.sources / "providers.yaml"
    before = text(providers)
    done = home.ctl("gateway", "enable", "provider", "embedding")
    assert done.code == 0, done.err
    assert "write it with: agentctl gateway generate" in done.out
    assert lines_that_differ(before, text(providers)) <= {"status: disabled", "status: enabled"}
    assert "already; nothing to do" in home.ctl("gateway", "enable", "provider", "embedding").out
    assert home.ctl("gateway", "disable", "provider", "embedding", "--json").json["changed"]
    assert text(providers) == before
    assert home.ctl("gateway", "disable", "model", "dolphin").code == 0
    wrong = home.ctl("gateway", "disable", "model", "dolfin")
    assert (wrong.code, "cannot find models.dolfin" in wrong.err, "dolphin" in wrong.err) == (2, True, True)


def test_set_makes_what_is_missing_around_a_value(home: Home) -> None:
    models = home.sources / "model-mappings.yaml"
    before = text(models)
    assert home.ctl("gateway", "set", "policy.timeouts.try", "20s").code == 0
    assert home.ctl("gateway", "set", "policy.retries", "1").code == 0
    assert home.ctl("gateway", "set", "models.qwen.limits.rpm", "30").code == 0
    assert home.ctl("gateway", "set", "ports.gateway", "4002").code == 0
    assert "gateway: {port: 4002, unit: litellm.socket}" in text(home.sources / "ports.yaml")
    assert all(line in text(models) for line in before.splitlines() if line.startswith("#"))
    out = home.ctl("gateway", "generate", "--output", "-", *QUIET).out
    assert "      timeout: 20\n" in out
    assert "  num_retries: 1\n" in out
    assert "      rpm: 30\n" in out


@pytest.mark.parametrize(
    ("path", "value", "code", "words"),
    [
        (
            "policy.retries",
            "many",
            3,
            "cannot change model-mappings.yaml: retries of the policy must be a whole number",
        ),
        ("policy.retires", "3", 3, 'did you mean "retries"?'),
        ("models.nothere.limits.rpm", "3", 2, "cannot find models.nothere"),
        ("retries", "3", 2, "a path begins with providers., ports., models. or policy."),
        ("policy", "{}", 2, "a path begins with"),
        ("models.qwen.fallbacks", "[qwen]", 3, "qwen"),
        ("policy.retries", "[", 2, "cannot set policy.retries: it is not valid YAML"),
    ],
)
def test_what_would_make_it_worse_is_refused(home: Home, path: str, value: str, code: int, words: str) -> None:
    before = [text(p) for p in sorted(home.sources.iterdir()) if p.suffix == ".yaml"]
    done = home.ctl("gateway", "set", path, value)
    assert (done.code, words in done.err) == (code, True), done.err
    assert [text(p) for p in sorted(home.sources.iterdir()) if p.suffix == ".yaml"] == before


def test_an_edit_tells_only_what_is_new_with_it(home: Home) -> None:
    assert home.ctl("gateway", "generate", *QUIET).code == 0
    assert home.ctl("gateway", "set", "policy.timeouts.silence", "10min").out.count("warning: timeouts.silence") == 1
    assert "warning" not in home.ctl("gateway", "set", "models.qwen.limits.rpm", "30").out


def test_edits_at_the_same_time_are_all_kept(home: Home) -> None:
    models = ("qwen", "dolphin", "llama")
    running = [home.start("gateway", "set", f"models.{name}.limits.rpm", "31") for name in models]
    ended = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0] * 3, ended
    assert text(home.sources / "model-mappings.yaml").count("limits: {rpm: 31}") == 3, ended


def test_an_edit_that_was_overtaken_is_made_anew(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else writes after it has read, and before it writes."""
    models, plan, others = home.sources / "model-mappings.yaml", offline_gateway_edit.plan, []

    def overtaking(found: Read, *, network: bool) -> Plan:
        if len(others) < 2:  # One edit makes two plans.
            others.append(models.write_text(text(models).replace("retries: 2", "retries: 1")))
        return plan(found, network=network)

    monkeypatch.setattr(offline_gateway_edit, "plan", overtaking)
    done = home.ctl("gateway", "set", "models.qwen.limits.rpm", "31")
    assert (done.code, len(others)) == (0, 2), done.err
    assert "retries: 1" in text(models)
    assert "limits: {rpm: 31}" in text(models)


def test_a_key_is_not_taken_into_the_sources(home: Home) -> None:
    done = home.ctl("gateway", "set", "providers.openai.key", "sk-proj-Zm9vYmFyYmF6cXV4MTIzNDU2Nzg5")
    assert done.code == ExitCode.REFUSED
    assert home.told(["sk-proj-Zm9vYmFyYmF6cXV4MTIzNDU2Nzg5"]) == []


# -- importing ------------------------------------------------------------------------------------------------------

HAND_WRITTEN = """
model_list:
  - model_name: gpt
    litellm_params: {model: openai/gpt-4o, api_key: sk-proj-Zm9vYmFyYmF6cXV4MTIzNDU2Nzg5}
  - model_name: local
    litellm_params: {model: openai/x, api_base: http://127.0.0.1:8009/v1, api_key: os.environ/LOCAL_KEY}
litellm_settings: {fallbacks: [{gpt: [local]}]}
general_settings: {master_key: os.environ/LITELLM_MASTER_KEY}
"""


def test_import_moves_keys_into_the_environment_file(home: Home, tmp_path: Path) -> None:
    secret = "sk-proj-Zm9vYmFyYmF6cXV4MTIzNDU2Nzg5"
    (tmp_path / "hand.env").write_text(HAND_WRITTEN)  # A name that the search for secrets passes over.
    refused = home.ctl("gateway", "import", "hand.env")
    assert (refused.code, "has providers.yaml" in refused.err) == (ExitCode.REFUSED, True)
    done = home.ctl("gateway", "import", "hand.env", "--into", "imported")
    assert done.code == 0, done.out + done.err
    assert "keys that stood in the file are in" in done.out
    moved = [name for name, value in home.keys().items() if value == secret]
    assert len(moved) == 1
    assert moved[0] in text(tmp_path / "imported/providers.yaml")
    assert home.env_file.stat().st_mode & 0o777 == 0o600
    out = home.ctl("gateway", "generate", "--sources", "imported", "--output", "-", *QUIET)
    assert f"      api_key: os.environ/{moved[0]}\n" in out.out or out.code == ExitCode.REFUSED
    assert home.told([secret]) == []
    assert home.ctl("gateway", "import", "hand.env", "--force").code == 0
    missing = home.ctl("gateway", "import", "nowhere.yaml", "--into", "x")
    assert (missing.code, "cannot read nowhere.yaml" in missing.err) == (1, True)


def test_import_takes_a_regular_file_alone(home: Home, tmp_path: Path) -> None:
    """A pipe would be waited for, and a device has no end."""
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "/dev/zero", "."):
        done = home.run("gateway", "import", name, "--into", "imported", timeout=30.0)
        assert (done.code, done.err.startswith(f"agentctl: cannot read {name}: ")) == (ExitCode.FAILED, True), done.err
    assert not (tmp_path / "imported").exists()


# -- generating -----------------------------------------------------------------------------------------------------


def test_generate_writes_once_and_says_what_is_next(home: Home) -> None:
    dry = home.ctl("gateway", "generate", "--dry-run", *QUIET)
    assert (dry.code, home.generated.exists()) == (0, False)
    assert "+  - model_name: qwen\n" in dry.out
    assert "left out  provider openai: it is disabled" in dry.out
    first = home.run("gateway", "generate", *QUIET)
    assert first.code == 0
    assert "\nput it to use with: agentctl gateway apply\n" in first.out, "nothing older runs"
    assert home.generated.stat().st_mode & 0o777 == 0o600
    before = home.generated.stat()
    second = home.ctl("gateway", "generate", *QUIET)
    assert "is up to date" in second.out
    after = home.generated.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert home.ctl("gateway", "diff").code == 0


def test_a_change_is_shown_kept_and_taken_back(home: Home) -> None:
    home.ctl("gateway", "generate", *QUIET)
    first = text(home.generated)
    models = home.sources / "model-mappings.yaml"
    models.write_text(text(models) + "\npolicy: {retries: 1}\n" if "\npolicy:" not in text(models) else text(models))
    (home.sources / "ports.yaml").write_text(text(home.sources / "ports.yaml").replace("8001", "8011"))
    diff = home.ctl("gateway", "diff")
    assert diff.code == ExitCode.FAILED
    assert "+      api_base: http://127.0.0.1:8011/v1\n" in diff.out
    assert "model qwen changed" in diff.out
    done = home.ctl("gateway", "generate", "--json", *QUIET).json
    assert done["written"]
    assert done["kept"]
    assert [v["id"] for v in home.ctl("gateway", "rollback", "--list", "--json").json] == [done["kept"]]
    back = home.ctl("gateway", "rollback")
    assert back.code == 0, back.err
    assert text(home.generated) == first
    wrong = home.ctl("gateway", "rollback", "20000101T000000-00000000")
    assert wrong.code == ExitCode.USAGE
    assert done["kept"] in wrong.err + str(wrong.out)


def test_an_edit_by_hand_is_not_lost(home: Home) -> None:
    home.ctl("gateway", "generate", *QUIET)
    edited = text(home.generated).replace("num_retries: 2", "num_retries: 7")
    home.generated.write_text(edited)
    refused = home.ctl("gateway", "generate", *QUIET)
    assert refused.code == ExitCode.REFUSED
    assert "-  num_retries: 7\n" in refused.out
    assert "somebody edited it" in refused.err
    assert text(home.generated) == edited
    forced = home.ctl("gateway", "generate", "--force", "--json", *QUIET).json
    assert forced["written"]
    assert "num_retries: 2" in text(home.generated)
    home.ctl("gateway", "rollback", forced["kept"])
    assert text(home.generated) == edited


def test_wrong_sources_write_nothing(home: Home) -> None:
    home.ctl("gateway", "generate", *QUIET)
    before = text(home.generated)
    (home.sources / "providers.yaml").write_text("providers: [\n")
    done = home.ctl("gateway", "generate", *QUIET)
    assert done.code == ExitCode.REFUSED
    assert "providers.yaml:" in done.out
    assert text(home.generated) == before
    assert home.ctl("gateway", "diff").code == ExitCode.REFUSED


def test_output_elsewhere(home: Home, tmp_path: Path) -> None:
    out = home.ctl("gateway", "generate", "--output", "-", *QUIET)
    assert out.out.startswith("# ")
    assert home.ctl("gateway", "generate", "--output", "aside/x.yaml", *QUIET).code == 0
    assert text(tmp_path / "aside/x.yaml") == out.out
    assert not home.generated.exists()


def test_two_at_once_end_with_one_whole_file(home: Home) -> None:
    running = [home.start("gateway", "generate", *QUIET) for _ in range(4)]
    ended = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0] * 4, ended
    assert "is up to date" in home.ctl("gateway", "generate", *QUIET).out
    assert [p.name for p in home.generated.parent.iterdir() if ".new" in p.name] == []


def limited() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256, 256))


def test_a_full_disk_leaves_the_file(home: Home) -> None:
    home.ctl("gateway", "generate", *QUIET)
    before = text(home.generated)
    (home.sources / "ports.yaml").write_text(text(home.sources / "ports.yaml").replace("8001", "8011"))
    done = home.run("gateway", "generate", *QUIET, preexec=limited)
    assert done.code == ExitCode.FAILED
    assert done.err.startswith("agentctl: cannot write ")
    assert text(home.generated) == before


def test_a_place_that_is_a_directory(home: Home) -> None:
    home.generated.mkdir(parents=True)
    done = home.ctl("gateway", "generate", *QUIET)
    assert done.code == ExitCode.FAILED
    assert str(home.generated) in done.err


def test_killed_at_a_random_moment_leaves_old_or_new(home: Home) -> None:
    home.ctl("gateway", "generate", *QUIET)
    old = text(home.generated)
    (home.sources / "ports.yaml").write_text(text(home.sources / "ports.yaml").replace("8001", "8011"))
    new = home.ctl("gateway", "generate", "--output", "-", *QUIET).out
    process = home.start("gateway", "generate", *QUIET)
    versions = home.generated.parent / ".litellm-unified.versions"
    while process.poll() is None and not (versions.exists() and list(versions.iterdir())):
        os.sched_yield()
    process.kill()
    process.communicate(timeout=30)
    assert text(home.generated) in (old, new)
    assert home.ctl("gateway", "generate", *QUIET).code == 0
    assert text(home.generated) == new
