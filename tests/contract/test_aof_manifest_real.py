"""Manifests as a real redis-server writes, reads and refuses them."""

from __future__ import annotations

from pathlib import Path

import pytest
from redisconfs import Conf, write
from redisserver import SECONDS, RedisServer

from agentd.core.aof_manifest import Manifest, parse_manifest, render_manifest

PLAIN = "appendonly.aof"


@pytest.mark.parametrize(
    "name", [PLAIN, "my file.aof", 'say "so".aof', "ä.aof", "tab\t.aof", "50%.aof", "#1.aof", "seq.aof", "a.aof "]
)
def test_what_the_server_writes(tmp_path: Path, name: str) -> None:
    server = RedisServer(tmp_path, arguments=["--appendonly", "yes", "--appendfilename", name]).start()
    server.seed(10)
    server.kill()
    base, increment = f"{name}.1.base.rdb", f"{name}.1.incr.aof"
    text = (server.aof / f"{name}.manifest").read_text()
    assert parse_manifest(text) == Manifest(base, (increment,), ())
    # Redis 8 says besides where an increment begins; it does not want to be told.
    assert render_manifest(base, [increment]) == text.replace(" startoffset 0", "")
    write(server.aof / f"{name}.manifest", render_manifest(base, [increment]))
    server.start()
    assert server.keys() == 10
    server.kill()


def test_a_name_that_the_server_itself_cannot_read_back(tmp_path: Path) -> None:
    """It quotes no name for an apostrophe, and then finds its quotes unbalanced; what we write it reads."""
    name = "it's.aof"
    server = RedisServer(tmp_path, arguments=["--appendonly", "yes", "--appendfilename", name]).start()
    server.seed(10)
    server.kill()
    manifest = server.aof / f"{name}.manifest"
    with pytest.raises(ValueError, match="line 1 of the manifest has unbalanced quotes"):
        parse_manifest(manifest.read_text())
    server.start(wait=False)
    assert server.process is not None
    assert server.process.wait(SECONDS) != 0
    assert "Invalid AOF manifest file format" in server.log.read_text()
    write(manifest, render_manifest(f"{name}.1.base.rdb", [f"{name}.1.incr.aof"]))
    server.start()
    assert server.keys() == 10
    server.kill()


BASE = "file appendonly.aof.1.base.rdb seq 1 type b\n"
FIRST = "file appendonly.aof.1.incr.aof seq 1 type i\n"
SECOND = "file appendonly.aof.2.incr.aof seq 2 type i\n"
LINE = "file appendonly.aof.1.incr.aof seq 1 type i x "


@pytest.mark.parametrize(
    "text",
    [
        *(BASE + FIRST, FIRST + BASE, FIRST, BASE, BASE + FIRST + SECOND, BASE + SECOND, BASE + SECOND + FIRST),
        *(
            "",
            "\n",
            BASE + "\n" + FIRST,
            "# no more\n",
            BASE + "# so\n" + FIRST,
            BASE + " # so\n" + FIRST,
            BASE + FIRST[:-1],
        ),
        *(BASE + BASE + FIRST, FIRST + FIRST, BASE + FIRST.replace("seq 1", "seq 0"), FIRST.replace("seq 1", "seq -1")),
        *(BASE.replace("type b", "type x"), BASE.replace("type b", "TYPE b"), BASE.replace("type b", "type base")),
        *(BASE.replace("type b", "type B"), BASE.replace("seq 1 ", ""), BASE.replace("seq 1", "seq 1x"), "file a b\n"),
        *(BASE.replace("file ", "file ../appendonlydir/"), BASE.replace("\n", " x y\n"), BASE.replace("\n", " x\n")),
        *(BASE.replace("file ", "file './").replace(".rdb", ".rdb'"), 'file "appendonly.aof.1.base.rdb seq 1 type b\n'),
        *(
            "file 'appendonly.aof.1.base.rdb' \"seq\" 1 type b\r\n",
            BASE.replace("rdb", "rdb seq 7"),
            FIRST.replace("seq", "seq x seq"),
        ),
        *(BASE + FIRST.replace("type i", "type h"), BASE + FIRST + SECOND.replace("type i", "type h")),
        *(LINE + "x" * (1023 - len(LINE)) + "\n", LINE + "x" * (1024 - len(LINE)) + "\n", "#" * 3000 + "\n" + BASE),
    ],
)
def test_what_the_server_refuses(tmp_path: Path, text: str) -> None:
    conf = Conf(tmp_path, "appendonly yes\n")
    assert conf.ask(["dir"]) is not None
    (conf.folder / "appendonlydir" / "appendonly.aof.2.incr.aof").touch()
    write(conf.folder / "appendonlydir" / "appendonly.aof.manifest", text)
    started = conf.ask(["dir"], fresh=False) is not None
    assert started == understood(text)


def understood(text: str) -> bool:
    try:
        parse_manifest(text)
    except ValueError:
        return False
    return True
