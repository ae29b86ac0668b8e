"""What runs inside a full sandbox: start agentd and the services, show them at work, stay up or run a command.

Every command shown is run as a user would run it; the guide checks the exit codes and ends with 1 when one is wrong.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from agentd.sandbox.standins import behaviour
from agentd.types import ExitCode

AGENTD = ("agentd.socket", "agentd.service")
SERVICES = ("ollama.service", "litellm.service", "agentd-redis.service")
SLEEPERS = ("nova", "vega")
_COMMAND_SECONDS = 90.0


class GuideError(Exception):
    """Something did not go as it should; the text says what."""


class Guide:
    def __init__(self) -> None:
        self._start = time.monotonic()
        self._bold, self._plain = ("\033[1m", "\033[0m") if _colour() else ("", "")

    def say(self, text: str) -> None:
        print(f"\n{self._bold}[{time.monotonic() - self._start:5.1f} s] {text}{self._plain}", flush=True)

    def show(self, *argv: str, expect: Sequence[int] = (0,)) -> None:
        """Run a command with its output in sight."""
        print(f"  $ {' '.join(argv)}", flush=True)
        done = _run(argv)
        for line in done.stdout.splitlines():
            print(f"    {line}")
        sys.stdout.flush()
        if done.returncode not in expect:
            raise GuideError(f"`{' '.join(argv)}` ended with {done.returncode}, not {expect[0]}")

    def start(self) -> None:
        """agentd and what is around it; agentd makes the default model resident."""
        present = [u for u in SERVICES if (_units() / u).exists()]
        self.show("systemctl", "--user", "start", *AGENTD, *present)
        self.show("agentctl", "wait-ready", "qwen", "--timeout", "30s")

    def tour(self) -> None:
        self.say("agentd runs; it has made the default model of the slot resident")
        self.show("agentctl", "status")
        self.say("A switch: stop qwen, wait for its GPU memory, start dolphin, ask it for a token")
        self.show("agentctl", "switch-model", "dolphin")
        self.say("And back")
        self.show("agentctl", "switch-model", "qwen")
        self._failed_switch()
        self._crash()
        self._asleep()

    def _failed_switch(self) -> None:
        self.say("A switch that fails: dolphin now dies of a CUDA out-of-memory while it loads")
        behaviour.save(Path.home(), "dolphin", load_seconds=1.0, fail="die-while-loading")
        self.show("agentctl", "switch-model", "dolphin", expect=(ExitCode.ROLLED_BACK,))
        self.show("agentctl", "wait-ready", "qwen", "--timeout", "30s")
        print(f"    exit code {ExitCode.ROLLED_BACK.value}: it failed, and qwen serves again")
        behaviour.save(Path.home(), "dolphin", load_seconds=1.5)

    def _crash(self) -> None:
        self.say("A crash: qwen's server is killed; systemd starts it again, agentd sees and says it")
        pid = int(_run(("systemctl", "--user", "show", "--value", "-p", "MainPID", "vllm-qwen.service")).stdout or 0)
        if pid <= 1:
            raise GuideError("vllm-qwen.service has no main process")
        print(f"  $ kill -9 {pid}")
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        if not _eventually(lambda: not _ready("qwen"), 5.0):
            raise GuideError("agentd did not notice that qwen was killed")
        print(f"    agentctl shows it {(time.monotonic() - killed) * 1000:.0f} ms later")
        self.show("agentctl", "wait-ready", "qwen", "--timeout", "60s")
        self.show("agentctl", "events", "-n", "8")

    def _asleep(self) -> None:
        self.say("Two more models, which may sleep: the one that leaves the GPU sleeps, and wakes when it is wanted")
        for name in SLEEPERS:
            behaviour.save(Path.home(), name, load_seconds=1.0)
            model = str(Path.home() / "models/qwen")
            self.show("agentctl", "models", "add", name, "--path", model, "--switch", "auto")
        for name in (*SLEEPERS, SLEEPERS[0]):
            self.show("agentctl", "switch-model", name)
        print("    no start, no load: what is left of the switch is agentd's own time")


def _run(argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
    except FileNotFoundError as error:
        raise GuideError(f"cannot run {argv[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise GuideError(f"`{' '.join(argv)}` did not end within {_COMMAND_SECONDS:.0f} s") from error


def _ready(name: str) -> bool:
    listed = json.loads(_run(("agentctl", "services", "--json")).stdout)
    return any(s["name"] == name and s["health"] == "ready" for s in listed)


def _eventually(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _units() -> Path:
    return Path.home() / ".config/systemd/user"


def _colour() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def _explain(guide: Guide, error: GuideError) -> None:
    print(f"\nagentctl: the guided run stopped: {error}", file=sys.stderr)
    with contextlib.suppress(GuideError):
        guide.show("systemctl", "--user", "--no-pager", "--lines=20", "status", *AGENTD, expect=range(256))


def _hold(guide: Guide) -> None:
    guide.say("The sandbox stays up until Ctrl-C.")
    print("    from another terminal:  agentctl sandbox --enter")
    print(f"    how the stand-ins act:  {behaviour.directory(Path.home())}/NAME.json, read at each start", flush=True)
    signal.sigwait({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    print("\nending; nothing is left behind", flush=True)


def main(mode: str, command: Sequence[str]) -> int:
    """`mode` is "guide" (tour, then stay), "once" (tour), "stay" or "command"."""
    guide = Guide()
    # Blocked from here on and waited for in _hold: a Ctrl-C in between is not lost; the children start unblocked.
    stays = mode == "stay" or (mode == "guide" and sys.stdin.isatty())
    try:
        if mode == "command":
            _start_quietly()
            os.execvp(command[0], list(command))
        guide.say("Starting agentd, and the services around it, under a systemd --user of their own")
        guide.start()
        if mode != "stay":
            guide.tour()
        if stays:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
            _hold(guide)
    except GuideError as error:
        _explain(guide, error)
        return 1
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        print(f"agentctl: cannot run {command[0] if command else 'the guide'}: {error.strerror}", file=sys.stderr)
        return 127
    if not stays:
        guide.say("done")
    return 0


def _start_quietly() -> None:
    present = [u for u in SERVICES if (_units() / u).exists()]
    for argv in (
        ("systemctl", "--user", "start", *AGENTD, *present),
        ("agentctl", "wait-ready", "qwen", "--timeout", "30s"),
    ):
        done = _run(argv)
        if done.returncode:
            raise GuideError(f"`{' '.join(argv)}` ended with {done.returncode}: {done.stdout.strip()}")


if __name__ == "__main__":
    if shutil.which("agentctl") is None or os.environ.get("AGENTD_SANDBOX") != "1":
        sys.exit("agentctl: the guide runs inside `agentctl sandbox` only")
    sys.exit(main(sys.argv[1], sys.argv[2:]))
