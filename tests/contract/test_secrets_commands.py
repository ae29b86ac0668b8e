"""agentctl secrets on real files: keys are made once, found different, rotated whole, and never shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakegateway import fake_gateway
from gatewayhome import Home

from agentd.core.gateway import env_text, keys
from agentd.types import ExitCode

CONFIG = """
[gateway]
client_env_files = ["{home}/webui.env:OPENAI_API_KEY"]
[slots.gpu0]
[services.qwen]
unit = "vllm-qwen.service"
role = "model"
url = "http://127.0.0.1:8001"
[services.qwen.model]
slot = "gpu0"
served_name = "qwen"
api_key_file = "{home}/.config/agentd/vllm.env"
[services.dolphin]
unit = "vllm-dolphin.service"
role = "model"
url = "http://127.0.0.1:8002"
[services.dolphin.model]
slot = "gpu0"
served_name = "dolphin"
[services.litellm]
unit = "litellm.service"
role = "gateway"
url = "{url}"
"""
UNIT = "[Service]\nEnvironmentFile=-%h/.config/agentd/dolphin.env\nExecStart=/bin/true\n"


class Keys(Home):
    """With a client, and one server whose key file agentd knows and one that has it from its unit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.put_sources()
        self.client = self.path / "webui.env"
        self.servers = (self.config / "vllm.env", self.config / "dolphin.env")
        units = self.path / ".config/systemd/user"
        units.mkdir(parents=True)
        (units / "vllm-dolphin.service").write_text(UNIT)
        self.gateway("http://127.0.0.1:9")

    def gateway(self, url: str) -> None:
        self.put_config(CONFIG.format(home=self.path, url=url))

    def all(self) -> dict[str, str]:
        """Every place with its key."""
        found = {f"gateway {k}": v for k, v in self.keys().items()}
        for path in (*self.servers, self.client):
            if path.exists():
                found |= {f"{path.name} {k}": v for k, v in env_text.parse(path.read_text()).items()}
        return found


