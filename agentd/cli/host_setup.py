"""agentctl host-setup: what root has to do once; as root with --apply it does it."""

from __future__ import annotations

import os
import sys
from typing import Any

from agentd.cli import exits
from agentd.cli.context import Context
from agentd.cli.parser import UsageError
from agentd.cli.terminal import clean
from agentd.errors import AgentdError

Row = dict[str, Any]


def run(ctx: Context) -> int:
    args = ctx.args
    if args.apply and args.undo:
        raise UsageError("--apply and --undo contradict each other")
    if args.restart and not args.apply:
        raise UsageError("--restart goes with --apply")
    from agentd import hostsetup

    if args.undo:
        _need_root("agentctl host-setup --undo", f"{_program()} host-setup --undo")
        return _undo(ctx)
    who = hostsetup.account(_user(args.user))
    if args.apply:
        options = " --restart" if args.restart else ""
        _need_root("agentctl host-setup --apply", f"{_program()} host-setup --apply --user {who.name}{options}")
    elif os.geteuid() not in (0, who.uid):
        _need_root(f"the manager of {who.name}", f"{_program()} host-setup --user {who.name}")
    if args.apply:
        hostsetup.recover()
    found = hostsetup.survey(who, args.config)
    if args.apply and found.steps:
        return _apply(ctx, found)
    ctx.print_json(hostsetup.as_json(found)) if ctx.json else _show(ctx, hostsetup.as_json(found))
    return exits.OK


def _apply(ctx: Context, found: Any) -> int:
    from agentd import hostsetup

    if not ctx.json:
        _show(ctx, hostsetup.as_json(found), hint=False)
    _confirm(ctx, "Do this?")
    done = hostsetup.apply(found.steps, restart=ctx.args.restart)
    left = hostsetup.as_json(hostsetup.survey(found.account, ctx.args.config), done)
    if ctx.json:
        ctx.print_json(left)
    else:
        _tell(ctx, left["applied"])
        _show_left(ctx, left)
    return exits.FAILED if any(not step["restarts"] for step in left["steps"]) else exits.OK


def _show_left(ctx: Context, left: Row) -> None:
    """What is still missing: a restart, or what should be in effect by now and is not."""
    for step in left["steps"]:
        if not step["restarts"]:
            ctx.out.line(ctx.out.paint("! ", "red") + f"not in effect: {clean(step['title'])}")
            if step["blocked"]:
                ctx.out.line(f"  {clean(step['blocked'])}")
    for unit in dict.fromkeys(unit for step in left["steps"] for unit in step["restarts"]):
        ctx.out.line(f"still to do: systemctl restart {unit}  ({_ends(left)})")
    if not left["steps"]:
        ctx.out.line("everything is in effect")


def _undo(ctx: Context) -> int:
    from agentd import hostsetup
    from agentd.wire import plain

    _confirm(ctx, "Remove the files of host-setup?")
    done = plain(hostsetup.undo())
    if ctx.json:
        ctx.print_json({"applied": done})
        return exits.OK
    _tell(ctx, done)
    if done["removed"]:
        ctx.out.line("users' managers keep what they have until they are restarted, sysctl values until the next boot;")
        ctx.out.line("lingering is left on (loginctl disable-linger NAME ends it)")
    elif not done["kept"]:
        ctx.out.line("nothing to undo: there is no file of host-setup")
    return exits.OK


def _show(ctx: Context, found: Row, *, hint: bool = True) -> None:
    out = ctx.out
    for note in found["notes"]:
        out.line(out.paint("! ", "yellow") + clean(note))
    if not found["steps"]:
        out.line(f"nothing to do for {found['user']} (uid {found['uid']})")
        return
    out.line(f"For {found['user']} (uid {found['uid']}):")
    for number, step in enumerate(found["steps"], 1):
        out.line()
        out.line(out.paint(f"{number}. {clean(step['title'])}", "bold"))
        _show_step(ctx, step, _ends(found))
    if hint and any(not step["blocked"] for step in found["steps"]):
        out.line()
        out.line(f"To do it: sudo {_program()} host-setup --apply --user {found['user']}")


def _show_step(ctx: Context, step: Row, ends: str) -> None:
    out = ctx.out
    out.line(f"   {out.paint('why', 'dim')}      {clean(step['why'])}")
    if step["blocked"]:
        out.line(f"   {out.paint('blocked', 'red')}  {clean(step['blocked'])}")
    for path, text in step["files"].items():
        out.line(f"   {out.paint('write', 'dim')}    {path}")
        for line in text.splitlines():
            out.line(f"              {clean(line)}")
    _lines(ctx, "run", step["commands"])
    _lines(ctx, "restart", [f"{unit}  ({ends})" for unit in step["restarts"]])
    _lines(ctx, "undo", step["undo"])


def _lines(ctx: Context, word: str, lines: list[str]) -> None:
    for line in lines:
        ctx.out.line(f"   {ctx.out.paint(word.ljust(7), 'dim')}  {line}")


def _tell(ctx: Context, done: Row) -> None:
    for verb, key in (("wrote", "written"), ("removed", "removed"), ("ran", "ran")):
        for item in done[key]:
            ctx.out.line(f"{verb} {item}")
    for path in done["kept"]:
        ctx.out.line(f"kept {path}: somebody changed it")


def _ends(found: Row) -> str:
    """What a restart of the user's manager costs."""
    text = f"ends every service of {found['user']}"
    return text + ", this terminal too" if _inside(found["uid"]) else text


def _inside(uid: int) -> bool:
    """This process lives below the user's manager, as programs of a desktop do."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as stream:  # noqa: PTH123  (pathlib would cost the start-up)
            return f"/user@{uid}.service/" in stream.read()
    except OSError:
        return False


def _user(name: str | None) -> str:
    """Whose manager is meant. Under sudo it is never root's, unless root is named."""
    if name:
        return str(name)
    if os.geteuid() != 0:
        return str(os.geteuid())
    caller = os.environ.get("SUDO_USER", "")
    if caller in ("", "root"):
        raise UsageError("cannot tell whose manager is meant", "name the user: agentctl host-setup --user NAME")
    return caller


def _need_root(what: str, command: str) -> None:
    if os.geteuid() != 0:
        raise AgentdError("not-root", f"cannot do this as a user: {what} needs root", hint=f"sudo {command}")


def _program() -> str:
    """As sudo finds it, which does not look into ~/.local/bin."""
    return sys.argv[0] if sys.argv and sys.argv[0].startswith("/") else "agentctl"


def _confirm(ctx: Context, question: str) -> None:
    if ctx.args.yes:
        return
    if ctx.json or not sys.stdin.isatty():
        raise UsageError("there is nobody to ask for a yes here", "add --yes")
    print(f"{question} [y/N] ", end="", flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise AgentdError("not-confirmed", "nothing was changed: no yes was given")
