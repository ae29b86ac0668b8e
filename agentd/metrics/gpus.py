"""GPUs: memory and who holds it, load, heat, power, errors. A field that is not known has no sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import Metric

from agentd.gpu import THROTTLES, Gpu, GpuDetails
from agentd.metrics.families import counter, gauge
from agentd.metrics.view import MetricsView

LABELS = ("gpu", "uuid")
GAUGES: tuple[tuple[str, str, Callable[[GpuDetails], float | None]], ...] = (
    ("utilization_ratio", "Share of time in which the GPU computed.", lambda d: d.utilization),
    ("memory_utilization_ratio", "Share of time in which GPU memory was accessed.", lambda d: d.memory_utilization),
    ("temperature_celsius", "Temperature of the GPU.", lambda d: d.temperature),
    ("power_watts", "Power that the GPU draws.", lambda d: d.power),
    ("power_limit_watts", "Power that the GPU may draw.", lambda d: d.power_limit),
    ("mig_enabled", "1 while the GPU is divided into instances.", lambda d: d.mig),
)
ERRORS: tuple[tuple[str, Callable[[GpuDetails], int | None]], ...] = (
    ("corrected", lambda d: d.ecc_corrected),
    ("uncorrected", lambda d: d.ecc_uncorrected),
)


def gpus(view: MetricsView) -> Iterable[Metric]:
    found = [((str(gpu.index), gpu.uuid), gpu) for gpu in view.gpus.gpus]
    for name in ("total", "used", "free"):
        values = [(key, float(getattr(gpu, name))) for key, gpu in found]
        yield gauge(f"agentd_gpu_memory_{name}_bytes", f"GPU memory, {name}.", LABELS, values)
    owners = [((str(gpu), owner), float(n)) for (gpu, owner), n in view.gpu_owners.items()]
    text = 'GPU memory by owner: a unit, "foreign" in none or in a scope, "unlisted" where no process is listed.'
    yield gauge("agentd_gpu_process_memory_bytes", text, ("gpu", "owner"), owners)
    success = [((view.gpus.source,), float(not view.gpus.error))]
    yield gauge("agentd_gpu_read_success", "1 when the last look at the GPUs succeeded.", ("source",), success)
    driver = view.gpus.driver
    version, cuda = (driver.version, driver.cuda) if driver is not None else ("", "")
    info = [((*key, gpu.name, version, cuda), 1.0) for key, gpu in found]
    yield gauge("agentd_gpu_info", "GPUs and their driver.", (*LABELS, "name", "driver", "cuda"), info)
    yield from _details(found)


def _details(found: Iterable[tuple[tuple[str, str], Gpu]]) -> Iterable[Metric]:
    told = [(key, gpu.details) for key, gpu in found if gpu.details is not None]
    for name, text, read in GAUGES:
        values = [(key, read(details)) for key, details in told]
        yield gauge(f"agentd_gpu_{name}", text, LABELS, [(key, float(v)) for key, v in values if v is not None])
    held = [
        ((*key, reason), float(reason in details.throttle))
        for key, details in told
        if details.throttle is not None
        for reason in THROTTLES
    ]
    yield gauge("agentd_gpu_throttled", "1 while the clocks are held back.", (*LABELS, "reason"), held)
    errors = [((*key, kind), read(details)) for key, details in told for kind, read in ERRORS]
    text = "Errors of GPU memory since the driver was loaded."
    counts = [(key, float(n)) for key, n in errors if n is not None]
    yield counter("agentd_gpu_ecc_errors", text, (*LABELS, "type"), counts)
    links = [((*key, str(link.link)), float(link.active)) for key, details in told for link in details.nvlinks]
    yield gauge("agentd_gpu_nvlink_up", "1 while the NVLink is up.", (*LABELS, "link"), links)
