"""The file with a model's API key, judged by its text as the unit will read it. Pure.

Everything here raises AgentdError("bad-request") with what is wrong and what to write instead, never with the key.
"""

from __future__ import annotations

from agentd.core.gateway import env_text
from agentd.core.model_args import wrong

VARIABLE = "VLLM_API_KEY"
_PATTERN = "*?[\\"
"""EnvironmentFile= takes a path with one of these for a pattern."""


def check_env_file(path: str, text: str) -> None:
    """A file for EnvironmentFile=: what systemd passes over in silence would leave the server without a key."""
    if any(mark in path for mark in _PATTERN):
        text = f"{path} cannot be read by systemd, which takes *, ?, [ and \\ in it for a pattern"
        raise wrong(text, "give the file another name, or another directory")
    if env_text.parse(text).get(VARIABLE):
        return
    if env_text.parse(text, exported=True).get(VARIABLE):
        raise wrong(f'{path} has "export {VARIABLE}=...", a line that systemd passes over', 'write it without "export"')
    raise wrong(f"{path} has no line {VARIABLE}=...", f"of the key alone: --api-key-credential {path}")


def check_alone(path: str, text: str) -> None:
    """A file for LoadCredential=: all that is in it becomes the key, but for the end of the line. agentd, which reads
    it too, takes a "=" for an assignment."""
    key = text.removesuffix("\n")
    if key and key.isprintable() and key == key.strip() and "=" not in key and not key.startswith("#"):
        return
    hint = f"of lines NAME=value: --env-file {path}" if "=" in text else "write the key to it, and nothing else"
    what = "it may have one line, with no blanks around the key, no comment and no ="
    raise wrong(f"{path} is not a file with the key alone: {what}", hint)
