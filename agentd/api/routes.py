"""The whole surface on one screen: path, who may, what it does. The description for machines is made from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from agentd.api import (
    handlers,
    handlers_actions,
    handlers_gateway,
    handlers_hardening,
    handlers_profile,
    handlers_redis,
    page,
)
from agentd.api.access import Access
from agentd.api.operations import ConfigStatus, ModelDetail, ModelStatus
from agentd.core.use_plan import ProfileRequest
from agentd.findings import Finding
from agentd.gateway import GatewayStatus
from agentd.gpu import GpuSnapshot
from agentd.runtimes import RuntimeStatus
from agentd.stores import StoreStatus
from agentd.types import Change, Event, ServiceStatus, SlotStatus
from agentd.wire import (
    BackupRequest,
    DropinSet,
    DropinsPlan,
    DropinsRequest,
    GatewayRequest,
    LeaseRequest,
    RollbackRequest,
    SleepCheckRequest,
    StoreRequest,
    SwitchRequest,
    UnitRequest,
    UnitSummary,
    UnloadRequest,
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PUBLIC, LOCAL, OWNER = Access.PUBLIC, Access.LOCAL, Access.OWNER
JSON, TEXT, HTML, SSE = "application/json", "text/plain", "text/html", "text/event-stream"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a success looks like; `field` names the one field of an object that holds (a list of) `schema`."""

    schema: type | None = None
    field: str = ""
    many: bool = False
    media: str = JSON
    status: int = 200


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: str
    access: Access
    handler: Handler
    summary: str
    answer: Answer = Answer()
    body: type | None = None
    query: tuple[str, ...] = ()

    @property
    def stream(self) -> bool:
        return self.answer.media == SSE


ACCEPTED = Answer(Change, field="change", status=202)

FINDINGS = Answer(Finding, "findings", many=True)
RUNTIMES = Answer(RuntimeStatus, "runtimes", many=True)
STORES = Answer(StoreStatus, "stores", many=True)
GATEWAY = Answer(GatewayStatus, "gateway")

