"""The system's Redis, as Debian ships it, kept by agentd of an ordinary user: what it may see, and what it says of the
rest. As root, who alone can set this up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from system.guest.machine import AGENTCTL, CONFIG, HOME, PRODUCTS, Machine, as_ai, as_sudo, run, user_systemctl

KEYS = 1000
PASSWORD = "4f1b7c0de9a2"
NARROW = "resetkeys +info +config|get +config|set +config|rewrite +bgsave +bgrewriteaof"
ADMIN = ("--user", "root", "--pass", "of-the-test")
DROPIN = HOME / ".config/systemd/user/agentd.service.d/50-credential.conf"


@pytest.fixture(scope="module", params=[p for p in PRODUCTS if p.installed], ids=lambda p: p.account)
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    made = Machine(request.param)
    made.install()
    yield made
    made.remove()


def test_a_stranger_enforces_and_says_what_it_cannot_see(machine: Machine) -> None:
    """Not in the group: the run time by CONFIG SET, the file by CONFIG REWRITE, and no claim about the next start."""
    machine.fresh()
    assert machine.get("appendonly") == "no"
    machine.start_agentd()
    found = machine.becomes("runtime-only")
    assert (found["runtime"], found["file"], found["proven"]) == (True, None, True)
    assert machine.get("appendonly") == "yes"
    file = str(machine.product.config_file)
    (said,) = (f for f in found["findings"] if f["severity"] in ("warning", "error"))
    assert file in said["cause"] + said["fix"], said
    assert f"agentctl redis persist {file}" in said["fix"], said
    assert machine.agentctl("verify").code == 1
    assert machine.agentctl("enforce").code == 6
    assert "\nappendonly yes\n" in machine.product.config_file.read_text()
    machine.seed(KEYS, prefix="later")
    machine.restart()
    assert machine.keys() == 2 * KEYS
    assert machine.get("appendonly") == "yes"
    assert machine.get("save") == "3600 1 300 100 60 10000"
    machine.becomes("runtime-only")


def test_root_looks_and_writes(machine: Machine) -> None:
    machine.fresh()
    file = str(machine.product.config_file)
    refused = as_sudo(AGENTCTL, "redis", "persist", file, "--apply")
    assert refused.code == 3, refused
    assert "appendonly yes" not in machine.product.config_file.read_text().splitlines()
    machine.start_agentd()
    machine.becomes("runtime-only")
    done = as_sudo(AGENTCTL, "redis", "persist", file)
    assert done.code == 0, done.out
    assert machine.product.unit in done.out
    assert "the next start reads what the policy wants" in done.out
    text = machine.product.config_file.read_text()
    machine.product.config_file.write_text(text.replace("\nappendonly yes\n", "\nappendonly no\n"))
    assert as_sudo(AGENTCTL, "redis", "persist", file).code == 1
    done = as_sudo(AGENTCTL, "redis", "persist", file, "--apply")
    assert done.code == 0, done.out
    about = machine.product.config_file.stat()
    assert about.st_mode & 0o777 == 0o640
    assert machine.product.config_file.owner() == machine.product.account
    machine.restart()
    assert machine.keys() == KEYS
    assert machine.get("appendonly") == "yes"


def test_an_acl_user_with_its_password(machine: Machine) -> None:
    """The rights that the documentation gives it are enough, by a file and by a credential of its unit."""
    machine.fresh(config=CONFIG + 'user = "agentd"\npassword_file = "~/.config/agentd/redis.password"\n')
    only_by_password(machine)
    secret = HOME / ".config/agentd/redis.password"
    machine.own(secret, PASSWORD + "\n")
    machine.start_agentd()
    machine.becomes("runtime-only")
    machine.restart()
    assert machine.keys() == KEYS
    machine.becomes("runtime-only")
    # The same password, handed over by systemd.
    secret.rename(HOME / "redis.password")
    machine.own(HOME / ".config/agentd/agentd.toml", CONFIG + 'user = "agentd"\npassword_credential = "redis"\n')
    machine.own(DROPIN, f"[Service]\nLoadCredential=redis:{HOME}/redis.password\n", 0o644)
    try:
        machine.restart_agentd()
        machine.becomes("runtime-only")
        journal = run("journalctl", "--no-pager", f"_UID={HOME.stat().st_uid}").out
        shown = "".join(as_ai(AGENTCTL, *words).out for words in (("config", "show"), ("redis", "status", "--json")))
        assert PASSWORD not in journal + shown
        assert machine.cli("ACL", "SETUSER", "agentd", "resetpass", ">another") == "OK"
        machine.cli("CLIENT", "KILL", "USER", "agentd")
        refused = machine.agentctl("verify", "--json")
        assert refused.code == 1
        assert refused.json[0]["durability"] == "unreachable"
    finally:
        DROPIN.unlink()
        (HOME / "redis.password").unlink()
        user_systemctl("daemon-reload")


def only_by_password(machine: Machine) -> None:
    """Nobody gets in without one; kept in the server's own file."""
    assert machine.cli("ACL", "SETUSER", "root", "on", f">{ADMIN[-1]}", "~*", "&*", "+@all") == "OK"
    machine.login = ADMIN
    assert machine.cli("ACL", "SETUSER", "agentd", "on", f">{PASSWORD}", *NARROW.split()) == "OK"
    assert machine.cli("ACL", "SETUSER", "default", "off") == "OK"
    assert machine.cli("CONFIG", "REWRITE") == "OK"


