"""Scratch proxies: ready means an answer from the process itself, its end is told in words, and it never outlives us.

The programs stand in for LiteLLM's: each starts in a moment. The real one is in test_gateway_prove.py.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from agentd.adapters.gateway_asking import GatewayAsker
from agentd.adapters.litellm_scratch import LocalScratchProxies
from agentd.core.gateway.install import NOT_INSTALLED, Install
from agentd.errors import AgentdError

SECRET = "sk-scratch-0123456789abcdef"
SERVER = """#!{python}
import http.server, os, sys
port = int(sys.argv[sys.argv.index("--port") + 1])
print("the key is", os.environ["LITELLM_MASTER_KEY"], flush=True)
print("token abc-" + os.environ["OTHER"] + "-abc", file=sys.stderr, flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        names = sorted(os.environ) + sys.argv[1:]
        body = ("\\n".join(names)).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
SILENT = """#!{python}
import os, time
with open("FOLDER/pid.new", "w") as file:
    file.write(str(os.getpid()))
os.rename("FOLDER/pid.new", "FOLDER/pid")
print("hm", flush=True)
time.sleep(99)
"""
"""It leaves its pid in a file, and never answers."""
ENVIRONMENT = {"LITELLM_MASTER_KEY": SECRET, "OTHER": "another-secret"}


def install(folder: Path, text: str) -> Install:
    program = folder / "litellm"
    program.write_text(text.replace("{python}", sys.executable).replace("FOLDER", str(folder)))
    program.chmod(0o700)
    return Install(str(program), sys.executable, "1.0.0")


async def failure(made: Install, timeout: float = 20.0) -> str:
    with pytest.raises(AgentdError) as error:
        await LocalScratchProxies(made).start("/c.yaml", ENVIRONMENT, timeout=timeout, plain=True)
    assert error.value.kind == "gateway-start"
    return error.value.message


async def test_it_answers_from_its_own_port_with_its_own_environment(tmp_path: Path) -> None:
    proxies = LocalScratchProxies(install(tmp_path, SERVER))
    proxy = await proxies.start("/c.yaml", ENVIRONMENT, timeout=20, plain=True)
    try:
        answer = await GatewayAsker(proxy.endpoint.url, "").models()
        assert Path(f"/proc/{proxy.pid}").exists()
    finally:
        await proxy.stop()
    words = answer.text.split("\n")
    assert {"LITELLM_LOCAL_MODEL_COST_MAP", "LITELLM_MASTER_KEY", "NO_PROXY"} <= set(words)
    assert not {"NOTIFY_SOCKET", "LISTEN_FDS", "PYTEST_CURRENT_TEST"} & set(words)
    assert words[-6:-1] == ["--config", "/c.yaml", "--host", "127.0.0.1", "--port"]
    assert not Path(f"/proc/{proxy.pid}").exists()
    assert "killed by SIGTERM" in proxy.ended


async def test_its_log_has_no_secrets(tmp_path: Path) -> None:
    proxy = await LocalScratchProxies(install(tmp_path, SERVER)).start("/c", ENVIRONMENT, timeout=20, plain=True)
    await proxy.stop()
    assert proxy.log()[:2] == ("the key is ***", "token abc-***-abc")
    assert proxy.log(1) == proxy.log()[-1:]


async def test_a_config_error_in_words(tmp_path: Path) -> None:
    text = "#!{python}\nimport os, sys\nprint('ValueError: no', os.environ['OTHER'], flush=True)\nsys.exit(3)\n"
    assert await failure(install(tmp_path, text)) == (
        "cannot start LiteLLM: it ended (exit status 3, an error in its config or port: ValueError: no ***)"
    )


async def test_a_death_by_signal_in_words(tmp_path: Path) -> None:
    text = "#!{python}\nimport os, signal\nos.kill(os.getpid(), signal.SIGABRT)\n"
    assert await failure(install(tmp_path, text)) == "cannot start LiteLLM: it ended (killed by SIGABRT)"


async def test_a_program_that_never_answers_is_ended(tmp_path: Path) -> None:
    message = await failure(install(tmp_path, SILENT), timeout=1.5)
    assert message == "cannot start LiteLLM: it did not answer within 1.5 s: hm"
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists()


async def test_a_stranger_on_its_port_is_not_taken_for_it(tmp_path: Path) -> None:
    """The program itself does not listen: a child of its own does, with the same port."""
    text = SERVER.replace("class Handler", "if os.fork():\n    os.waitpid(-1, 0)\nclass Handler")
    text = text.replace("import http", "import ctypes, http").replace(
        "class Handler", "ctypes.CDLL(None).prctl(1, 9)\nclass Handler"
    )
    assert "it did not answer within 1.5 s" in await failure(install(tmp_path, text), timeout=1.5)


async def test_not_installed_and_not_runnable(tmp_path: Path) -> None:
    assert await failure(NOT_INSTALLED) == "cannot start LiteLLM: it is not installed"
    message = await failure(Install(str(tmp_path / "none"), sys.executable, "1"))
    assert message.startswith("cannot start LiteLLM: it ended (exit status 1")


async def test_a_start_that_is_cancelled_leaves_no_process(tmp_path: Path) -> None:
    proxies = LocalScratchProxies(install(tmp_path, SILENT))
    starting = asyncio.ensure_future(proxies.start("/c.yaml", ENVIRONMENT, timeout=60, plain=True))
    pid = await written(tmp_path / "pid")
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    assert not Path(f"/proc/{pid}").exists()


async def test_it_dies_with_us(tmp_path: Path) -> None:
    made = install(tmp_path, SILENT)
    code = f"""
import asyncio
from agentd.adapters.litellm_scratch import LocalScratchProxies
from agentd.core.gateway.install import Install
asyncio.run(LocalScratchProxies(Install({made.executable!r}, "", "1")).start("/c", {{}}, timeout=60, plain=True))
"""
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", code, env=environment)
    child = os.pidfd_open(await written(tmp_path / "pid"))
    parent.kill()
    await parent.wait()
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(child, gone.set)
    try:
        async with asyncio.timeout(10):
            await gone.wait()
    finally:
        loop.remove_reader(child)
        os.close(child)


async def written(path: Path) -> int:
    for _ in range(1000):
        if path.exists() and (text := path.read_text()):
            return int(text)
        await asyncio.sleep(0.01)
    pytest.fail("the program did not start in time")
