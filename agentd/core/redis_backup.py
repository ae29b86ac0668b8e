"""The record of a backup: what is in it, how it is checked, and which older ones go. Pure.

A backup is a directory STORE-TIME with the RDB, the parts of the append-only file, and this record as `backup.json`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec

from agentd.errors import AgentdError
from agentd.stores import FileDigest, RedisState

RECORD = "backup.json"
FORMAT = 1
PARTIAL = ".partial"
"""Ends the name of a directory that is not whole yet; one that a killed process left is removed by the next backup."""
NAMES = ("dbfilename", "appenddirname", "appendfilename")

SOON = 60
"""Seconds by which names may be ahead of the clock."""

_STAMP = "%Y%m%dT%H%M%SZ"
_STAMPED = r"[0-9]{8}T[0-9]{6}Z"
_DATABASE = re.compile(r"db([0-9]{1,9})")
_COUNTS = re.compile(r"keys=([0-9]+),expires=([0-9]+)")

Whole = Annotated[int, msgspec.Meta(ge=0)]
Name = Annotated[str, msgspec.Meta(min_length=1)]


@dataclass(frozen=True, slots=True)
class BackupInfo:
    """What a backup holds. Keys and expires are those of the RDB, by database."""

    store: str
    product: str
    version: str
    time: float
    """Of the RDB: when its saving ended, in seconds since the epoch."""
    keys: Mapping[int, int]
    expires: Mapping[int, int]
    """Of the keys, those with a time to live."""
    files: tuple[FileDigest, ...]
    """Every file but the record itself, by path."""
    names: Mapping[str, str] = field(default_factory=dict)
    """dbfilename, appenddirname and appendfilename of the server."""
    loaded: bool = False
    """A server loaded the RDB and counted the keys. Otherwise they are those of the running server around the save."""
    used_memory: int = 0
    """Bytes that the data set took in the server."""

    @property
    def total(self) -> int:
        return sum(self.keys.values())

    @property
    def rdb(self) -> FileDigest:
        return next(file for file in self.files if file.path == self.names["dbfilename"])


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: Name
    size: Whole
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    store: Name
    product: str
    version: str
    time: Annotated[float, msgspec.Meta(ge=0, le=253402300799)]
    keys: dict[int, Whole]
    expires: dict[int, Whole]
    names: dict[str, Name]
    files: tuple[_File, ...]
    loaded: bool
    used_memory: Whole
    checksum: str


def stamp(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime(_STAMP)


def directory_name(store: str, time: float) -> str:
    return f"{store}-{stamp(time)}"


def free_name(store: str, time: float, names: Collection[str]) -> str:
    """A directory name for the next backup. Several within one second are named by the next ones, in their order."""
    moments = [time + second for second in range(SOON)]
    last = max((number for number, at in enumerate(moments) if directory_name(store, at) in names), default=-1)
    while (chosen := directory_name(store, time + last + 1)) in names:
        last += 1
    return chosen


def check_name(backup: str, token: str) -> str:
    """Of the directory in which a backup is loaded for a check; `token` (hexadecimal) keeps two of them apart."""
    return f"{backup}.{token}.check{PARTIAL}"


def leftovers(store: str, names: Collection[str]) -> tuple[str, ...]:
    """What a backup of this store that was cut off left; never anything of another store."""
    ours = re.compile(re.escape(store) + f"-{_STAMPED}(\\.[0-9a-f]+)?(\\.check)?({re.escape(PARTIAL)})+")
    return tuple(name for name in sorted(names) if ours.fullmatch(name))


def candidates(store: str, names: Collection[str]) -> tuple[str, ...]:
    """Names that a backup of this store may have, oldest first."""
    ours = re.compile(re.escape(store) + f"-{_STAMPED}")
    return tuple(name for name in sorted(names) if ours.fullmatch(name))


def surplus(backups: Mapping[str, bool], keep: int, *, new: str = "") -> tuple[str, ...]:
    """Which complete backups (name -> it was verified by loading) go, oldest first.

    The newest `keep` stay, at least one; the newest one that was loaded stays whatever its age, and so does `new`: with
    a clock that was set back it need not have the latest name. A new one that was not loaded replaces no loaded one.
    """
    newest = sorted(backups, key=lambda name: (name == new, name), reverse=True)
    stay = set(newest[: max(1, keep)])
    verified = [name for name in newest if backups[name]]
    stay.update(verified if new and not backups.get(new, False) else verified[:1])
    return tuple(sorted(name for name in backups if name not in stay))


def databases(state: RedisState) -> tuple[dict[int, int], dict[int, int]]:
    """(keys, expires) by database, from INFO's keyspace."""
    keys: dict[int, int] = {}
    expires: dict[int, int] = {}
    for name, value in state.fields.items():
        database, counts = _DATABASE.fullmatch(name), _COUNTS.match(value)
        if database and counts:
            keys[int(database[1])], expires[int(database[1])] = int(counts[1]), int(counts[2])
    return keys, expires