def test_a_member_of_the_group_sees_all(machine: Machine) -> None:
    """Last: the user's manager has to be started anew for it."""
    machine.join_group()
    machine.fresh()
    machine.start_agentd()
    found = machine.becomes("durable")
    assert found["file"] is True
    assert machine.agentctl("verify").code == 0
    done = machine.agentctl("backup")
    assert done.code == 0, done
    (backup,) = Path(HOME / ".local/state/agentd/backups").iterdir()
    assert {p.name for p in backup.iterdir()} >= {"dump.rdb", "backup.json", "appendonlydir"}
    done = machine.agentctl("drill")
    assert done.code == 0, done
    # What a human writes is not taken back by a CONFIG REWRITE, and a file of another owner is not replaced.
    file = machine.product.config_file
    file.write_text(file.read_text().replace("\nappendonly yes\n", "\nappendonly no\n"))
    said = [f for f in machine.becomes("runtime-only")["findings"] if f["severity"] == "error"]
    assert [f["aspect"] for f in said] == ["file:appendonly"]
    assert f"agentctl redis persist {file} --apply" in said[0]["fix"]
    assert machine.agentctl("enforce").code == 6
    assert as_sudo(AGENTCTL, "redis", "persist", str(file), "--apply").code == 0
    machine.becomes("durable")
    machine.restart()
    assert machine.keys() == KEYS
    machine.becomes("durable")
    assert machine.agentctl("drill").code == 0


@pytest.mark.parametrize("machine", PRODUCTS[:1], indirect=True, ids=lambda p: p.account)
def test_a_drill_of_more_than_agentd_may_use(machine: Machine) -> None:
    """The server of a drill is not held to agentd's own limit of memory, nor does it take agentd along."""
    if not machine.member:
        machine.join_group()
    machine.fresh()
    script = "for i = 1, 450 do redis.call('SET', 'big:' .. i, string.rep(tostring(i), 262144)) end"
    machine.cli("EVAL", script, "0")
    machine.start_agentd()
    machine.becomes("durable", 120)
    before = user_systemctl("show", "-P", "InvocationID", "agentd.service")
    done = machine.agentctl("drill")
    after = user_systemctl("show", "-P", "InvocationID", "agentd.service")
    assert (done.code, after) == (0, before), done
