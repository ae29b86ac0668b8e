"""The system's own Redis in the virtual machine, as Debian ships it, and agentd of the lingering user. For root."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path("/srv/agentd")
HOME = Path("/home/ai")
AGENTCTL = str(HOME / ".local/bin/agentctl")
AI = pwd.getpwnam("ai")
USER_MANAGER = f"user@{AI.pw_uid}.service"
CONFIG = '[redis]\nurl = "redis://127.0.0.1:6379"\n'
SECONDS = 150.0


@dataclass(frozen=True, slots=True)
class Done:
    code: int
    out: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True, slots=True)
class Product:
    unit: str
    config_file: Path
    data: Path
    account: str
    """User and group."""

    @property
    def installed(self) -> bool:
        return self.config_file.exists()


PRODUCTS = (
    Product("redis-server.service", Path("/etc/redis/redis.conf"), Path("/var/lib/redis"), "redis"),
    Product("valkey-server.service", Path("/etc/valkey/valkey.conf"), Path("/var/lib/valkey"), "valkey"),
)


def run(*command: str, env: Mapping[str, str] | None = None) -> Done:
    both: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
    done = subprocess.run(command, text=True, timeout=SECONDS, check=False, env=env, **both)
    return Done(done.returncode, done.stdout)


def must(*command: str) -> str:
    done = run(*command)
    assert done.code == 0, f"{' '.join(command)}: {done.out}"
    return done.out


def systemctl(*words: str) -> str:
    return must("systemctl", *words)


def user_systemctl(*words: str) -> str:
    return must("systemctl", "--user", "--machine=ai@", *words)


def as_ai(*command: str) -> Done:
    """With the groups that the account has now."""
    env = {"HOME": str(HOME), "USER": "ai", "PATH": "/opt/agentd/venv/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
    env["XDG_RUNTIME_DIR"] = f"/run/user/{AI.pw_uid}"
    return run("setpriv", "--reuid", "ai", "--regid", "ai", "--init-groups", *command, env=env)


def as_sudo(*command: str) -> Done:
    """As sudo(8) would for this user; the machine has none."""
    about = {"SUDO_USER": "ai", "SUDO_UID": str(AI.pw_uid), "SUDO_GID": str(AI.pw_gid)}
    return run(*command, env={"HOME": "/root", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", **about})


class Machine:
    """One product at a time. `fresh()` before each test: as it is right after the installation of its package."""

    def __init__(self, product: Product) -> None:
        self.product = product
        self.login: tuple[str, ...] = ()
        self._pristine = product.config_file.read_bytes()

    def install(self) -> None:
        for product in PRODUCTS:
            Path("/etc/systemd/system", product.unit).unlink(missing_ok=True)
        systemctl("daemon-reload")
        done = as_ai(str(ROOT / "packaging/install"), "--link")
        assert done.code == 0, done.out
        user_systemctl("enable", "agentd.socket", "agentd.service")

    def remove(self) -> None:
        user_systemctl("disable", "--now", "agentd.socket", "agentd.service")
        systemctl("stop", self.product.unit)
        if self.member:
            self.leave_group()

    def fresh(self, *, keys: int = 1000, config: str = CONFIG) -> None:
        user_systemctl("stop", "agentd.socket", "agentd.service")
        systemctl("stop", self.product.unit)
        for folder in (HOME / ".config/agentd", HOME / ".local/state/agentd"):
            shutil.rmtree(folder, ignore_errors=True)
        for path in self.product.data.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.product.config_file.write_bytes(self._pristine)
        shutil.chown(self.product.config_file, self.product.account, self.product.account)
        self.product.config_file.chmod(0o640)
        self.login = ()
        self.own(HOME / ".config/agentd/agentd.toml", config)
        systemctl("start", self.product.unit)
        self.seed(keys)
        assert self.cli("SAVE") == "OK"

    def own(self, path: Path, text: str, mode: int = 0o600) -> None:
        """A file of the user's."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        for folder in (path, *path.parents):
            if folder == HOME:
                break
            os.chown(folder, AI.pw_uid, AI.pw_gid)

    # -- groups -------------------------------------------------------------------------------------------------------

    @property
    def member(self) -> bool:
        return self.product.account in must("id", "-nG", "ai").split()

    def join_group(self) -> None:
        """As the documentation has it; a manager that lingers does not notice by itself."""
        must("usermod", "-aG", self.product.account, "ai")
        systemctl("restart", USER_MANAGER)

    def leave_group(self) -> None:
        must("gpasswd", "-d", "ai", self.product.account)
        systemctl("restart", USER_MANAGER)

    # -- the server ---------------------------------------------------------------------------------------------------

    def cli(self, *words: str) -> str:
        return must("redis-cli", "--no-auth-warning", *self.login, *words).strip()

    def seed(self, count: int, prefix: str = "key") -> None:
        script = "for i = 1, tonumber(ARGV[1]) do redis.call('SET', ARGV[2] .. ':' .. i, string.rep('x', 20)) end"
        self.cli("EVAL", script, "0", str(count), prefix)

    def keys(self) -> int:
        return int(self.cli("DBSIZE"))

    def get(self, name: str) -> str:
        return self.cli("CONFIG", "GET", name).partition("\n")[2]

    def restart(self) -> None:
        systemctl("restart", self.product.unit)

    # -- agentd -------------------------------------------------------------------------------------------------------

    def start_agentd(self) -> None:
        user_systemctl("start", "agentd.socket", "agentd.service")

    def restart_agentd(self) -> None:
        user_systemctl("daemon-reload")
        user_systemctl("restart", "agentd.service")

    def agentctl(self, *words: str) -> Done:
        return as_ai(AGENTCTL, "redis", *words)

    def becomes(self, word: str, seconds: float = 60.0) -> dict[str, Any]:
        """The status, once it is of the process that runs now, in this word, with no change under way."""
        end = time.monotonic() + seconds
        while True:
            done = self.agentctl("status", "--json")
            found: dict[str, Any] = done.json[0] if done.code == 0 else {}
            state = found.get("state")
            current = state is not None and str(state["run_id"]) in self.cli("INFO", "server")
            if current and found["durability"] == word and not found["enforcing"]:
                return found
            assert time.monotonic() < end, f"it does not become {word}: {done.out}"
            time.sleep(0.5)  # Each question costs a process.
