"""Configuration files that cannot be written, are not what they seem, or do not decide: what is kept, what is said."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import pytest
from elsewhere import ORDINARY, python, python_in_namespace
from redisclients import running
from redisrig import Life, Rig, aside
from redisserver import RedisServer

from agentd.errors import ConflictError
from agentd.managers.redis import heal
from agentd.stores import Durability, StoreStatus
from agentd.types import Change, ExitCode

KEYS = 500
RDB_ONLY = "appendonly no\nsave 3600 1"
OFTEN = 0.2
INSIDE = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]}
import test_redis_environments_files as tests
tests.inside(sys.argv[1:])
"""


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heal, "FIRST", OFTEN)


def inside(argv: list[str]) -> None:
    """In a process of its own: the named coroutine, on a folder."""
    heal.FIRST = OFTEN
    case: Callable[[Path], Coroutine[None, None, None]] = getattr(sys.modules[__name__], argv[0])
    asyncio.run(asyncio.wait_for(case(Path(argv[1])), 40))
    print("done")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running(tmp_path / "redis", RDB_ONLY) as made:
        seeded(made)
        yield made


def seeded(server: RedisServer) -> None:
    server.seed(KEYS)
    with server.client() as client:
        client.save()


async def seen(life: Life, durability: Durability) -> StoreStatus:
    return await life.until(lambda s: s.durability is durability and not s.enforcing)


def said(status: StoreStatus) -> dict[str, tuple[str, str]]:
    """Aspect -> (what is wrong, what to do)."""
    return {f.aspect: (f.cause, f.fix) for f in status.findings if f.severity.value in ("warning", "error")}


async def asked(life: Life) -> Change:
    """An enforcement of ours, once the watcher's own leaves room for it."""
    while True:
        with contextlib.suppress(ConflictError):
            return await life.enforce()
        await asyncio.sleep(0.01)


async def kept(life: Life, server: RedisServer) -> None:
    await life.durable()
    await aside(server.restart)
    assert (server.keys(), server.get("appendonly")) == (KEYS, "yes")


# -- where nobody may write --------------------------------------------------------------------------------------------
async def read_only_directory(folder: Path) -> None:
    with running(folder / "redis", RDB_ONLY) as server:
        seeded(server)
        os.utime(
            server.config_file, (1e9, 1e9)
        )  # Written long before the start, not in the same hundredth of a second.
        server.folder.chmod(0o500)
        async with Rig(folder / "agentd", server).running(check_every=OFTEN) as life:
            status = await seen(life, Durability.RUNTIME_ONLY)
            assert (status.runtime, status.file, status.proven) == (True, False, True)
            what, fix = said(status)["file:appendonly"]
            assert what == f'the next start would have appendonly "no", by {server.config_file}:6'
            assert fix.endswith(f"or: sudo agentctl redis persist {server.config_file} --apply")
            change = await asked(life)
            assert change.exit_code == ExitCode.DEGRADED
            refusal = f"{server.url} refuses CONFIG REWRITE: Rewriting config file: Permission denied"
            assert change.message.endswith(f"{what}; {refusal}"), change.message
            assert "appendonly no" in server.config_file.read_text()
            server.folder.chmod(0o700)
            await kept(life, server)


def test_a_read_only_directory(tmp_path: Path) -> None:
    assert "done" in python(INSIDE, "read_only_directory", str(tmp_path), prefix=ORDINARY).splitlines()


async def bind_mounted(folder: Path) -> None:
    with running(folder / "redis", RDB_ONLY) as server:
        seeded(server)
        text = server.config_file.read_text()
        async with Rig(folder / "agentd", server).running(check_every=OFTEN) as life:
            status = await seen(life, Durability.RUNTIME_ONLY)
            assert "file:appendonly" in said(status)
            (note,) = (await life.actions.plan(life.manager.store(""))).notes
            assert note.startswith("CONFIG REWRITE would do harm: ")
            assert f"{server.config_file} is a mount point, so that no new file can take its place" in note
            assert server.config_file.read_text() == text
            assert server.keys() == KEYS


