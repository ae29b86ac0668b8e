"""agentctl redis persist, with real servers: it says what the next start reads, and no start ever begins empty."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redisserver import RedisServer

from agentd import offline_redis_file, offline_redis_server
from agentd.adapters.user_manager import Account
from agentd.errors import AgentdError
from agentd.offline_redis_file import FileReport, check

KEYS = 200
NO_AOF = "appendonly no\nsave 900 1"
Make = Callable[..., RedisServer]


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "config"
    directory.mkdir()
    monkeypatch.setenv("AGENTD_CONFIG_DIR", str(directory))
    monkeypatch.delenv("SUDO_USER", raising=False)
    return directory


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[RedisServer] = []

    def new(conf: str = NO_AOF, **options: object) -> RedisServer:
        server = RedisServer(tmp_path / f"redis{len(made)}", conf, **options)  # type: ignore[arg-type]
        made.append(server)
        return server

    yield new
    for server in made:
        server.kill()


def persist(server: RedisServer, *, apply: bool = False) -> FileReport:
    return check(str(server.config_file), apply=apply)


def switch_on(server: RedisServer) -> None:
    """The order that loses nothing: at run time first, until the append-only file is whole."""
    server.set(appendonly="yes")
    while server.info("aof_rewrite_in_progress") != "0" or server.info("aof_rewrite_scheduled") != "0":
        time.sleep(0.01)  # A rewrite tells nobody when it ends.


def refused(server: RedisServer) -> str:
    """Why it may not be applied; the file is as it was."""
    before = server.config_file.read_bytes()
    with pytest.raises(AgentdError) as caught:
        persist(server, apply=True)
    assert caught.value.kind == "redis-refused-state"
    assert "agentctl redis enforce" in caught.value.hint
    assert server.config_file.read_bytes() == before
    assert [p.name for p in server.folder.iterdir() if ".agentd-" in p.name] == []
    assert persist(server).refused in caught.value.message
    return caught.value.message


# -- what must never be done ------------------------------------------------------------------------------------------


def test_off_in_the_running_server_is_refused(make: Make) -> None:
    server = make().start()
    server.seed(KEYS)
    assert "has its append-only file off, so the next start would ignore the RDB" in refused(server)
    server.restart()
    assert server.keys() == KEYS


def test_an_old_append_only_file_that_is_newer_than_the_rdb_is_no_excuse(make: Make) -> None:
    """Off again at run time: what is written from now on would be lost to the old file at the next start."""
    server = make().start()
    server.seed(KEYS)
    switch_on(server)
    server.set(appendonly="no")
    assert "off" in refused(server)


def test_during_the_first_rewrite_it_is_refused(make: Make) -> None:
    server = make(NO_AOF + "\nrdb-key-save-delay 100000").start()
    server.seed(KEYS)
    server.set(appendonly="yes")
    assert "not proven usable" in refused(server)


def test_a_server_that_cannot_be_asked_is_refused(make: Make) -> None:
    server = make(password="hunter2hunter2").start()
    server.seed(KEYS)
    switch_on(server)
    message = refused(server)
    assert "cannot be asked" in message
    assert "hunter2" not in message


def test_stopped_with_an_rdb_alone_is_refused(make: Make) -> None:
    server = make().start()
    server.seed(KEYS)
    server.stop()
    assert "no manifest" in refused(server)
    server.start()
    assert server.keys() == KEYS


def test_stopped_with_an_rdb_that_is_newer_is_refused(make: Make) -> None:
    """A clean stop saves last, so it is not known whether the append-only file has the same."""
    server = make().start()
    server.seed(KEYS)
    switch_on(server)
    server.set(appendonly="no")
    server.seed(KEYS, prefix="later")
    server.stop()
    assert "is newer than the append-only file" in refused(server)
    server.start()
    assert server.keys() == 2 * KEYS


def test_stopped_and_never_used_is_refused_as_well(make: Make) -> None:
    assert "no manifest" in refused(make())


def test_places_that_the_server_does_not_use_are_refused(make: Make) -> None:
    server = make().start()
    server.seed(KEYS)
    switch_on(server)
    with server.config_file.open("a") as stream:
        stream.write("appenddirname elsewhere\n")
    assert 'appenddirname is "elsewhere" in the file' in refused(server)


def test_what_is_not_certain_is_not_edited(make: Make) -> None:
    server = make().start()
    server.seed(KEYS)
    switch_on(server)
    with server.config_file.open("a") as stream:
        stream.write(f"include {server.folder}/missing.conf\n")
    assert "not certain" in refused(server)


# -- what is done -----------------------------------------------------------------------------------------------------


def test_after_the_switch_the_file_is_edited_and_the_next_start_has_every_key(make: Make) -> None:
    server = make(f"# mine\n{NO_AOF}\nmaxmemory-policy noeviction").start()
    server.seed(KEYS)
    switch_on(server)
    old = server.config_file.read_text()
    seen = persist(server)
    assert (seen.applied, seen.refused, server.config_file.read_text()) == (False, "", old)
    line = next(line for line in seen.lines if line.name == "appendonly")
    assert (line.value, line.wanted, line.ok) == ("no", "yes", False)
    assert line.source.startswith(f"{server.config_file}:")
    assert "its append-only file is on" in seen.server
    done = persist(server, apply=True)
    assert done.applied
    assert done.edits == seen.edits
    assert all(line.ok for line in done.lines)
    assert Path(done.backup).read_text() == old
    assert server.config_file.stat().st_mode & 0o777 == 0o640
    new = server.config_file.read_text().splitlines()
    assert {"# mine", "maxmemory-policy noeviction"} <= set(new)
    changed = [row for row in new if row not in old.splitlines()]
    assert {row.split()[0] for row in changed if row and not row.startswith("#")} <= {"appendonly", "save"}
    server.kill()
    server.start()
    assert (server.keys(), server.get("appendonly")) == (KEYS, "yes")
    assert server.get("save") == "3600 1 300 100 60 10000"
    again = persist(server, apply=True)
    assert (again.edits, again.applied, again.backup) == ((), False, "")


def test_an_include_that_says_otherwise_is_overruled(make: Make) -> None:
    server = make()
    late = server.folder / "late.conf"
    late.write_text("appendonly no\n")
    with server.config_file.open("a") as stream:
        stream.write(f"include {late}\n")
    server.start()
    server.seed(KEYS)
    switch_on(server)
    assert next(line for line in persist(server).lines if line.name == "appendonly").source == f"{late}:1"
    persist(server, apply=True)
    assert late.read_text() == "appendonly no\n"
    server.kill()
    server.start()
    assert (server.keys(), server.get("appendonly")) == (KEYS, "yes")


def test_stopped_with_an_append_only_file_that_is_newest_is_edited(make: Make) -> None:
    server = make('appendonly no\nsave ""').start()
    server.seed(KEYS)
    with server.client() as client:
        client.save()
    switch_on(server)
    server.kill()
    old = (server.data / "dump.rdb").stat().st_mtime - 5
    os.utime(server.data / "dump.rdb", (old, old))
    assert persist(server, apply=True).applied
    server.start()
    assert (server.keys(), server.get("appendonly")) == (KEYS, "yes")


def test_what_is_dangerous_already_is_told(make: Make) -> None:
    server = make("appendonly yes").start()
    server.seed(KEYS)
    server.set(appendonly="no")
    found = persist(server)
    assert found.refused == ""
    assert any(text.startswith("do not restart it now: the running server has") for text in found.problems)


def test_a_policy_without_an_append_only_file_asks_for_no_proof(make: Make, config: Path) -> None:
    (config / "agentd.toml").write_text("[redis]\nappendonly = false\n")
    server = make(NO_AOF).start()
    done = persist(server, apply=True)
    assert (done.applied, all(line.ok for line in done.lines)) == (True, True)


# -- who asks, and whom -----------------------------------------------------------------------------------------------


def test_a_configured_store_is_asked_with_its_password(make: Make, config: Path) -> None:
    server = make(password="hunter2hunter2").start()
    server.seed(KEYS)
    switch_on(server)
    secret = config / "secret"
    secret.write_text("hunter2hunter2\n")
    secret.chmod(0o600)
    (config / "agentd.toml").write_text(f'[redis]\nurl = "{server.url}"\npassword_file = "{secret}"\n')
    done = persist(server, apply=True)
    assert done.applied
    assert "hunter2" not in repr(done)
    server.kill()
    server.start()
    assert server.keys() == KEYS
    secret.unlink()
    assert "cannot be asked" in persist(server).server


def test_another_server_at_the_address_is_not_taken_for_it(make: Make) -> None:
    other = make().start()
    ours = make()
    text = ours.config_file.read_text().replace(str(ours.socket), str(other.socket))
    ours.config_file.write_text(text)
    found = persist(ours)
    assert "or it has another file" in found.server
    assert found.refused


def test_a_server_of_a_container_is_not_taken_for_it(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names a file of the same path, and a pid that is another process here, or none."""
    server = make().start()
    server.seed(KEYS)
    switch_on(server)
    assert offline_redis_server._here(server.pid)
    assert not offline_redis_server._here(os.getpid())
    assert not offline_redis_server._here(0)
    monkeypatch.setattr(offline_redis_server, "_here", lambda _: False)
    assert "is no process of this machine" in refused(server)