@pytest.fixture
def home(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


def test_init_makes_every_key_once(home: Keys) -> None:
    home.client.write_text("# of the web UI\nTHEME=dark\n")
    home.client.chmod(0o600)
    done = home.ctl("secrets", "init")
    assert done.code == 0
    first = home.all()
    master, server = first["gateway LITELLM_MASTER_KEY"], first["gateway VLLM_API_KEY"]
    assert keys.strength(master) == keys.strength(server) == ""
    assert master != server
    assert first == {
        "gateway LITELLM_MASTER_KEY": master,
        "gateway VLLM_API_KEY": server,
        "vllm.env VLLM_API_KEY": server,
        "dolphin.env VLLM_API_KEY": server,
        "webui.env THEME": "dark",
        "webui.env OPENAI_API_KEY": master,
    }
    assert {path.stat().st_mode & 0o777 for path in (home.env_file, *home.servers)} == {0o600}
    stamps = [path.stat().st_mtime_ns for path in (home.env_file, *home.servers, home.client)]
    again = home.ctl("secrets", "init", "--json")
    assert [made["what"] for made in again.json] == ["kept", "kept"]
    assert [path.stat().st_mtime_ns for path in (home.env_file, *home.servers, home.client)] == stamps
    assert home.ctl("secrets", "check", "--no-network").code == 0
    assert home.told([master, server]) == []
    assert master in home.ctl("secrets", "init", "--show").out


def test_init_copies_what_is_there_and_repairs_the_mode(home: Keys) -> None:
    mine = keys.make(bytes(range(32)))
    home.env_file.write_text(f"# mine\nVLLM_API_KEY={mine}\n")
    home.env_file.chmod(0o644)
    assert home.ctl("secrets", "init").code == 0
    assert home.all()["vllm.env VLLM_API_KEY"] == home.all()["dolphin.env VLLM_API_KEY"] == mine
    assert home.env_file.read_text().startswith(f"# mine\nVLLM_API_KEY={mine}\nLITELLM_MASTER_KEY=sk-")
    assert home.env_file.stat().st_mode & 0o777 == 0o600


def test_init_does_not_choose_between_two_keys_nor_replace_a_weak_one(home: Keys) -> None:
    home.env_file.write_text("LITELLM_MASTER_KEY=sk-1234\nVLLM_API_KEY=one-key-of-the-servers\n")
    home.servers[0].write_text("VLLM_API_KEY=another-key-of-the-servers\n")
    done = home.ctl("secrets", "init")
    assert done.code == ExitCode.FAILED
    assert "it is an example that everybody knows" in done.out
    assert "it is not the same everywhere" in done.out
    assert home.keys()["LITELLM_MASTER_KEY"] == "sk-1234"
    assert home.told(["one-key-of-the-servers", "another-key-of-the-servers"]) == []


def test_check_says_what_is_wrong_where(home: Keys) -> None:
    home.servers[0].write_text(f"VLLM_API_KEY={keys.make(bytes(range(32)))}\n")
    first = home.ctl("secrets", "check", "--no-network")
    assert (first.code, "the same as" in first.out) == (ExitCode.FAILED, False), "the gateway has none yet"
    assert f"{home.servers[0]} (VLLM_API_KEY): there is one, and the gateway has none" in first.out
    home.ctl("secrets", "init")
    home.client.write_text("OPENAI_API_KEY=sk-something-else-altogether\n")
    home.servers[1].unlink()
    home.servers[0].chmod(0o644)
    rows = home.ctl("secrets", "check", "--no-network", "--json").json["rows"]
    wrong = {
        (Path(row["where"].split(" (")[0]).name, row["text"].split(",")[0]) for row in rows if row["level"] != "ok"
    }
    assert wrong == {
        ("webui.env", "it differs from the gateway's"),
        ("dolphin.env", "the file does not exist"),
        ("vllm.env", "everybody can read it (0644)"),
    }
    assert home.told(["sk-something-else-altogether"]) == []


def test_a_file_of_two_servers_is_told_once(home: Keys) -> None:
    unit = home.path / ".config/systemd/user/vllm-dolphin.service"
    unit.write_text(UNIT.replace("dolphin.env", "vllm.env"))
    home.servers[0].write_text(f"VLLM_API_KEY={keys.make(bytes(range(32)))}\n")
    assert home.ctl("secrets", "init").code == 0
    done = home.ctl("secrets", "check", "--no-network")
    assert (done.code, done.out.count(f"{home.servers[0]} (VLLM_API_KEY): the same as the gateway's")) == (0, 1)


def test_a_plan_names_the_command_that_does_it(home: Keys) -> None:
    home.ctl("secrets", "init")
    plan = home.ctl("secrets", "rotate", "--dry-run", "--master", "--overlap").out
    assert plan.endswith("do it with: agentctl secrets rotate --master --overlap\n")
    assert "after agentctl secrets rotate --finish: " in plan


def test_check_asks_the_gateway_with_the_right_a_wrong_and_no_key(home: Keys) -> None:
    home.ctl("secrets", "init")
    master = home.keys()["LITELLM_MASTER_KEY"]
    with fake_gateway(master) as gateway:
        home.gateway(gateway.url)
        done = home.ctl("secrets", "check")
        assert done.code == 0, done.out
        assert [text.rsplit(": ", 2)[1:] for text in done.out.splitlines()[-3:]] == [
            ["the right key", "200"], ["a wrong key", "400"], ["no key", "401"],
        ]  # fmt: skip
        assert [key for _, _, key in gateway.asked][::2] == [master, ""]
        gateway.open = True
        opened = home.ctl("secrets", "check")
        assert (opened.code, opened.out.count("200, not 40")) == (ExitCode.FAILED, 2)
        gateway.open, gateway.keys = False, {"sk-other"}
        stale = home.ctl("secrets", "check")
        assert "the right key: 400, not 200" in stale.out
    assert home.told([master]) == []


def test_rotate_writes_new_keys_everywhere(home: Keys) -> None:
    home.ctl("secrets", "init")
    before = home.all()
    plan = home.ctl("secrets", "rotate", "--dry-run")
    assert plan.code == 0
    assert home.all() == before
    assert home.ctl("secrets", "rotate", "--vllm").code == 0
    after = home.all()
    assert {place for place in after if after[place] != before[place]} == {
        "gateway VLLM_API_KEY", "vllm.env VLLM_API_KEY", "dolphin.env VLLM_API_KEY",
    }  # fmt: skip
    assert home.ctl("secrets", "rotate", "--json").json == {"result": "rotated"}
    assert all(home.all()[place] != before[place] for place in before)
    assert home.ctl("secrets", "check", "--no-network").code == 0
    assert home.told([*before.values(), *after.values(), *home.all().values()]) == []
    assert sorted(p.name for p in (home.path / ".local/state/agentd/secrets").iterdir()) == ["files.json.lock", "lock"]


def test_overlap_is_left_open_and_finished(home: Keys) -> None:
    home.ctl("secrets", "init")
    old = home.keys()["LITELLM_MASTER_KEY"]
    assert home.ctl("secrets", "rotate", "--master", "--overlap", "--json").json == {"result": "overlap"}
    assert home.keys()[keys.PREVIOUS] == old
    assert home.all()["webui.env OPENAI_API_KEY"] == home.keys()["LITELLM_MASTER_KEY"] != old
    check = home.ctl("secrets", "check", "--no-network")
    assert "the old master key is still accepted; end that with: agentctl secrets rotate --finish\n" in check.out
    assert home.ctl("secrets", "rotate", "--finish").code == 0
    assert f"gateway {keys.PREVIOUS}" not in home.all()
    assert "nothing is open" in home.ctl("secrets", "rotate", "--finish").out
    record = home.path / ".local/state/agentd/secrets/rotation.json"
    assert not record.exists()


def test_a_gateway_that_nobody_can_restart_gets_its_old_key_back(home: Keys) -> None:
    home.ctl("secrets", "init")
    before = home.all()
    with fake_gateway(before["gateway LITELLM_MASTER_KEY"]) as gateway:
        home.gateway(gateway.url)
        done = home.ctl("secrets", "rotate", "--master")
    assert done.code == ExitCode.ROLLED_BACK
    assert "cannot restart litellm.service (user scope): " in done.err
    assert "the old keys are back" in done.err
    assert home.all() == before
    assert home.told(list(before.values())) == []


def test_a_rotation_that_was_killed_is_taken_back_by_the_next(home: Keys) -> None:
    home.ctl("secrets", "init")
    before = home.all()
    master = before["gateway LITELLM_MASTER_KEY"]
    with fake_gateway(master) as gateway:
        home.gateway(gateway.url)
        gateway.hold = True
        process = home.start("secrets", "rotate", "--master")
        gateway.held.wait(30)
        process.kill()
        process.communicate(timeout=30)
        gateway.hold = False
        gateway.release.set()
    assert home.keys()["LITELLM_MASTER_KEY"] != master
    assert home.all()["webui.env OPENAI_API_KEY"] == home.keys()[keys.PREVIOUS] == master
    record = home.path / ".local/state/agentd/secrets/rotation.json"
    assert record.exists()
    assert record.stat().st_mode & 0o777 == 0o600
    assert "a rotation was cut off (written)" in home.ctl("secrets", "check", "--no-network").out
    done = home.ctl("secrets", "rotate", "--master")
    assert done.code == 0, done.err
    assert "an earlier rotation is still open, in the phase written" in done.out
    assert home.keys()["LITELLM_MASTER_KEY"] == home.all()["webui.env OPENAI_API_KEY"] != master
    assert not record.exists()


def test_a_key_whose_server_is_not_known_is_not_rotated(home: Keys) -> None:
    home.put_config("")
    home.ctl("secrets", "init")
    before = home.all()
    done = home.ctl("secrets", "rotate")
    assert done.code == ExitCode.REFUSED
    assert (
        "cannot rotate VLLM_API_KEY: nobody knows where the server of vllm-qwen, vllm-dolphin has its key" in done.err
    )
    assert home.all() == before
    assert "provider vllm-qwen: nobody knows where" in home.ctl("secrets", "check", "--no-network").out
    assert home.ctl("secrets", "rotate", "--master").code == 0


def test_a_server_that_answers_and_cannot_be_restarted_keeps_its_key(home: Keys) -> None:
    home.ctl("secrets", "init")
    before = home.all()
    with fake_gateway(before["gateway VLLM_API_KEY"]) as server:
        config = (home.config / "agentd.toml").read_text().replace("http://127.0.0.1:8001", server.url)
        home.put_config(config)
        done = home.ctl("secrets", "rotate", "--vllm")
    assert done.code == ExitCode.DEGRADED, done.err
    assert "cannot stop vllm-qwen.service (user scope): " in done.err
    assert home.all() == before


def test_two_rotations_at_once(home: Keys) -> None:
    home.ctl("secrets", "init")
    running = [home.start("secrets", "rotate") for _ in range(3)]
    for process in running:
        process.communicate(timeout=60)
    assert home.ctl("secrets", "check", "--no-network").code == 0


def test_usage(home: Keys) -> None:
    assert home.ctl("secrets", "rotate", "--finish", "--master").code == ExitCode.USAGE
    assert home.ctl("secrets", "rotat").code == ExitCode.USAGE
