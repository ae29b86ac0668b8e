"""What a store's policy asks of the server, what differs, when a change may begin, and when it is proven."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from agentd.core.aof_manifest import Manifest
from agentd.core.quantities import QuantityError
from agentd.core.redis_layout import LAYOUT_NAMES
from agentd.core.redis_leaves import memory, points, readable, save_points
from agentd.core.schema_redis import RedisPolicy
from agentd.stores import AofFiles, RedisState, Space

OLDEST = 7
"""First Redis whose append-only file is a directory with a manifest; every Valkey has one."""

_HEADROOM = 64 * 1024**2
_COPIED = 10
"""One page of so many is expected to be written while a child saves, and is copied for it."""
_WORD = {True: "yes", False: "no"}
_MAJOR = re.compile(r"([0-9]{1,9})\.")


@dataclass(frozen=True, slots=True)
class Drift:
    """A setting (by CONFIG's name) whose running value is not the policy's."""

    name: str
    wanted: str
    found: str


def wanted(policy: RedisPolicy) -> Mapping[str, str]:
    """CONFIG's names -> values as CONFIG GET shows them."""
    return {
        "appendonly": _WORD[policy.appendonly],
        "appendfsync": policy.appendfsync,
        "save": save_points(policy.save),
        "aof-use-rdb-preamble": _WORD[policy.aof_use_rdb_preamble],
        "aof-load-truncated": _WORD[policy.aof_load_truncated],
        "no-appendfsync-on-rewrite": _WORD[policy.no_appendfsync_on_rewrite],
        "stop-writes-on-bgsave-error": _WORD[policy.stop_writes_on_bgsave_error],
        "auto-aof-rewrite-percentage": str(policy.auto_aof_rewrite_percentage),
        "auto-aof-rewrite-min-size": str(policy.auto_aof_rewrite_min_size),
    }


NAMES: tuple[str, ...] = (*wanted(RedisPolicy()), *LAYOUT_NAMES)
"""All that a server is asked for: what the policy sets, and where the files are."""


def same(name: str, one: str, other: str) -> bool:
    """Whether both texts mean the same value of the setting; the order of save points does not matter to Redis."""
    return _meaning(name, one) == _meaning(name, other)


def drift(policy: RedisPolicy, running: Mapping[str, str]) -> tuple[Drift, ...]:
    """What differs, in the order of `wanted`. `running` is CONFIG GET; what the server does not know is left out."""
    known = (Drift(name, value, running[name]) for name, value in wanted(policy).items() if name in running)
    return tuple(item for item in known if not same(item.name, item.wanted, item.found))


def settings_before_aof(policy: RedisPolicy, running: Mapping[str, str]) -> Mapping[str, str]:
    """What one CONFIG SET must bring before the append-only file is switched on: all drift but `appendonly`.

    Save points are taken away only once `running` has the append-only file on. Until its first rewrite ended they
    are all the persistence that there is; so ask again with what CONFIG GET says after the proof.
    """
    kept = {"appendonly"}
    if policy.appendonly and not policy.save and running.get("appendonly") != "yes":
        kept.add("save")
    return {item.name: item.wanted for item in drift(policy, running) if item.name not in kept}


def proof(
    state: RedisState, *, rewrites_before: int | None, aof: AofFiles | None, manifest: Manifest | None
) -> tuple[str, ...]:
    """Why the append-only file is not proven usable, a sentence each; () when it is.

    `rewrites_before`: `aof_rewrites` from before it was switched on; None when it was on already. `aof` and `manifest`
    (None when its text is no manifest) are what lies on the disk; without `aof`, or where it has a problem, the files
    are not judged.
    """
    found = list(_unproven(state))
    if rewrites_before is not None and state.aof_rewrites <= rewrites_before:
        found.append(f"no rewrite has begun since it was switched on (aof_rewrites is still {state.aof_rewrites})")
    if aof is not None and not aof.problem:
        found += _missing(aof, manifest)
    return tuple(found)


def refusals(
    state: RedisState,
    running: Mapping[str, str],
    space: Space | None,
    policy: RedisPolicy,
    memory_available: int | None,
) -> tuple[str, ...]:
    """Why nothing may be changed now, a sentence each with what to do; () when all is well.

    `memory_available`: bytes that a new process can get on the server's machine. None, of it or of `space`, means not
    known, which is no refusal.
    """
    found = list(_not_fit(state))
    if "appendonly" not in running:
        found.append("CONFIG GET does not show appendonly: it may be hidden from the ACL user that agentd comes as")
    need = 2 * state.used_memory + policy.disk_margin
    if space is not None and space.free < need:
        found.append(
            f"{readable(space.free)} are free where it keeps its files, and {readable(need)} are needed (twice its "
            f"data set of {readable(state.used_memory)}, and redis.disk_margin): free space there"
        )
    copied = state.used_memory / _COPIED + _HEADROOM
    if memory_available is not None and memory_available < copied:
        found.append(
            f"{readable(memory_available)} of memory are available, and a child that saves may need {readable(copied)}"
            f" (a tenth of its data set of {readable(state.used_memory)}, and 64 MiB): free memory"
        )
    return tuple(found)


def overdue(state: RedisState, policy: RedisPolicy, now: float) -> float:
    """Seconds by which the last snapshot is older than the save points allow; 0 when all is well.

    Judged by the longest of the points whose number of changes is reached. While a child runs the snapshot is on its
    way, or waits for that child.
    """
    due = [seconds for seconds, changes in points(policy.save) if state.rdb_changes >= changes]
    if not due or not state.rdb_last_save or state.saving or state.loading:
        return 0.0
    return max(0.0, now - state.rdb_last_save - max(due))


def _meaning(name: str, text: str) -> object:
    if name == "save":
        try:
            return sorted(points(text))
        except QuantityError:  # nothing that a policy may say, so it differs from all that it does
            return text
    if name.startswith("auto-aof-rewrite-"):
        size = memory(text)
        return text if size is None else size
    return text.strip().lower()


def _unproven(state: RedisState) -> Iterator[str]:
    if state.loading:
        yield "the server still loads its data set"
    if not state.aof_enabled:
        yield "the append-only file is off"
    if state.aof_rewrite_in_progress:
        yield "a rewrite of the append-only file runs"
    if state.aof_rewrite_scheduled:
        yield "a rewrite of the append-only file waits for its turn"
    if not state.aof_last_bgrewrite_ok:
        yield "the last rewrite of the append-only file failed"
    if state.aof_rewrite_failures:
        yield f"rewrites of the append-only file that failed in a row: {state.aof_rewrite_failures}"
    if not state.aof_last_write_ok:
        yield "the last write to the append-only file failed"


def _missing(aof: AofFiles, manifest: Manifest | None) -> Iterator[str]:
    if manifest is None:
        yield f"the append-only directory has {'no' if aof.manifest is None else 'no readable'} manifest"
        return
    if not manifest.base:
        yield "the manifest names no base file"
    if not manifest.increments:
        yield "the manifest names no file of increments"
    for name in (manifest.base, *manifest.increments):
        if name and name not in aof.sizes:
            yield f"the manifest names {name}, and it is not there"
    if manifest.base.endswith(".rdb") and aof.sizes.get(manifest.base) == 0:
        yield f"the base file {manifest.base} is empty"


def _not_fit(state: RedisState) -> Iterator[str]:
    if state.loading:
        yield "the server still loads its data set: wait until it has"
    if state.role != "master":
        yield f"the server is a replica (its role is {state.role}): set the policy on its master"
    if not state.aof_last_write_ok:
        yield "the last write to the append-only file failed: free space where it lies, and see the server's log"
    major = _MAJOR.match(state.version)
    if state.product != "valkey" and (major is None or int(major[1]) < OLDEST):
        yield f"Redis {state.version or 'of an unknown version'} is older than {OLDEST}.0: upgrade it"
