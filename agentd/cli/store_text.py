"""A store for a person: the word and why, the figures, and what needs attention with its cause and fix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from agentd.cli import findings_table
from agentd.cli.durations import ago, span
from agentd.cli.terminal import Terminal, clean
from agentd.errors import AgentdError

Row = dict[str, Any]

BAD = ("warning", "error")
WORDS = {True: "as wanted", False: "not as wanted", None: "not verified"}
LABEL = 10
NONE = "no store is configured; give a service the role store, or set url in [redis]"


def chosen(stores: Sequence[Row], name: str) -> list[Row]:
    """The one of this name, all for "". Raises AgentdError("store-not-found")."""
    found = [store for store in stores if name in ("", store["name"])]
    if name and not found:
        names = [str(store["name"]) for store in stores]
        raise AgentdError("store-not-found", f'no store "{name}"', hint=_hint(name, names))
    return found


def head(out: Terminal, store: Row) -> None:
    where = ", ".join(clean(store[key]) for key in ("url", "unit") if store[key])
    out.line(
        f"{out.paint(clean(store['name']), 'bold')}: {out.word(store['durability'])}" + (f"  {where}" * bool(where))
    )
    for text in dict.fromkeys((store["summary"], store["problem"])):
        if text:
            out.line(f"  {clean(text)}")
    record = store["record"]
    if record and record["loss"] and record["evidence"] and record["evidence"] not in store["summary"]:
        out.line(f"  the files as they were found: {clean(record['evidence'])}")
    if store["enforcing"]:
        follow = f"agentctl switch status {clean(store['enforcing'])} --follow"
        out.line(f"  change {clean(store['enforcing'])} is under way; follow it with: {follow}")


def figures(out: Terminal, store: Row, now: float) -> None:
    """Nothing of a server that was never seen; what it said last, with its age, of one that is away."""
    for word, text in _lines(store, now):
        if text:
            out.line(f"  {out.paint(word.ljust(LABEL), 'dim')} {text}")


def attention(out: Terminal, store: Row) -> None:
    found = [f for f in store["findings"] if f["severity"] in BAD]
    for finding in sorted(found, key=lambda f: findings_table.ORDER.index(f["severity"])):
        mark, tone = findings_table.MARKS[finding["severity"]]
        out.line(
            f"  {out.paint(mark, tone)} {clean(finding['aspect'])}: {clean(finding['cause'] or finding['verdict'])}"
        )
        if finding["fix"]:
            out.line(f"    {out.paint('fix', 'dim')} {clean(finding['fix'])}")


def size(count: int) -> str:
    """ "512 bytes", "36.1 MiB"."""
    amount, unit = float(count), "bytes"
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024 or unit == "TiB":
            break
        amount /= 1024
    return f"{count} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"


def _lines(store: Row, now: float) -> Iterable[tuple[str, str]]:
    state, record = store["state"], store["record"]
    if state:
        yield "keys", f"{state['keys']}, {state['expires']} of them with a time to live; {size(state['used_memory'])}"
    yield "run time", WORDS[store["runtime"]]
    yield "file", WORDS[store["file"]]
    if state:
        yield "AOF", _aof(state, store["proven"])
        yield "RDB", _rdb(state, now)
    if store["space"]:
        yield "disk", f"{size(store['space']['free'])} of {size(store['space']['total'])} free"
    if record and record["backup_at"]:
        yield "backup", f"{ago(record['backup_at'], now)}, {size(store['backup_bytes'])}"
    if record and record["drill_at"]:
        result = {True: "the data came back", False: "failed", None: "no result"}[record["drill_ok"]]
        yield "drill", f"{ago(record['drill_at'], now)}: {result}"
    if state:
        server = (
            f"{clean(state['product'])} {clean(state['version'])}, {clean(state['role'])}, up {span(state['uptime'])}"
        )
        yield "server", server + (", loading its data" if state["loading"] else "")
    yield "looked at", ago(store["at"], now) or "never"


def _aof(state: Row, proven: bool | None) -> str:
    if not state["aof_enabled"]:
        return "off"
    parts = [{True: "on, proven", False: "on, not proven", None: "on"}[proven], size(state["aof_current_size"])]
    if state["aof_rewrite_in_progress"] or state["aof_rewrite_scheduled"]:
        parts.append("a rewrite runs" if state["aof_rewrite_in_progress"] else "a rewrite waits for a save")
    elif not state["aof_last_bgrewrite_ok"]:
        parts.append(f"the last rewrite failed ({state['aof_rewrite_failures']} in a row)")
    elif state["aof_last_rewrite_seconds"] >= 0:
        parts.append(f"last rewrite took {state['aof_last_rewrite_seconds']} s")
    if not state["aof_last_write_ok"]:
        parts.append("the last write failed")
    if state["aof_delayed_fsync"]:
        parts.append(f"{state['aof_delayed_fsync']} writes waited for the disk")
    return ", ".join(parts)


def _rdb(state: Row, now: float) -> str:
    word = "a save runs" if state["rdb_bgsave_in_progress"] else "ok" if state["rdb_last_bgsave_ok"] else "failed"
    saved = f"last save {ago(state['rdb_last_save'], now)}" if state["rdb_saves"] else "not saved since its start"
    return f"{word}, {saved}, {state['rdb_changes']} changes since"


def _hint(name: str, names: Sequence[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, names, n=1)
    return f'did you mean "{close[0]}"?' if close else "there are: " + ", ".join(names) if names else NONE
