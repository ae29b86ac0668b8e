"""INFO's text -> RedisState. Redis 6 to 8 and Valkey: a field that is absent or broken keeps its default."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from agentd.stores import RedisState

_WHOLE = re.compile(r"-?[0-9]{1,19}")
_DATABASE = re.compile(r"db[0-9]{1,9}")
"""Redis 8 has lines like db0_distrib_strings_sizes besides."""

_NUMBERS: Mapping[str, str] = {
    "pid": "process_id",
    "uptime": "uptime_in_seconds",
    "used_memory": "used_memory",
    "used_memory_rss": "used_memory_rss",
    "maxmemory": "maxmemory",
    "total_system_memory": "total_system_memory",
    "aof_rewrites": "aof_rewrites",
    "aof_rewrite_failures": "aof_rewrites_consecutive_failures",
    "aof_last_rewrite_seconds": "aof_last_rewrite_time_sec",
    "aof_current_size": "aof_current_size",
    "aof_base_size": "aof_base_size",
    "aof_pending_fsync": "aof_pending_bio_fsync",
    "aof_delayed_fsync": "aof_delayed_fsync",
    "aof_last_cow_size": "aof_last_cow_size",
    "rdb_changes": "rdb_changes_since_last_save",
    "rdb_saves": "rdb_saves",
    "rdb_last_bgsave_seconds": "rdb_last_bgsave_time_sec",
    "rdb_last_cow_size": "rdb_last_cow_size",
    "rdb_last_load_keys": "rdb_last_load_keys_loaded",
}
_TEXTS: Mapping[str, str] = {
    "run_id": "run_id",
    "executable": "executable",
    "config_file": "config_file",
    "role": "role",
}
_FLAGS: Mapping[str, str] = {
    "aof_enabled": "aof_enabled",
    "aof_rewrite_in_progress": "aof_rewrite_in_progress",
    "aof_rewrite_scheduled": "aof_rewrite_scheduled",
    "rdb_bgsave_in_progress": "rdb_bgsave_in_progress",
}
_STATUSES: Mapping[str, str] = {
    "aof_last_bgrewrite_ok": "aof_last_bgrewrite_status",
    "aof_last_write_ok": "aof_last_write_status",
    "rdb_last_bgsave_ok": "rdb_last_bgsave_status",
}


def parse_info(text: str) -> RedisState:
    """The state that INFO's text tells; never raises. `executable` is what the server takes itself for: started as
    plain "redis-server", it joins that to its working directory."""
    fields = dict(_fields(text))
    values: dict[str, object] = {"fields": fields}
    values["product"] = "valkey" if _valkey(fields) else "redis"
    values["version"] = fields.get("valkey_version") or fields.get("redis_version", "")
    for name, key in _NUMBERS.items():
        if (number := _number(fields.get(key))) is not None:
            values[name] = number
    for name, key in _TEXTS.items():
        if fields.get(key):
            values[name] = fields[key]
    for name, key in _FLAGS.items():
        values[name] = bool(_number(fields.get(key)))
    for name, key in _STATUSES.items():
        values[name] = fields.get(key, "ok") == "ok"
    # A replica that loads what its master sent says so in another field.
    values["loading"] = any(_number(fields.get(key)) for key in ("loading", "async_loading"))
    values["rdb_last_save"] = float(_number(fields.get("rdb_last_save_time")) or 0)
    databases = [dict(_pairs(value)) for key, value in fields.items() if _DATABASE.fullmatch(key)]
    for name in ("keys", "expires"):
        values[name] = sum(_number(database.get(name)) or 0 for database in databases)
    return RedisState(**values)  # type: ignore[arg-type]


def _fields(text: str) -> Iterator[tuple[str, str]]:
    for line in text.split("\n"):
        name, colon, value = line.rstrip("\r").partition(":")
        if colon and name and not name.startswith("#"):
            yield name, value


def _valkey(fields: Mapping[str, str]) -> bool:
    """Valkey 7 has no version of its own, only the name."""
    return "valkey_version" in fields or fields.get("server_name") == "valkey"


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and _WHOLE.fullmatch(text) else None


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for item in text.split(","):
        name, _, value = item.partition("=")
        yield name, value
