"""The families about stores: names, labels and values, from the snapshot alone."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import fields, replace
from pathlib import Path

import pytest
from fakes.stores import AT, AWAY, DURABLE, RAW, RUNTIME_ONLY, STATE, VOID
from prometheus_client.parser import text_string_to_metric_families

from agentd.metrics.exposition import Exposition
from agentd.metrics.redis import COUNTERS, GAUGES, STATES
from agentd.metrics.view import MetricsView
from agentd.stores import RedisState, StoreStatus

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "redis.md"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def text_of(*stores: StoreStatus, now: float = AT + 4) -> str:
    view = MetricsView("0.1.0", AT, True, stores=stores, now=now)
    return Exposition(lambda: view).render("")[1].decode()


def scrape(*stores: StoreStatus, now: float = AT + 4) -> Samples:
    return {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(text_of(*stores, now=now))
        for s in family.samples
        if family.name.startswith(("agentd_redis", "agentd_collector"))
    }


def of(found: Samples, name: str, **labels: str) -> float | None:
    return found.get((f"agentd_redis_{name}", tuple(sorted({"store": "redis", **labels}.items()))))


def test_figures_of_a_durable_store() -> None:
    found = scrape(DURABLE)
    expected = {
        "up": 1, "keys": 1000, "keys_expiring": 12, "loading": 0, "master": 1, "uptime_seconds": 7200,
        "memory_used_bytes": 177 << 20, "memory_max_bytes": 0,
        "aof_enabled": 1, "aof_rewrite_in_progress": 0, "aof_rewrite_scheduled": 0, "aof_last_rewrite_ok": 1,
        "aof_last_write_ok": 1, "aof_rewrites_total": 3, "aof_rewrite_consecutive_failures": 0,
        "aof_last_rewrite_duration_seconds": 2, "aof_current_size_bytes": 36 << 20, "aof_base_size_bytes": 35 << 20,
        "aof_delayed_fsync_total": 4, "aof_pending_fsync": 0, "aof_last_cow_bytes": 0,
        "rdb_save_in_progress": 0, "rdb_last_save_ok": 1, "rdb_last_save_timestamp_seconds": AT - 200,
        "rdb_last_save_duration_seconds": 1, "rdb_changes_since_last_save": 7, "rdb_last_cow_bytes": 4096,
        "rdb_saves_total": 5,
        "snapshot_age_seconds": 4, "disk_free_bytes": 12 << 30, "disk_total_bytes": 40 << 30,
        "change_in_progress": 0, "last_backup_timestamp_seconds": AT - 7200, "last_backup_size_bytes": 36 << 20,
        "last_drill_timestamp_seconds": AT - 90, "last_drill_success": 1,
    }  # fmt: skip
    assert {name: of(found, name) for name in expected} == expected
    assert of(found, "info", product="redis", version="7.0.15") == 1
    assert {aspect: of(found, "compliant", aspect=aspect) for aspect in ("runtime", "file", "proven")} == {
        "runtime": 1,
        "file": 1,
        "proven": 1,
    }
    named = {name for name, _ in found if name.startswith("agentd_redis_")}
    rest = {"info", "compliant", "durability", "findings"}
    assert named == {f"agentd_redis_{name}" for name in {*expected, *rest}}, "every family is looked at here"


def test_durability_is_one_hot() -> None:
    found = scrape(RUNTIME_ONLY)
    words = {state: of(found, "durability", state=state) for state in STATES}
    assert [state for state, value in words.items() if value] == ["runtime-only"]
    assert None not in words.values()
    assert of(found, "compliant", aspect="file") == 0
    assert of(found, "findings", severity=VOID.severity.value) == 1
    assert of(found, "findings", severity="warning") == 0


def test_old_figures_do_not_look_like_new_ones() -> None:
    found = scrape(AWAY, now=AT + 600)
    assert of(found, "up") == 0
    assert of(found, "snapshot_age_seconds") == 600
    assert of(found, "durability", state="unreachable") == 1
    for name in ("keys", "aof_enabled", "aof_rewrites_total", "rdb_last_save_timestamp_seconds"):
        assert of(found, name) is None
    assert of(found, "compliant", aspect="runtime") is None
    assert of(found, "last_backup_timestamp_seconds") == AT - 7200, "what agentd remembers stays"


def test_what_is_not_known_is_absent() -> None:
    found = scrape(StoreStatus("redis"), now=0.0)
    named = {name for name, _ in found if name.startswith("agentd_redis_")}
    assert named == {f"agentd_redis_{name}" for name in ("durability", "findings", "change_in_progress")}
    never = replace(STATE, aof_last_rewrite_seconds=-1, rdb_last_bgsave_seconds=-1, rdb_last_save=0.0)
    assert DURABLE.record is not None
    undrilled = replace(DURABLE.record, backup_at=0.0, drill_at=0.0, drill_ok=None)
    found = scrape(replace(DURABLE, state=never, record=undrilled, space=None))
    for name in (
        *("aof_last_rewrite_duration_seconds", "rdb_last_save_duration_seconds", "rdb_last_save_timestamp_seconds"),
        *("last_backup_timestamp_seconds", "last_backup_size_bytes", "last_drill_success", "disk_free_bytes"),
    ):
        assert of(found, name) is None


@pytest.mark.parametrize(
    ("change", "name", "value"),
    [
        ({"aof_last_bgrewrite_ok": False}, "aof_last_rewrite_ok", 0),
        ({"aof_last_write_ok": False}, "aof_last_write_ok", 0),
        ({"rdb_last_bgsave_ok": False}, "rdb_last_save_ok", 0),
        ({"aof_enabled": False}, "aof_enabled", 0),
        ({"role": "slave"}, "master", 0),
        ({"loading": True}, "loading", 1),
    ],
)
def test_states_that_went_wrong(change: dict[str, object], name: str, value: float) -> None:
    assert of(scrape(replace(DURABLE, state=replace(STATE, **change))), name) == value  # type: ignore[arg-type]


def test_every_number_of_the_state_has_a_family() -> None:
    """A figure that is added to the record is either shown or left out on purpose."""
    left_out = {
        *("product", "version", "run_id", "pid", "executable", "config_file", "fields"),
        *("used_memory_rss", "total_system_memory", "rdb_last_load_keys"),
    }
    base = RedisState(aof_last_rewrite_seconds=0, rdb_last_bgsave_seconds=0, rdb_last_save=1.0)

    def values(state: RedisState) -> list[float | None]:
        return [read(state) for _, _, read in (*GAUGES, *COUNTERS)]

    silent = set()
    for field in fields(RedisState):
        old = getattr(base, field.name)
        new = {"role": "slave", "fields": {"a": "b"}}.get(
            field.name, (not old) if isinstance(old, bool) else old + 7 if isinstance(old, (int, float)) else "x"
        )
        if values(replace(base, **{field.name: new})) == values(base):  # type: ignore[arg-type]
            silent.add(field.name)
    assert silent == left_out


def test_neither_a_pid_nor_a_run_nor_raw_text() -> None:
    lines = text_of(DURABLE, replace(AWAY, name="cache")).splitlines()
    text = "\n".join(line for line in lines if "agentd_redis" in line)
    assert "agentd_redis_keys" in text
    for secret in (str(STATE.pid), STATE.run_id, RAW, "6379"):
        assert secret not in text


def test_many_stores_keep_the_rules_of_the_format() -> None:
    text = text_of(DURABLE, replace(AWAY, name="cache"), replace(RUNTIME_ONLY, name='q"uo\nte'))
    types = re.findall(r"^# TYPE (agentd_redis\S+) (\S+)$", text, re.MULTILINE)
    names = [name for name, _ in types]
    assert len(names) == len(set(names))
    assert all(name.endswith("_total") == (kind == "counter") for name, kind in types)
    assert all(name in re.findall(r"^# HELP (\S+) \S", text, re.MULTILINE) for name in names)
    found = scrape(DURABLE, replace(AWAY, name="cache"))
    assert found["agentd_collector_success", (("collector", "redis"),)] == 1
    assert found["agentd_redis_up", (("store", "cache"),)] == 0


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
def test_promtool_finds_nothing() -> None:
    text = text_of(DURABLE, replace(AWAY, name="cache"))
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def rules() -> str:
    found = re.search(r"^```yaml\n(groups:.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def test_the_document_names_metrics_that_exist() -> None:
    families = {name for name, _ in scrape(DURABLE)}
    named = {name for name in re.findall(r"\bagentd_redis_\w+", DOCUMENT.read_text()) if not name.endswith("_")}
    assert named <= families
    assert set(re.findall(r"\bagentd_redis_\w+", rules())) <= families
    states = set(re.findall(r'state="([^"]+)"', rules()))
    assert states <= set(STATES)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
def test_promtool_takes_the_rules_of_the_document(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(rules())
    done = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{rules().count('alert:')} rules found" in done.stdout
