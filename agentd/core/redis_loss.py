"""Whether a store lost its data between two starts, and how to bring it back. Pure."""

from __future__ import annotations

from enum import Enum

from agentd.core.redis_layout import LAYOUT_NAMES
from agentd.core.redis_view import StoreView
from agentd.stores import StoreRecord

NEARLY_NONE = 0.01
"""Fewer keys than this share of the recorded ones count as none: clients write again within milliseconds."""
MANY = 0.9
"""From this share on nothing is said: with everysec a power loss takes the last seconds."""


EMPTY_RDB = 256
"""Bytes; an RDB without a key is smaller, one with some is mostly larger."""


class Loss(Enum):
    ALL = "all"
    SOME = "some"


def lost(record: StoreRecord, view: StoreView) -> Loss | None:
    """Compares with the keys that were there before. Keys with a time to live may have gone by themselves while the
    server was down; that they are all gone at once counts as a loss only where the files on the disk hold more."""
    lasting = record.keys - record.expires
    now = view.state.keys
    if not record.run_id:  # Never seen before: the classic way to lose everything shows all the same.
        return Loss.ALL if now == 0 and _more_on_disk(view) else None
    if not record.keys or now >= record.keys * MANY:
        return None
    if now <= record.keys * NEARLY_NONE and (lasting > 0 or _more_on_disk(view)):
        return Loss.ALL
    return Loss.SOME if now < lasting * MANY else None


def back(record: StoreRecord, view: StoreView) -> bool:
    """Whether what was lost is there again. Where nobody had counted it before, only another start can have brought it
    back, and one that read the RDB, or an append-only file that holds about as much."""
    state = view.state
    if record.keys:
        return lost(record, view) is None
    if not state.keys or state.run_id == record.run_id:
        return False
    return not _more_on_disk(view) or state.aof_current_size >= view.rdb_size // 2


def _more_on_disk(view: StoreView) -> bool:
    """An RDB with keys, from before this start, that the server did not read because its append-only file was on."""
    old = view.rdb_mtime is not None and view.rdb_mtime < view.started
    return view.state.aof_enabled and old and view.rdb_size > EMPTY_RDB


def repair(record: StoreRecord, view: StoreView, evidence: str) -> str:
    """What to do, in one paragraph of numbered steps."""
    user = "--user " if view.launch.scope == "user" else ""
    start = f"systemctl {user}start {view.launch.unit}" if view.launch.unit else "start it"
    file = view.state.config_file or "its configuration file"
    moved = [
        f'{name} "{view.running[name]}" back to "{was}"'
        for name in LAYOUT_NAMES
        if view.running is not None
        and (was := record.files.get(name))
        and name in view.running
        and view.running[name] != was
    ]
    copies = f" Copies of the files as they were found: {evidence}." if evidence else ""
    first = "Repair: (1) let nothing write to it; (2) redis-cli SHUTDOWN NOSAVE; "
    if moved:
        steps = f"(3) in {file} set {', '.join(moved)}; (4) {start}."
    elif view.state.aof_enabled:
        steps = (
            f"(3) see that {_rdb(view)} is the old one, else take it from the copy; (4) set appendonly no in {file};"
            f" (5) {start}, and agentd switches the append-only file on again."
        )
    else:
        steps = f"(3) put the old files back into place, or: agentctl redis restore a backup; (4) {start}."
    last = f" When it is right as it is: agentctl redis enforce {view.name} --accept-loss."
    return first + steps + copies + last


def _rdb(view: StoreView) -> str:
    return view.layout.rdb if view.layout is not None else "dump.rdb"
