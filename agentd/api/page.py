"""The status page: one self-contained document, whose policy names its script and its style by their hashes."""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path

from aiohttp import web


async def page(_: web.Request) -> web.Response:
    text, policy = _document()
    headers = {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY"}
    return web.Response(text=text, content_type="text/html", headers=headers)


@functools.cache
def _document() -> tuple[str, str]:
    """The page and its Content-Security-Policy."""
    here = Path(__file__).parent
    style, script = ((here / name).read_text("utf-8") for name in ("page.css", "page.js"))
    text = (here / "page.html").read_text("utf-8")
    text = text.replace("/*STYLE*/", style).replace("/*SCRIPT*/", script)
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text, policy


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
