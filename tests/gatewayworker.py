"""Runs under LiteLLM's own interpreter: loads configs as the proxy does, and says what came of each.

Input: a JSON list of paths. Output, as the last line: {"router_keys": what router_settings may hold, "configs": a list
of {"models": what /v1/models would list, "logs": ["WARNING ...", ...], "router": some of its live settings, "walks":
{name asked for: the models that were tried}, "long": the same where the first one says that the prompt is too long}}.
Both are {} where another strategy than simple-shuffle chooses.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Callable
from typing import Any

LIVE = (
    "allowed_fails",
    "cooldown_time",
    "num_retries",
    "timeout",
    "stream_timeout",
    "max_fallbacks",
    "disable_cooldowns",
)


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def alone(self) -> None:
        """Hears all of LiteLLM's loggers from now on, whose handlers a config may replace."""
        self.lines.clear()
        for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
            logger = logging.getLogger(name)
            logger.handlers = [self]
            logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.getMessage()}")


async def loaded(path: str, kept: Kept) -> dict[str, Any]:
    import litellm
    from litellm.proxy.auth.model_checks import get_complete_model_list
    from litellm.proxy.proxy_server import ProxyConfig

    litellm.callbacks = []
    kept.alone()
    router, _, general = await ProxyConfig().load_config(router=None, config_file_path=path)
    models = get_complete_model_list(
        key_models=[],
        team_models=[],
        proxy_model_list=router.get_model_names(),
        user_model=None,
        infer_model_from_keys=general.get("infer_model_from_keys"),
        llm_router=router,
    )
    logs = list(kept.lines)
    live = {name: getattr(router, name) for name in LIVE}
    live["checks"] = sorted(type(callback).__name__ for callback in router.optional_callbacks or ())
    # other strategies choose by what earlier requests did, and so by what this process did with other configs
    asked = models if router.routing_strategy == "simple-shuffle" else []
    walks = {name: await walk(router, name) for name in asked}
    long = {name: await walk(router, name, long=True) for name in asked}
    return {"models": sorted(models), "logs": logs, "router": live, "walks": walks, "long": long}


async def walk(router: Any, name: str, *, long: bool = False) -> list[str]:
    """The models that a request tries when all of them fail, without retries; a model's next `order` is no new one."""
    import litellm

    owner = {entry["model_info"]["id"]: entry["model_name"] for entry in router.model_list}
    tried: list[str] = []

    async def fails(**call: Any) -> None:
        group = owner[call["model_info"]["id"]]
        if tried[-1:] != [group]:
            tried.append(group)
        if long and len(tried) == 1:
            raise litellm.ContextWindowExceededError(message="on purpose", llm_provider="openai", model=group)
        raise litellm.InternalServerError(message="on purpose", llm_provider="openai", model=group)

    litellm.callbacks = []
    router.num_retries, router.disable_cooldowns, router.enable_pre_call_checks = 0, True, False
    litellm.acompletion = fails
    try:
        await router.acompletion(model=name, messages=[{"role": "user", "content": "?"}])
    except (litellm.InternalServerError, litellm.ContextWindowExceededError):
        return tried
    raise AssertionError(f"{name} did not fail")


async def main() -> None:
    kept = Kept()
    show: Callable[[str], object] = sys.stdout.write
    paths = json.load(sys.stdin)
    import litellm
    import litellm.proxy.proxy_server

    litellm.suppress_debug_info = True
    outside = litellm.constants.ROUTER_SETTINGS_MANAGED_OUTSIDE_CONFIG
    keys = sorted(set(litellm.Router.get_valid_args()) - outside)
    found = {"router_keys": keys, "configs": [await loaded(path, kept) for path in paths]}
    show("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
