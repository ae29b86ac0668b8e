"""LiteLLM's callback: keeps requests away from models that are absent, before a deployment is chosen.

Both calls are made by LiteLLM: `async_pre_call_hook` once for a request, after the key was checked;
`async_filter_deployments` for each try and each fallback, when the deployments of a model are about to be chosen from.
An error there starts the fallbacks. But LiteLLM logs it a moment later, and takes it for one of the deployment that the
request has reached by then, the fallback's: a status that counts for the breaker would keep that one away. 424 does
not count. So the model that a request begins with is chosen before; the error is for what becomes absent meanwhile, and
for the fallbacks that LiteLLM walks.
"""

from __future__ import annotations

import logging
from typing import Any

from .absence import Absence
from .flight import note
from .waiting import Absent, Waiting

UNAVAILABLE, UNCOUNTED = 503, 424
TYPE = "service_unavailable"
_LOGGERS = ("LiteLLM", "LiteLLM Proxy", "LiteLLM Router")


def make(absence: Absence, waiting: Waiting) -> Any:
    """The callback, an instance of LiteLLM's CustomLogger. LiteLLM has been imported by then."""
    import litellm
    from fastapi import HTTPException
    from litellm.integrations.custom_logger import CustomLogger

    broken = (litellm.APIConnectionError, litellm.InternalServerError, litellm.ServiceUnavailableError)

    class Refused(litellm.NotFoundError):  # type: ignore[misc]
        """As a kind of NotFoundError it is not tried again on the same model, but on fallbacks."""

        def __init__(self, error: Absent, model: str, status: int = UNAVAILABLE) -> None:
            super().__init__(message=str(error), model=model, llm_provider="")
            self.message = str(error)
            self.status_code = status
            self.type = TYPE
            self.headers = {"retry-after": str(error.retry_after)}
            said = note.get()
            if said is not None:
                said["retry_after"] = error.retry_after

    class Hook(CustomLogger):  # type: ignore[misc]
        async def async_pre_call_hook(self, data: dict[str, Any], user_api_key_dict: Any = None, **_: Any) -> None:
            name = data.get("model")
            if not isinstance(name, str):
                return
            try:
                ways = await waiting.admit(name, fallbacks=data.get("disable_fallbacks") is not True)
            except Absent as error:
                raise Refused(error, name) from None
            # A request with fallbacks of its own, or a key that may not use every model: LiteLLM walks and checks.
            if ways and "fallbacks" not in data and not getattr(user_api_key_dict, "models", None):
                data["model"], data["fallbacks"] = ways[0], [{ways[0]: list(ways[1:])}]

        async def async_filter_deployments(self, model: str, healthy_deployments: Any, **_: Any) -> Any:
            if absence.of(model) is None:
                return healthy_deployments
            raise Refused(waiting.refusal(model), model, UNCOUNTED)

        async def async_post_call_failure_hook(
            self, request_data: dict[str, Any], original_exception: Exception, **_: Any
        ) -> Any:
            """What the client gets when no fallback answered either."""
            error = original_exception
            if not isinstance(error, Refused):
                name = request_data.get("model")
                if not isinstance(error, broken) or not isinstance(name, str) or absence.of(name) is None:
                    return None
                # It left while it answered, which the client is told as if it had asked a moment later.
                error = Refused(waiting.refusal(name), name)
            answer = HTTPException(UNAVAILABLE, error.message, error.headers)
            answer.type = TYPE
            return answer

    _quieten(Refused)
    return Hook()


def _quieten(expected: type[BaseException]) -> None:
    """A refusal is no fault of the program: its line in the log goes without a traceback."""

    def without_traceback(record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], expected):
            # LiteLLM's own filter, which takes secrets out, has made the text already.
            record.exc_info = record.exc_text = None
        return True

    for name in _LOGGERS:
        logging.getLogger(name).addFilter(without_traceback)
