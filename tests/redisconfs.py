"""redis.conf and its includes in a directory of their own, and what a real redis-server makes of them."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from agentd.core.redis_lines import parse
from agentd.stores import ConfFile, ConfTree

SECONDS = 20.0
_count = itertools.count()


class Conf:
    """`files`: names -> texts of what redis.conf may include; `text` follows the lines that say where the server is."""

    def __init__(self, parent: Path, text: str = "", files: Mapping[str, str] | None = None) -> None:
        self.folder = parent / f"conf{next(_count)}"
        self.folder.mkdir()
        self.path = self.folder / "redis.conf"
        self.socket = self.folder / "redis.sock"
        for name, content in (files or {}).items():
            place = self.folder / name
            place.parent.mkdir(exist_ok=True)
            write(place, content)
        write(self.path, self.place + text)

    @property
    def place(self) -> str:
        return f"port 0\nunixsocket {self.socket}\n"

    @property
    def text(self) -> str:
        return self.path.read_bytes().decode("utf-8", "surrogateescape")

    def argv(self, arguments: Sequence[str]) -> tuple[str, ...]:
        return ("/usr/bin/redis-server", str(self.path), *arguments)

    def tree(self) -> ConfTree:
        """As an adapter would read it."""
        files: dict[str, ConfFile] = {}
        included: dict[str, tuple[str, ...]] = {}
        self._read(str(self.path), files, included)
        for name in ("a", "b", "g*", "none*"):  # The command line may include these.
            self._include(name, files, included)
        return ConfTree(tuple(files.values()), included)

    def _read(self, path: str, files: dict[str, ConfFile], included: dict[str, tuple[str, ...]]) -> None:
        if path in files:
            return
        try:
            text = Path(path).read_bytes().decode("utf-8", "surrogateescape")
        except OSError as error:
            files[path] = ConfFile(path, None, (error.strerror or "").lower())
            return
        files[path] = ConfFile(path, text, mode=0o644)
        for line in parse(text, path):
            if line.name == "include" and len(line.args) == 1:
                self._include(line.args[0], files, included)

    def _include(self, name: str, files: dict[str, ConfFile], included: dict[str, tuple[str, ...]]) -> None:
        if name not in included:
            found = sorted(self.folder.glob(name)) if set("*?[") & set(name) else [self.folder / name]
            included[name] = tuple(map(str, found))
            for path in included[name]:
                self._read(path, files, included)

    def ask(
        self,
        names: Sequence[str],
        arguments: Sequence[str] = (),
        *,
        set_first: Mapping[str, str] | None = None,
        rewrite: bool = False,
        fresh: bool = True,
    ) -> dict[str, str] | None:
        """CONFIG GET after a start (`fresh`: on no data); None when it refuses. Then CONFIG SET and CONFIG REWRITE."""
        if fresh:
            shutil.rmtree(self.folder / "appendonlydir", ignore_errors=True)
        words = ["redis-server", self.path.name, *arguments]
        quiet = subprocess.DEVNULL
        with subprocess.Popen(words, cwd=self.folder, stdin=quiet, stdout=quiet, stderr=quiet) as process:
            try:
                client = self._connected(process)
                if client is None:
                    return None
                with client:
                    found = {str(name): str(value) for name, value in client.config_get(*names).items()}
                    for name, value in (set_first or {}).items():
                        client.config_set(name, value)
                    if rewrite:
                        client.config_rewrite()
                    return found
            finally:
                process.kill()
                process.wait()
                self.socket.unlink(missing_ok=True)

    def _connected(self, process: subprocess.Popen[bytes]) -> redis.Redis | None:
        end = time.monotonic() + SECONDS
        client = redis.Redis(unix_socket_path=str(self.socket), decode_responses=True, retry=Retry(NoBackoff(), 0))
        while process.poll() is None:
            try:
                client.info("server")
            except redis.exceptions.ConnectionError:
                assert time.monotonic() < end, "redis-server does not answer"
                time.sleep(0.002)  # It tells nobody when its socket is there.
            else:
                return client
        client.close()
        return None


def write(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