def test_a_bind_mounted_file(tmp_path: Path) -> None:
    """As `docker -v redis.conf:...` makes it: nobody can put another one in its place."""
    real = tmp_path / "real.conf"
    made = RedisServer(tmp_path / "redis", RDB_ONLY)
    real.write_text(made.config_file.read_text())
    code = INSIDE.replace(
        "tests.inside", "tests.RedisServer.__init__ = tests.existing(tests.RedisServer.__init__)\ntests.inside"
    )
    script = f'mount --bind "{real}" "{made.config_file}"'
    assert "done" in python_in_namespace(script, code, "bind_mounted", str(tmp_path)).splitlines()
    assert real.read_text() == made.config_file.read_text()


def existing(init: Callable[..., None]) -> Callable[..., None]:
    """A server whose file is there already is not given another one."""

    def without_writing(self: RedisServer, folder: Path, conf: str) -> None:
        init(self, folder, config_file=False)
        self._with_file = True

    return without_writing


async def full_disk(folder: Path) -> None:
    """The data lies on 48 MiB: there is no room for twice the data set and the margin."""
    with running(folder / "redis", RDB_ONLY) as server:
        seeded(server)
        async with Rig(folder / "agentd", server).running(check_every=OFTEN) as life:
            status = await seen(life, Durability.AT_RISK)
            assert said(status)["disk"][1] == "make room on the disk"
            (refusal,) = (await life.actions.plan(life.manager.store(""))).refusals
            assert "MiB are free where it keeps its files, and " in refusal
            assert refusal.endswith("and redis.disk_margin): free space there")
            change = await asked(life)
            assert change.exit_code == ExitCode.REFUSED
            assert change.message.startswith("nothing was changed: ")
            assert change.message.endswith("and redis.disk_margin): free space there")
            assert server.get("appendonly") == "no"
            await aside(lambda: subprocess.run(["mount", "-o", "remount,size=250m", str(server.data)], check=True))
            await kept(life, server)


def test_a_small_disk(tmp_path: Path) -> None:
    (tmp_path / "redis/data").mkdir(parents=True)
    script = 'mount -t tmpfs -o size=48m tmpfs "$2/redis/data"'
    assert "done" in python_in_namespace(script, INSIDE, "full_disk", str(tmp_path)).splitlines()


async def test_a_disk_that_is_full_at_once(tmp_path: Path, server: RedisServer) -> None:
    """No file can be written any more: the save that comes first fails, and nothing else is tried."""
    server.fill_disk()
    async with Rig(tmp_path / "agentd", server).running(check_every=OFTEN) as life:
        await life.until(lambda _: bool(life.told("redis-enforce.refused")))
        assert (server.get("appendonly"), server.get("save")) == ("no", "3600 1")
        status = await life.until(lambda s: "rdb" in said(s))
        assert said(status)["rdb"][1] == (
            "make room on the disk, or let Redis write to its directory; then agentd saves again by itself"
        )
        change = await asked(life)
        assert change.message == "the RDB could not be saved: rdb_last_bgsave_status is err"
        assert "most often the disk is full" in change.cause
        server.free_disk()
        await kept(life, server)


