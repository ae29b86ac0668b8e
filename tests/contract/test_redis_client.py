"""The RedisAdmin port against real servers: what it asks and tells, and that it outlives what happens to them."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redisclients import asking, first_state, free_port, refused, running, until
from redisserver import RedisServer

from agentd.adapters.redis import RedisClient
from agentd.ports_redis import RedisAdmin, Target

ACL = (
    "user agentd on >narrow-pw resetkeys +ping +info +config|get +config|set +config|rewrite +bgrewriteaof +bgsave "
    "+lastsave +dbsize +role"
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running(tmp_path) as started:
        yield started


@pytest.fixture(params=["unix", "tcp"])
def reached(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    with running(tmp_path, port=free_port() if request.param == "tcp" else 0) as started:
        yield started


async def every_operation(client: RedisAdmin, server: RedisServer) -> None:
    state = await client.state()
    assert (state.product, state.role, state.pid, state.keys) == ("redis", "master", server.pid, 7)
    assert (state.config_file, state.aof_enabled, state.loading) == (str(server.config_file), False, False)
    assert state.total_system_memory > 0

    await client.set_config({"save": "900 1 60 5", "appendfsync": "always"})
    assert await client.config(["save", "appendfsync", "dir", "no-such-name", "append*"]) == {
        "save": "900 1 60 5",
        "appendfsync": "always",
        "dir": str(server.data),
    }
    await client.save()
    await until(client, lambda s: s.rdb_saves > state.rdb_saves and not s.saving)
    assert (server.data / "dump.rdb").exists()

    await client.set_config({"appendonly": "yes"})
    switched = await until(client, lambda s: s.aof_enabled and not s.saving)
    await client.rewrite_aof()
    await until(client, lambda s: s.aof_rewrites > switched.aof_rewrites and not s.saving)
    assert len(list(server.aof.glob("*.base.rdb"))) == 1

    await client.rewrite_config()
    assert "appendonly yes" in server.config_file.read_text()


async def test_every_operation(reached: RedisServer) -> None:
    reached.seed(7)
    async with asking(reached.url) as client:
        await every_operation(client, reached)
        assert await client.config([]) == {}
        await client.set_config({})


async def test_the_narrow_acl_is_enough(tmp_path: Path) -> None:
    with running(tmp_path, ACL, password="of-the-default-user") as server:
        server.seed(7)
        async with asking(server.url, user="agentd", password="narrow-pw") as client:
            await every_operation(client, server)


async def test_a_user_without_a_password(tmp_path: Path) -> None:
    with running(tmp_path, "user agentd on nopass resetkeys +info", password="other") as server:
        async with asking(server.url, user="agentd") as client:
            assert (await client.state()).pid == server.pid


async def test_all_of_a_set_or_none(server: RedisServer) -> None:
    async with asking(server.url) as client:
        wrong = client.set_config({"appendfsync": "always", "save": "not a number"})
        error = await refused(wrong, "redis-refused")
        assert error.message.startswith(f"{server.url} refuses CONFIG SET: CONFIG SET failed")
        assert "'save'" in error.message
        assert await client.config(["appendfsync"]) == {"appendfsync": "everysec"}


async def test_a_save_beside_a_running_one(tmp_path: Path) -> None:
    with running(tmp_path, "rdb-key-save-delay 20000") as server:
        server.seed(2000)
        async with asking(server.url) as client:
            await client.save()
            assert (await client.state()).rdb_bgsave_in_progress
            error = await refused(client.save(), "redis-refused")
            assert error.message == f"{server.url} refuses BGSAVE: Background save already in progress"
            await client.rewrite_aof()
            assert (await client.state()).aof_rewrite_scheduled


async def test_it_is_asked_while_it_loads(tmp_path: Path) -> None:
    with running(tmp_path, "loading-process-events-interval-bytes 1024") as server:
        await asyncio.to_thread(server.seed, 20_000)
        server.stop()
        # By the configuration: 20 s. It is let go as soon as all was asked.
        server.arguments = ["--key-load-delay", "1000"]
        server.start(wait=False)
        async with asking(server.url) as client:
            assert (await first_state(client)).loading
            assert await client.config(["appendonly"]) == {"appendonly": "no"}
            error = await refused(client.save(), "redis-loading")
            assert error.message == f"cannot ask {server.url}: it is still loading its data"
            await client.set_config({"key-load-delay": "0"})
            assert (await until(client, lambda s: not s.loading)).keys == 20_000
            await client.save()


async def test_it_is_asked_while_it_refuses_writes(server: RedisServer) -> None:
    (server.data / "dump.rdb" / "in-the-way").mkdir(parents=True)
    async with asking(server.url) as client:
        await client.save()
        failed = await until(client, lambda s: not s.rdb_bgsave_in_progress)
        assert not failed.rdb_last_bgsave_ok
        with server.client() as writer, pytest.raises(redis.exceptions.ResponseError, match="MISCONF"):
            writer.set("a", "b")
        assert await client.config(["dbfilename"]) == {"dbfilename": "dump.rdb"}
        await client.set_config({"appendfsync": "always"})
        (server.data / "dump.rdb" / "in-the-way").rmdir()
        (server.data / "dump.rdb").rmdir()
        await client.save()
        assert (await until(client, lambda s: not s.rdb_bgsave_in_progress)).rdb_last_bgsave_ok


async def test_a_restart_between_two_calls(server: RedisServer) -> None:
    async with asking(server.url) as client:
        first = await client.state()
        server.kill()
        error = await refused(client.state(), "redis-unreachable")
        assert error.message == f"cannot ask {server.url}: no such file or directory"
        for _ in range(3):
            await asyncio.to_thread(server.start)
            second = await client.state()
            assert second.run_id != first.run_id
            # Nothing of the loop runs between the end and the next call: it has to look at the socket itself.
            server.kill()
            server.start()
            assert (await client.config(["port"])) == {"port": "0"}
            server.kill()


async def test_it_stops_and_goes_on(server: RedisServer) -> None:
    async with asking(server.url, timeout=0.3) as client, asking(server.url, timeout=0.3) as fresh:
        await client.state()
        os.kill(server.pid, signal.SIGSTOP)
        try:
            for each in (client, fresh, client):
                error = await refused(each.state(), "redis-timeout")
                assert error.message == f"cannot ask {server.url}: no answer within 0.3 s"
        finally:
            os.kill(server.pid, signal.SIGCONT)
        async with asking(server.url) as patient:
            await patient.state()  # it has caught up
        for each in (client, fresh):
            assert await each.config(["port"]) == {"port": "0"}


async def test_killed_in_the_middle_of_a_call(server: RedisServer) -> None:
    async with asking(server.url) as client:
        await client.state()
        os.kill(server.pid, signal.SIGSTOP)
        running_call = asyncio.create_task(client.state())
        await asyncio.sleep(0.05)
        server.kill()
        await refused(running_call, "redis-unreachable")


async def test_a_cancelled_call_leaves_no_answer_for_the_next(server: RedisServer) -> None:
    async with asking(server.url) as client:
        await client.state()
        os.kill(server.pid, signal.SIGSTOP)
        task = asyncio.create_task(client.state())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        os.kill(server.pid, signal.SIGCONT)
        assert await client.config(["port"]) == {"port": "0"}


async def test_a_flood_shares_one_connection(server: RedisServer) -> None:
    before = int(server.info("total_connections_received"))
    async with asking(server.url) as client:
        states, configs = await asyncio.gather(
            asyncio.gather(*(client.state() for _ in range(300))),  # more than may come at once
            asyncio.gather(*(client.config(["port", "dir"]) for _ in range(100))),
        )
    assert {state.pid for state in states} == {server.pid}
    assert [config for config in configs if config != {"port": "0", "dir": str(server.data)}] == []
    assert int(server.info("total_connections_received")) == before + 2  # ours, and the one that asks here


async def test_a_flood_at_a_server_that_hangs_ends_together(server: RedisServer) -> None:
    async with asking(server.url, timeout=0.5) as client:
        await client.state()
        os.kill(server.pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(10):
                found = await asyncio.gather(*(client.state() for _ in range(100)), return_exceptions=True)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert {getattr(error, "kind", error) for error in found} == {"redis-timeout"}


async def test_nothing_is_left_behind(server: RedisServer) -> None:
    def held() -> tuple[int, int, int]:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir())), len(asyncio.all_tasks()), threading.active_count()

    def break_off() -> None:
        admin.client_kill_filter(_type="normal", skipme=True)

    with server.client() as admin:
        break_off()
        async with asking(server.url) as client:
            await client.state()
            await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.02) for _ in range(40)))  # all threads of the loop
        before = held()
        async with asking(server.url) as client:
            for _ in range(200):
                await client.state()
                break_off()
        for _ in range(20):
            forgotten = RedisClient(Target("store", server.url))
            await forgotten.state()
            del forgotten
        await asyncio.sleep(0)
        assert held() == before
        assert int(admin.info("clients")["connected_clients"]) == 1


FORGETFUL = """
import asyncio, gc, sys
from agentd.adapters.redis import RedisClient
from agentd.ports_redis import Target
assert "redis" not in sys.modules

async def main(url):
    closed, forgotten, failed = (RedisClient(Target("store", u)) for u in (url, url, url + ".not-there"))
    await closed.state()
    await closed.close()
    await forgotten.state()
    del forgotten
    try:
        await failed.state()
    except Exception as error:
        print(type(error).__name__)
    still_open = RedisClient(Target("store", url))
    await still_open.state()
    return still_open

left = asyncio.run(main(sys.argv[1]))
del left
gc.collect()
"""


def test_silent_when_closed_or_collected(server: RedisServer) -> None:
    run = [sys.executable, "-c", FORGETFUL, server.url]
    done = subprocess.run(run, capture_output=True, text=True, timeout=30, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stdout, done.stderr) == (0, "AgentdError\n", "")