def test_under_sudo_secrets_are_read_with_the_rights_of_the_caller(
    make: Make, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = config / "secret"
    secret.write_text("x\n")
    (config / "agentd.toml").write_text(f'[redis]\nurl = "redis://127.0.0.1:1"\npassword_file = "{secret}"\n')
    inside: list[str] = []
    read_inside: list[bool] = []

    @contextmanager
    def rights_of(who: Account) -> Iterator[None]:
        inside.append(who.name)
        yield
        inside.pop()

    original = offline_redis_file.password_source

    def source(file: str, credential: str) -> Callable[[], str]:
        found = original(file, credential)
        assert found is not None

        def read() -> str:
            read_inside.append(bool(inside))
            return found()

        return read

    me = pwd.getpwuid(os.getuid()).pw_name
    monkeypatch.setattr(offline_redis_file, "rights_of", rights_of)
    monkeypatch.setattr(offline_redis_file, "password_source", source)
    monkeypatch.setattr(offline_redis_file, "_caller", lambda: offline_redis_file.account(me))
    persist(make())
    assert read_inside == [True]


def fake_busctl(folder: Path, *argv: str) -> str:
    """A PATH on which systemd says that a unit starts this."""
    folder.mkdir()
    commands = [[argv[0], list(argv), False, 0, 0, 0, 0, 0, 0, 0]]
    lines = [json.dumps({"type": "a(sasbttttuii)", "data": commands}), json.dumps({"type": "u", "data": 0})]
    program = folder / "busctl"
    program.write_text("#!/bin/sh\ncat <<'END'\n" + "\n".join(lines) + "\nEND\n")
    program.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_arguments_of_the_unit_win_and_are_named(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = make(arguments=["--appendonly", "no"]).start()
    server.seed(KEYS)
    switch_on(server)
    words = ("/usr/bin/redis-server", str(server.config_file), "--appendonly", "no")
    monkeypatch.setenv("PATH", fake_busctl(tmp_path / "bin", *words))
    found = check(str(server.config_file), "redis-server")
    assert found.unit == "redis-server.service"
    line = next(line for line in found.lines if line.name == "appendonly")
    assert (line.value, line.source, line.ok) == ("no", "ExecStart=", False)
    assert any("--appendonly no" in text for text in found.impossible)


def test_a_unit_that_does_not_exist(make: Make) -> None:
    with pytest.raises(AgentdError) as caught:
        check(str(make().config_file), "no-such-unit")
    assert (caught.value.kind, "no-such-unit.service" in caught.value.message) == ("unit-not-found", True)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AgentdError) as caught:
        check(str(tmp_path / "none.conf"))
    assert (caught.value.kind, "no such file" in caught.value.message) == ("file-unreadable", True)


# -- as a command -----------------------------------------------------------------------------------------------------


def ctl(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "agentd.cli.main", "redis", "persist", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_command(make: Make) -> None:
    server = make().start()
    server.seed(KEYS)
    file = str(server.config_file)
    first = ctl(file, "--apply")
    assert first.returncode == 3
    assert "agentctl redis enforce" in first.stderr
    seen = ctl(file)
    assert seen.returncode == 3
    assert "refused: the running server has its append-only file off" in seen.stdout
    switch_on(server)
    seen = ctl(file)
    assert (seen.returncode, seen.stderr) == (1, "")
    rows = [line.split() for line in seen.stdout.splitlines()]
    assert any(row[:4] == ["!", "appendonly", "no", "yes"] for row in rows)
    assert f"To do it: sudo agentctl redis persist {file} --apply" in seen.stdout
    done = ctl(file, "--apply")
    assert "the old text is kept as" in done.stdout
    assert (done.returncode, "the file is as the policy wants" in done.stdout) == (0, True)
    report = json.loads(ctl(file, "--json").stdout)
    assert report["edits"] == []
    assert all(line["ok"] for line in report["lines"])
    server.stop(signal.SIGTERM)
    server.start()
    assert server.keys() == KEYS
