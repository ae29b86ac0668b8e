"""Hide what looks like a secret in text that others wrote: journal lines, command lines, URLs."""

from __future__ import annotations

import re

HIDDEN = "***"

_NAMES = r"(?:api[_-]?key|master[_-]?key|password|passwd|secret|(?:access|auth|api|hf|bearer)[_-]?token)"
# No pattern looks far ahead from many places: a line is anybody's, and its time grows with its length, not its square.
_PATTERNS = (
    # --api-key VALUE; argparse also takes --api-key=VALUE, which the next pattern covers
    (re.compile(rf"(--[\w-]{{0,40}}{_NAMES}\s+)(?!-)([^\s\"',]+)", re.IGNORECASE), rf"\1{HIDDEN}"),
    # NAME=VALUE, "name": "value", 'api_key': ['value']
    (re.compile(rf"({_NAMES}[\"']?\s*[=:]\s*(?:[\[(]\s*)?[\"']?)([^\s\"',\])]+)", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"(\b(?:Bearer|Basic)\s+)([\w.~+/=-]{4,})", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"(\b[a-z][a-z0-9+.-]{0,40}://[^\s/@:]*:)([^\s/@]+)(?=@)", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"\b()((?:sk|hf|ghp|xox[abp])[-_][A-Za-z0-9_-]{16,})"), rf"\1{HIDDEN}"),
)


def redact(text: str) -> str:
    """The text with values of keys, tokens and passwords replaced; everything else is unchanged."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def without_credentials(url: str) -> str:
    """The URL without user, password and query: fit for a message."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    end = min((i for i in map(rest.find, "/?#") if i >= 0), default=len(rest))
    authority, tail = rest[:end].rpartition("@")[2], rest[end:]
    return f"{scheme}://{authority}{re.split('[?#]', tail)[0]}"
