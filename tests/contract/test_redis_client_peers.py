"""The RedisAdmin port and peers that are no Redis, or an old one, or end in the middle."""

from __future__ import annotations

import asyncio
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from redisclients import asking, bulk, peer, refused, scripted

from agentd.adapters.redis import SECTIONS, RedisClient
from agentd.adapters.redis_ping import Address
from agentd.adapters.redis_wire import Line
from agentd.adapters.redis_words import Trouble
from agentd.errors import AgentdError
from agentd.ports_redis import Target

INFO = "# Server\r\nredis_version:6.2.7\r\nprocess_id:12\r\nrun_id:abc\r\n"


async def test_a_web_server() -> None:
    class Quiet(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as web:
        thread = threading.Thread(target=web.serve_forever, args=(0.01,))
        thread.start()
        try:
            url = f"redis://127.0.0.1:{web.server_port}"
            async with asking(url) as client, asking(url, password="secret") as with_password:
                for each in (client, with_password):
                    error = await refused(each.state(), "redis-not-redis")
                    assert error.message == f"cannot ask {url}: what answers there is not Redis"
        finally:
            web.shutdown()
            thread.join()


async def test_a_door_that_closes() -> None:
    async def close(*_: object) -> None:
        pass

    async with peer(close) as url, asking(url) as client:
        for _ in range(20):
            error = await refused(client.state(), "redis-unreachable")
            assert error.message.startswith(f"cannot ask {url}: ")


async def test_one_that_says_nothing() -> None:
    async def keep_quiet(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    async with peer(keep_quiet) as url, asking(url, timeout=0.2) as client:
        error = await refused(client.state(), "redis-timeout")
        assert error.message == f"cannot ask {url}: no answer within 0.2 s"


FOR_EVER = {
    "noise": (b"", b"\x00\xffnoise"),
    "lines": (b"", b"-hello\n"),
    "a-line": (b"+", b"x"),
    "text": (b"$999999999999\r\n", b"x"),
    "list": (b"*999999999\r\n", b":1\r\n"),
    "nested": (b"", b"*1\r\n"),
    "texts": (b"*999\r\n", b"$99999\r\n" + b"x" * 99_999 + b"\r\n"),
}


@pytest.mark.parametrize("name", FOR_EVER)
async def test_one_that_never_stops(name: str) -> None:
    start, piece = FOR_EVER[name]
    piece *= max(1, 50_000 // len(piece))
    sent = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(start)
        while True:
            writer.write(piece)
            await writer.drain()
            sent += len(piece)

    async with peer(talk) as url, asking(url) as client:
        with pytest.raises(AgentdError) as caught:
            await client.state()
        assert caught.value.kind in ("redis-not-redis", "redis-unreachable")
    assert sent < 20_000_000  # of which most lies in the sockets' buffers


@pytest.mark.parametrize(
    "answer", [b"+OK\r\n", b":1\r\n", b"$-1\r\n", b"*-1\r\n", b"*0\r\n", b"$-7\r\n", b"*1\r\n:2\r\n"]
)
async def test_answers_of_a_wrong_form(answer: bytes) -> None:
    async with peer(scripted(lambda _: answer)) as url, asking(url) as client:
        await refused(client.state(), "redis-not-redis")
        if answer != b"*0\r\n":
            await refused(client.config(["save"]), "redis-not-redis")


async def test_rubbish_ends_in_an_error_of_ours() -> None:
    chance = random.Random(7)
    pieces = [b"*", b"$", b"+", b"-", b":", b"\r\n", b"\n", b"1", b"-1", b"2", b"ERR ", b"x", b"\xff", b"LOADING "]
    pieces += [b"NOAUTH ", b"redis_version:7", b"e5", b"$4\r\nsave\r\n", b"NOPERM "]

    async with asyncio.timeout(30):
        for _ in range(150):
            rubbish = b"".join(chance.choices(pieces, k=chance.randint(1, 9)))

            async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rubbish: bytes = rubbish) -> None:
                writer.write(rubbish)
                writer.write_eof()
                await reader.read(-1)

            async with peer(say) as url, asking(url) as client:
                with pytest.raises(AgentdError) as caught:
                    await client.set_config({"save": "1 1"})
                assert caught.value.kind.startswith("redis-"), rubbish


async def test_words_of_a_server_are_one_short_line() -> None:
    words = b"-ERR \x1b[31m no api_key=abcdef " + b"!" * 900 + b"\r\n"
    async with peer(scripted(lambda _: words)) as url, asking(url) as client:
        message = (await refused(client.save(), "redis-refused")).message
    assert len(message) < 400
    assert message.isprintable()
    assert "abcdef" not in message


# -- older servers ----------------------------------------------------------------------------------------------------
async def test_redis_6() -> None:
    asked: list[str] = []

    def old(words: list[str]) -> bytes:
        asked.append(" ".join(words))
        if words[0] == "INFO":
            return bulk(INFO) if len(words) == 1 else b"-ERR syntax error\r\n"
        if len(words) > 3:
            return b"-ERR Unknown subcommand or wrong number of arguments for 'GET'. Try CONFIG HELP.\r\n"
        return b"*0\r\n" if words[2] == "new" else b"*2\r\n" + bulk(words[2]) + bulk("yes")

    async with peer(scripted(old)) as url, asking(url) as client:
        state = await client.state()
        assert (state.version, state.pid) == ("6.2.7", 12)
        assert await client.config(["appendonly", "new", "save"]) == {"appendonly": "yes", "save": "yes"}
    # No greeting (HELLO, CLIENT SETINFO): a narrow ACL would refuse it.
    names = ("appendonly new save", "appendonly", "new", "save")
    assert asked == [f"INFO {' '.join(SECTIONS)}", "INFO", *(f"CONFIG GET {name}" for name in names)]


# -- closed -----------------------------------------------------------------------------------------------------------
async def test_close_ends_a_call_that_hangs_and_every_later_one() -> None:
    async def keep_quiet(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read(-1)

    asked = asyncio.Event()
    async with peer(keep_quiet) as url:
        client = RedisClient(Target("store", url), timeout=30)
        calls = [asyncio.create_task(client.state()) for _ in range(3)]
        await asked.wait()
        async with asyncio.timeout(5):
            await client.close()
            for call in calls:
                error = await refused(call, "redis-unreachable")
                assert error.message == f"cannot ask {url}: this connection was closed by agentd"
            await refused(client.state(), "redis-unreachable")
            await client.close()


async def test_a_dropped_connection_does_not_come_back_without_its_password() -> None:
    """redis-py would connect anew."""
    async with peer(scripted(lambda _: b"+OK\r\n")) as url:
        line = await Line.open(Address("127.0.0.1", int(url.rpartition(":")[2])), "", "secret")
        before = line.usable
        line.drop()
        assert (before, line.usable) == (True, False)
        with pytest.raises(Trouble, match="the connection was closed"):
            await line.ask("INFO")
