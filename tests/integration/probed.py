"""A small server for probes, told by a file how to answer, and units around it."""

from __future__ import annotations

import textwrap
from pathlib import Path

from integration.stack import Stack
from userunits import systemctl

WEB_PORT = 8101
_SERVER = """\
#!/usr/bin/python3 -IS
import http.server, pathlib, sys, time

MOOD = pathlib.Path(sys.argv[2])


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        mood = MOOD.read_text().strip()
        while mood == "hang":
            time.sleep(0.05)
            mood = MOOD.read_text().strip()
        self.send_response(int(mood))
        self.end_headers()

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer.daemon_threads = True
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class Web:
    """`test-web.service`, the service `web`: its mood is an HTTP status or "hang"."""

    unit = "test-web.service"
    url = f"http://127.0.0.1:{WEB_PORT}"

    def __init__(self, stack: Stack, *, unit: str = "", mood: str = "200") -> None:
        self._stack = stack
        self._mood = stack.home / "web-mood"
        self.mood = mood
        server = stack.home / "web-server"
        server.write_text(_SERVER)
        server.chmod(0o755)
        start = f"[Service]\nExecStart={server} {WEB_PORT} {self._mood}\n"
        (stack.units / self.unit).write_text(start + textwrap.dedent(unit))
        systemctl("daemon-reload")

    @property
    def mood(self) -> str:
        return self._mood.read_text()

    @mood.setter
    def mood(self, value: str) -> None:
        fresh = Path(f"{self._mood}.new")
        fresh.write_text(value)
        fresh.rename(self._mood)

    @property
    def pid(self) -> int:
        return self._stack.pid(self.unit)

    def config(self, text: str = "") -> str:
        return f'[services.web]\nunit = "{self.unit}"\nurl = "{self.url}"\n{textwrap.dedent(text)}'