# -- what is not what it seems -----------------------------------------------------------------------------------------
async def test_a_symbolic_link(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis", RDB_ONLY)
    real = tmp_path / "real" / "redis.conf"
    real.parent.mkdir()
    server.config_file.rename(real)
    server.config_file.symlink_to(real)
    try:
        server.start()
        seeded(server)
        async with Rig(tmp_path / "agentd", server).running(check_every=OFTEN) as life:
            await kept(life, server)
        assert server.config_file.readlink() == real
        assert "appendonly yes" in real.read_text()
        async with Rig(tmp_path / "agentd", server).running(persist="rewrite", appendfsync="always") as life:
            status = await seen(life, Durability.RUNTIME_ONLY)
            assert "file:appendfsync" in said(status)
            plan = await life.actions.plan(life.manager.store(""))
            words = f"{server.config_file} is a symbolic link: a rewrite puts a file in its place, and {real} stays as"
            assert any(f"{words} it is" in note for note in plan.notes), plan
        assert server.config_file.readlink() == real
    finally:
        server.kill()


@pytest.mark.parametrize("persist", ["auto", "edit", "rewrite"])
async def test_what_a_human_wrote_since_the_start(tmp_path: Path, server: RedisServer, persist: str) -> None:
    """Not in force yet, and CONFIG REWRITE would take it back."""
    theirs = "# ours\nmaxmemory 77mb\n"
    server.config_file.write_text(server.config_file.read_text() + theirs)
    async with Rig(tmp_path / "agentd", server).running(persist=persist, check_every=OFTEN) as life:
        if persist != "rewrite":
            await kept(life, server)
            assert server.get("maxmemory") == str(77 * 1024**2)
        else:
            await seen(life, Durability.RUNTIME_ONLY)
            (note,) = (await life.actions.plan(life.manager.store(""))).notes
            words = f"{server.config_file} was changed after the server's start, and a rewrite takes the change back"
            assert note == f"CONFIG REWRITE would do harm: {words}"
            assert server.keys() == KEYS
    assert theirs in server.config_file.read_text()


async def test_no_file_at_all(tmp_path: Path) -> None:
    with running(tmp_path / "redis", config_file=False) as server:
        seeded(server)
        async with Rig(tmp_path / "agentd", server).running(check_every=OFTEN) as life:
            status = await seen(life, Durability.RUNTIME_ONLY)
            what, fix = said(status)["file:appendonly"]
            assert what == 'the next start would have appendonly "no", by default: no file says anything else'
            assert fix == "start it with a configuration file"
            change = await asked(life)
            assert change.exit_code == ExitCode.DEGRADED
            words = "it was started without a configuration file, so there is none to change"
            assert change.message.endswith(f"{what}; {words}")
            assert server.keys() == KEYS


# -- what decides is elsewhere -----------------------------------------------------------------------------------------
async def test_an_include_that_overrides(tmp_path: Path) -> None:
    folder = tmp_path / "conf.d"
    folder.mkdir()
    (folder / "10-first.conf").write_text("appendonly no\n")
    (folder / "20-last.conf").write_text('save ""\n')
    with running(tmp_path / "redis", f"appendonly yes\ninclude {folder}/*.conf") as server:
        seeded(server)
        async with Rig(tmp_path / "agentd", server).running(persist="never", check_every=OFTEN) as life:
            findings = said(await seen(life, Durability.RUNTIME_ONLY))
            first, last = f"{folder}/10-first.conf:1", f"{folder}/20-last.conf:1"
            assert findings["file:appendonly"][0] == f'the next start would have appendonly "no", by {first}'
            assert findings["file:save"][0] == f'the next start would have save "", by {last}'
        async with Rig(tmp_path / "agentd", server).running(check_every=OFTEN) as life:
            await kept(life, server)
    assert sorted(path.read_text() for path in folder.iterdir()) == ["appendonly no\n", 'save ""\n']


async def test_arguments_that_override(tmp_path: Path) -> None:
    arguments = ["--appendonly", "no", "--save", ""]
    with running(tmp_path / "redis", RDB_ONLY, arguments=arguments) as server:
        seeded(server)
        async with Rig(tmp_path / "agentd", server).running(check_every=OFTEN) as life:
            findings = said(await seen(life, Durability.RUNTIME_ONLY))
            for name, value in (("appendonly", "no"), ("save", "")):
                what, fix = findings[f"file:{name}"]
                source = "ExecStart= of test-redis.service, which beats the file"
                assert what == f'the next start would have {name} "{value}", by {source}'
                edit = "systemctl --user edit --full test-redis.service"
                assert fix == f"take --{name} out of ExecStart= of test-redis.service: {edit}"
            with server.client() as client:
                client.save()
            server.arguments = []  # Somebody did as they were told; the append-only file is there by now.
            await aside(server.restart)
            await kept(life, server)