ROUTES: tuple[Route, ...] = (
    Route("GET", "/", PUBLIC, page.page, "status page", Answer(media=HTML)),
    Route("GET", "/livez", PUBLIC, handlers.livez, "is the process alive", Answer(media=TEXT), query=("verbose",)),
    Route("GET", "/readyz", PUBLIC, handlers.readyz, "is it ready", Answer(media=TEXT), query=("verbose",)),
    Route("GET", "/metrics", PUBLIC, handlers.metrics, "Prometheus metrics", Answer(media=TEXT)),
    Route("GET", "/v1/status", PUBLIC, handlers.status, "everything at a glance"),
    Route("GET", "/v1/services", PUBLIC, handlers.services, "services", Answer(ServiceStatus, "services", many=True)),
    Route("GET", "/v1/services/{name}", PUBLIC, handlers.service, "one service", Answer(ServiceStatus)),
    Route("GET", "/v1/models", PUBLIC, handlers.models, "models", Answer(ModelStatus, "models", many=True)),
    Route("GET", "/v1/models/{name}", PUBLIC, handlers.model, "one model and what was learned", Answer(ModelDetail)),
    Route("GET", "/v1/slots", PUBLIC, handlers.slots, "slots", Answer(SlotStatus, "slots", many=True)),
    Route("GET", "/v1/gpus", PUBLIC, handlers.gpus, "GPU memory", Answer(GpuSnapshot)),
    Route("GET", "/v1/runtimes", PUBLIC, handlers.runtimes, "other users of the GPU", RUNTIMES),
    Route("GET", "/v1/findings", PUBLIC, handlers.findings, "findings", FINDINGS),
    Route(
        "GET",
        "/v1/hardening",
        PUBLIC,
        handlers_hardening.summaries,
        "verified units, a line each",
        Answer(UnitSummary, "units", many=True),
    ),
    Route(
        "GET",
        "/v1/changes",
        PUBLIC,
        handlers.changes,
        "last changes, newest first",
        Answer(Change, "changes", many=True),
        query=("limit",),
    ),
    Route("GET", "/v1/changes/{id}", PUBLIC, handlers.change, "one change", Answer(Change)),
    Route(
        "GET",
        "/v1/changes/{id}/events",
        PUBLIC,
        handlers.change_events,
        "progress: the whole change at every news of it, `event: done` at its end",
        Answer(Change, media=SSE),
    ),
    Route(
        "GET",
        "/v1/events",
        PUBLIC,
        handlers.events,
        "the history, oldest first; with follow=1 as a stream that goes on",
        Answer(Event, "events", many=True),
        query=("limit", "after", "follow"),
    ),
    Route("GET", "/v1/config", LOCAL, handlers.config, "the configuration in force"),
    Route("GET", "/openapi.json", PUBLIC, handlers.openapi, "this description"),
    Route("POST", "/v1/switch", OWNER, handlers_actions.switch, "make a model resident", ACCEPTED, SwitchRequest),
    Route("POST", "/v1/unload", OWNER, handlers_actions.unload, "empty a slot", ACCEPTED, UnloadRequest),
    Route(
        "POST",
        "/v1/models/sleep-check",
        OWNER,
        handlers_actions.sleep_check,
        "put the resident model to sleep and wake it, measured",
        ACCEPTED,
        SleepCheckRequest,
    ),
    Route("POST", "/v1/lease", OWNER, handlers_actions.lease, "lend a slot for a time", ACCEPTED, LeaseRequest),
    Route("DELETE", "/v1/lease", OWNER, handlers_actions.end_lease, "end a lease", ACCEPTED, query=("slot",)),
    Route("POST", "/v1/changes/{id}/cancel", OWNER, handlers_actions.cancel, "cancel a change", ACCEPTED),
    Route(
        "POST",
        "/v1/services/{name}/{verb:start|stop|restart}",
        OWNER,
        handlers_actions.service_action,
        "start, stop or restart a service's unit",
        Answer(ServiceStatus),
    ),
    Route(
        "GET",
        "/v1/dropins",
        LOCAL,
        handlers_hardening.plan,
        "what an installation of the drop-ins would change",
        Answer(DropinsPlan),
        query=("unit", "force"),
    ),
    Route(
        "GET", "/v1/dropins/texts", LOCAL, handlers_hardening.texts, "the declared drop-ins themselves", query=("unit",)
    ),
    Route(
        "GET",
        "/v1/dropins/sets",
        LOCAL,
        handlers_hardening.sets,
        "earlier sets, newest first",
        Answer(DropinSet, "sets", many=True),
    ),
    Route(
        "POST",
        "/v1/dropins/apply",
        OWNER,
        handlers_hardening.apply,
        "install the declared drop-ins",
        ACCEPTED,
        DropinsRequest,
    ),
    Route(
        "POST",
        "/v1/dropins/rollback",
        OWNER,
        handlers_hardening.rollback,
        "bring an earlier set back",
        ACCEPTED,
        RollbackRequest,
    ),
    Route(
        "POST",
        "/v1/dropins/adopt",
        OWNER,
        handlers_hardening.adopt,
        "take edited or hand-written drop-ins over",
        body=UnitRequest,
    ),
    Route(
        "POST", "/v1/dropins/verify", OWNER, handlers_hardening.verify, "verify anew, now", FINDINGS, body=UnitRequest
    ),
    Route(
        "POST",
        "/v1/dropins/prove",
        OWNER,
        handlers_hardening.prove,
        "prove by a canary in the same sandbox",
        FINDINGS,
        body=UnitRequest,
    ),
    Route("GET", "/v1/redis", PUBLIC, handlers_redis.stores, "stores and how durable they are", STORES),
    Route("POST", "/v1/redis/verify", OWNER, handlers_redis.verify, "look at the stores now", STORES, StoreRequest),
    Route(
        "POST",
        "/v1/redis/enforce",
        OWNER,
        handlers_redis.enforce,
        "bring stores to the policy; with dry_run 200 and `plans`",
        ACCEPTED,
        StoreRequest,
    ),
    Route(
        "POST",
        "/v1/redis/drill",
        OWNER,
        handlers_redis.drill,
        "prove on a copy that the next start brings the data back",
        ACCEPTED,
        StoreRequest,
    ),
    Route("POST", "/v1/redis/backup", OWNER, handlers_redis.backup, "back stores up", ACCEPTED, BackupRequest),
    Route("GET", "/v1/gateway", PUBLIC, handlers_gateway.gateway, "the gateway and its configuration", GATEWAY),
    Route("POST", "/v1/gateway/verify", OWNER, handlers_gateway.verify, "look at the gateway now", GATEWAY),
    Route(
        "POST",
        "/v1/gateway/apply",
        OWNER,
        handlers_gateway.apply,
        "bring the gateway to what its sources give; with dry_run 200 and `plan`",
        ACCEPTED,
        GatewayRequest,
    ),
    Route(
        "POST",
        "/v1/gateway/rollback",
        OWNER,
        handlers_gateway.rollback,
        "bring an earlier configuration back",
        ACCEPTED,
        GatewayRequest,
    ),
    Route(
        "POST",
        "/v1/gateway/restart",
        OWNER,
        handlers_gateway.restart,
        "start the gateway anew with its file as it is, for another environment",
        ACCEPTED,
        GatewayRequest,
    ),
    Route(
        "POST",
        "/v1/profile/use",
        OWNER,
        handlers_profile.use,
        "put a profile of use into force; with dry_run 200 and `plan`",
        ACCEPTED,
        ProfileRequest,
    ),
    Route("POST", "/v1/reload", OWNER, handlers_actions.reload, "read the configuration again", Answer(ConfigStatus)),
)
