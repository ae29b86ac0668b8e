"""agentctl models verify NAME|DIR: without agentd, by looking at the files."""

from __future__ import annotations

from typing import Any

from agentd.cli import exits
from agentd.cli.context import Context
from agentd.cli.terminal import clean


def run(ctx: Context) -> int:
    from agentd import offline_models_look as look

    bar = _Bar(ctx)
    found: dict[str, Any] = look.verify(ctx.args.model, checksums=ctx.args.checksums, told=bar.told)
    bar.end()
    if ctx.json:
        ctx.print_json(found)
    else:
        show(ctx, found)
    return exits.FAILED if found["problems"] else exits.OK


def show(ctx: Context, found: dict[str, Any]) -> None:
    out = ctx.out
    for problem in found["problems"]:
        out.line(f"{out.paint('x', 'red')} {clean(problem['path'])} {clean(problem['problem'])}")
        if problem["fix"]:
            out.line(f"    {out.paint('fix', 'dim')} {clean(problem['fix'])}")
    for note in found["notes"]:
        out.line(out.paint("! ", "yellow") + clean(note))
    count = len(found["problems"])
    state = f"{count} problem{'' if count == 1 else 's'}" if count else "whole"
    checked = f", {found['checksums']} compared with their checksums" if found["checksums"] else ""
    files = f"{found['files']} file{'' if found['files'] == 1 else 's'} of weights"
    out.line(f"{clean(found['path'])}: {state}; {files}, {gib(found['size'])}{checked}")


def gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**27 else f"{size / 2**20:.1f} MiB"


class _Bar:
    """On a terminal, how far the reading is; a new line when a hundredth more is done."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._shown = -1

    def told(self, done: int, whole: int) -> None:
        share = int(100 * done / whole) if whole else 100
        if self._ctx.out.live and not self._ctx.json and share != self._shown:
            self._shown = share
            self._ctx.out.write(f"\r\x1b[K{share} %, {gib(done)} of {gib(whole)}")

    def end(self) -> None:
        if self._shown >= 0:
            self._ctx.out.write("\r\x1b[K")
