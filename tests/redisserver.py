"""A real redis-server of a test's own: a unix socket, no TCP unless asked for, in a directory of its own."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

SECONDS = 20.0


class RedisServer:
    """`conf` is the whole redis.conf beside what says where it is; `arguments` come after it on the command line."""

    def __init__(
        self,
        folder: Path,
        conf: str = "",
        *,
        arguments: Sequence[str] = (),
        port: int = 0,
        password: str = "",
        executable: str = "redis-server",
        config_file: bool = True,
    ) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.data.mkdir(parents=True, exist_ok=True)
        self.socket = folder / "redis.sock"
        self.config_file = folder / "redis.conf"
        self.log = folder / "redis.log"
        self.arguments = list(arguments)
        self.port = port
        self.password = password
        self.executable = executable
        self._with_file = config_file
        self.process: subprocess.Popen[bytes] | None = None
        if config_file:
            self.config_file.write_text(f"{self.place}\n{conf}\n")
            self.config_file.chmod(0o640)

    @property
    def place(self) -> str:
        lines = [f"port {self.port}", "bind 127.0.0.1", f"unixsocket {self.socket}", f"dir {self.data}"]
        return "\n".join([*lines, "daemonize no", *([f"requirepass {self.password}"] if self.password else [])])

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}" if self.port else f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def aof(self) -> Path:
        return self.data / "appendonlydir"

    def start(self, *, wait: bool = True, env: Mapping[str, str] | None = None) -> RedisServer:
        words = [self.executable]
        words += [str(self.config_file)] if self._with_file else self._place_arguments()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*words, *self.arguments],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, **(env or {})},
                restore_signals=False,  # SIGXFSZ stays ignored, see `fill_disk`.
            )
        if wait:
            self.wait_ready()
        return self

    def _place_arguments(self) -> list[str]:
        words: list[str] = []
        for line in self.place.splitlines():
            name, _, value = line.partition(" ")
            words += [f"--{name}", value]
        return words

    def wait_ready(self, seconds: float = SECONDS) -> None:
        """Until it answers and has loaded its data."""
        end = time.monotonic() + seconds
        while True:
            assert self.process is not None
            assert self.process.poll() is None, f"redis-server ended: {self.log.read_text()[-2000:]}"
            try:
                with self.client() as client:
                    if not client.info("persistence")["loading"]:
                        return
            except redis.exceptions.ConnectionError:
                pass
            assert time.monotonic() < end, f"redis-server is not ready: {self.log.read_text()[-2000:]}"
            time.sleep(0.01)  # It tells nobody when its socket is there.

    def client(self, **options: object) -> redis.Redis:
        settings = {"password": self.password or None, "decode_responses": True, "socket_timeout": SECONDS, **options}
        settings.setdefault("retry", Retry(NoBackoff(), 0))
        return redis.Redis(unix_socket_path=str(self.socket), **settings)

    def seed(self, count: int, *, prefix: str = "key", size: int = 20) -> None:
        with self.client() as client, client.pipeline(transaction=False) as pipe:
            for number in range(count):
                pipe.set(f"{prefix}:{number}", f"{number:0{size}}")
                if number % 5000 == 4999:
                    pipe.execute()
            pipe.execute()

    def keys(self) -> int:
        with self.client() as client:
            return int(client.dbsize())

    def set(self, **values: str) -> None:
        with self.client() as client:
            for name, value in values.items():
                client.config_set(name.replace("_", "-"), value)

    def info(self, field: str) -> str:
        with self.client() as client:
            return str(client.info("everything")[field])

    def get(self, name: str) -> str:
        with self.client() as client:
            return str(client.config_get(name)[name])

    def kill(self) -> None:
        """kill -9, and gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        self.socket.unlink(missing_ok=True)

    def stop(self, number: int = signal.SIGTERM, seconds: float = SECONDS) -> int:
        """Asked to end; the exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        status = self.process.wait(seconds)
        self.process = None
        return status

    def shutdown_nosave(self) -> None:
        assert self.process is not None
        with self.client() as client:
            client.shutdown(nosave=True)
        self.process.wait(SECONDS)
        self.process = None

    def restart(self) -> RedisServer:
        self.stop()
        return self.start()

    def fill_disk(self, limit: int = 4096) -> None:
        """From now on no file of the server grows beyond `limit` bytes: what a full disk is to it."""
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    def free_disk(self) -> None:
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    @property
    def argv(self) -> tuple[str, ...]:
        """As an ExecStart= would have it."""
        words = [str(self.config_file)] if self._with_file else self._place_arguments()
        return (self.executable, *words, *self.arguments)

    def saved_aside(self, name: str) -> Path:
        """A copy of the data directory as it is now."""
        return Path(shutil.copytree(self.data, self.folder / name))
