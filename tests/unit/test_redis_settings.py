"""The table [redis]: what a good one becomes. What is wrong with a bad one is in bad_config/."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from agentd.core.layers import Fragment, merge
from agentd.core.render import settings_list
from agentd.core.schema import Settings
from agentd.core.schema_redis import RedisPolicy
from agentd.core.settings import LoadedConfig, check, validate
from agentd.errors import ConfigError

STORE = '[services.cache]\nunit = "cache.service"\nrole = "store"\nurl = "redis://127.0.0.1:6380"\n'


def parse(text: str, **options: Any) -> Settings:
    merged = merge([Fragment("test.toml", tomllib.loads(text))])
    return validate(merged.data, merged.provenance, **options)


def redis(text: str, **options: Any) -> RedisPolicy:
    return parse(f"[redis]\n{text}\n", **options).redis


def test_no_table_is_the_default_policy() -> None:
    assert parse("").redis == parse("[redis]").redis == RedisPolicy()


def test_values_arrive_in_base_units() -> None:
    policy = redis('auto_aof_rewrite_min_size = "1.5M"\ndisk_margin = 0\ncheck_every = "1min"\ndrill_every = "10min"')
    assert (policy.auto_aof_rewrite_min_size, policy.disk_margin) == (1536 * 1024, 0)
    assert (policy.check_every, policy.drill_every, policy.backup_every) == (60.0, 600.0, 0.0)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("", ""), ("   ", ""), ("900 1", "900 1"), ("  0900  1   300 010 ", "900 1 300 10"), ("300 10 900 1",) * 2],
)
def test_save_points_are_as_config_get_shows_them(text: str, shown: str) -> None:
    assert redis(f'save = "{text}"').save == shown


@pytest.mark.parametrize("mode", ["enforce", "report"])
@pytest.mark.parametrize("persist", ["auto", "rewrite", "edit", "never"])
def test_every_mode_goes_with_every_way_to_persist(mode: str, persist: str) -> None:
    policy = redis(f'mode = "{mode}"\npersist = "{persist}"')
    assert (policy.mode, policy.persist) == (mode, persist)


@pytest.mark.parametrize("text", ["appendonly = false", 'save = ""', 'appendonly = false\nsave = "900 1"'])
def test_one_kind_of_persistence_will_do(text: str) -> None:
    assert redis(text) != RedisPolicy()


@pytest.mark.parametrize(
    "url",
    ["redis://127.0.0.1:6379", "redis://cache.lan", "redis://[::1]:6379", "unix:///run/redis/redis-server.sock"],
)
def test_urls_of_a_store(url: str) -> None:
    assert redis(f'url = "{url}"').url == url


@pytest.mark.parametrize(
    "text", ['user = "agentd"', 'user = "agentd"\npassword_file = "/run/p"', 'password_credential = "redis-password"']
)
def test_ways_to_come_in(text: str) -> None:
    assert redis(text) != RedisPolicy()


def test_home_is_put_into_paths() -> None:
    policy = redis('password_file = "~/redis"\nbackup_dir = "~/backups"', home="/home/user")
    assert (policy.password_file, policy.backup_dir) == ("/home/user/redis", "/home/user/backups")


def test_another_address_beside_a_service() -> None:
    assert parse(f'{STORE}[redis]\nurl = "redis://127.0.0.1:6379"').redis.url == "redis://127.0.0.1:6379"


def test_a_service_that_is_no_store_may_be_called_redis() -> None:
    text = '[services.redis]\nunit = "redis-exporter.service"\n[redis]\nurl = "redis://127.0.0.1:6379"\n'
    assert parse(text).services["redis"].role == "generic"


@pytest.mark.parametrize("url", ["redis://localhost:6380", "redis://127.0.0.2:6380", "redis://[::1]:6380"])
def test_the_address_of_a_service_is_known_by_any_name(url: str) -> None:
    with pytest.raises(ConfigError, match=r"is the address of services\.cache"):
        parse(f'{STORE}[redis]\nurl = "{url}"\n')


def test_a_bad_service_is_reported_once() -> None:
    text = '[services.cache]\nunit = "cache.service"\nrole = "store"\nurl = "redis://"\n[redis]\nurl = "redis://a"\n'
    merged = merge([Fragment("test.toml", tomllib.loads(text))])
    _, problems = check(merged.data, merged.provenance)
    assert [problem.key for problem in problems] == ["services.cache.url"]


def test_what_is_shown() -> None:
    merged = merge([Fragment("a.toml", tomllib.loads('[redis]\npassword_file = "/run/p"\nsave = " 900 1"\n'))])
    loaded = LoadedConfig(validate(merged.data, merged.provenance), merged.provenance, ("a.toml",), "")
    assert [(row.key, row.text) for row in settings_list(loaded)] == [
        ("redis.password_file", '"/run/p"'),
        ("redis.save", '"900 1"'),
    ]