def missing_keys(info: BackupInfo, keys: Mapping[int, int], expires: Mapping[int, int]) -> str:
    """What differs between the record and what a server loaded now, in one sentence; "" when it is as recorded.

    Keys with a time to live may have expired since; every other key has to be there.
    """
    for database in sorted({*info.keys, *keys}):
        wanted = info.keys.get(database, 0) - info.expires.get(database, 0)
        found = keys.get(database, 0) - expires.get(database, 0)
        if wanted != found:
            return f"database {database} has {found} keys without a time to live instead of {wanted}"
        if expires.get(database, 0) > info.expires.get(database, 0):
            return (
                f"database {database} has {expires[database]} keys with a time to live "
                f"instead of {info.expires.get(database, 0)}"
            )
    return ""


def to_json(info: BackupInfo) -> str:
    body: dict[str, Any] = {
        "format": FORMAT,
        "store": info.store,
        "product": info.product,
        "version": info.version,
        "time": info.time,
        "keys": {str(number): count for number, count in sorted(info.keys.items())},
        "expires": {str(number): count for number, count in sorted(info.expires.items())},
        "names": dict(info.names),
        "files": [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in info.files],
        "loaded": info.loaded,
        "used_memory": info.used_memory,
    }
    return json.dumps({**body, "checksum": _checksum(body)}, indent=2, ensure_ascii=False) + "\n"


def from_json(text: str, where: str) -> BackupInfo:
    """`where` is the path of the record, for the message. Raises AgentdError("backup-damaged")."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        raise damaged(where, "it is not JSON") from None
    if not isinstance(body, dict):
        raise damaged(where, "it is not a JSON object")
    if body.get("format") != FORMAT:
        found = body.get("format", "none")
        hint = "use the version of agentctl that made it" if isinstance(found, int) and found > FORMAT else ""
        raise damaged(where, f"its format is {found}; this agentd knows {FORMAT}", hint)
    try:
        record = msgspec.convert(body, _Record, strict=True, str_keys=True)
    except msgspec.ValidationError as error:
        raise damaged(where, str(error)[:1].lower() + str(error)[1:].replace("`$.", "`")) from None
    if record.checksum != _checksum({key: value for key, value in body.items() if key != "checksum"}):
        raise damaged(where, "its checksum is wrong, so somebody or something changed it")
    _check_paths(record, where)
    files = tuple(FileDigest(file.path, file.size, file.sha256) for file in record.files)
    return BackupInfo(
        record.store, record.product, record.version, record.time, record.keys, record.expires, files,
        record.names, record.loaded, record.used_memory,
    )  # fmt: skip


def damaged(where: str, what: str, hint: str = "") -> AgentdError:
    return AgentdError("backup-damaged", f"cannot use {where}: {what}", hint=hint or "take another backup")


def wrong_files(info: BackupInfo, found: Collection[FileDigest]) -> tuple[str, ...]:
    """A sentence for every file that is not as recorded. Files that the record does not name are passed over."""
    there = {file.path: file for file in found}
    wrong = []
    for file in info.files:
        now = there.get(file.path)
        if now is None:
            wrong.append(f"{file.path} is missing")
        elif now.size != file.size:
            wrong.append(f"{file.path} has {now.size} bytes instead of {file.size}")
        elif now.sha256 != file.sha256:
            wrong.append(f"{file.path} has another checksum than when it was made")
    return tuple(wrong)


def _check_paths(record: _Record, where: str) -> None:
    """Names are joined to paths by whoever restores: none may lead out of the directory."""
    for name in NAMES:
        value = record.names.get(name, "")
        if value in ("", ".", "..") or "/" in value or "\0" in value:
            raise damaged(where, f'its name for {name} is "{value}"')
    for file in record.files:
        if "\0" in file.path or any(part in ("", ".", "..") for part in file.path.split("/")):
            raise damaged(where, f'"{file.path}" is no path inside of it')
    paths = [file.path for file in record.files]
    if len(set(paths)) != len(paths):
        raise damaged(where, "it names a file twice")
    if record.names["dbfilename"] not in paths:
        raise damaged(where, f"it names no RDB ({record.names['dbfilename']})")


def _checksum(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
