"""Numbers for Prometheus. No label holds a key, a prompt, a URL or anything else of a caller's.

What waits and what ended is read from the tables at each scrape, so jobs that another process
ended count, too. Counters begin at zero with the process, as Prometheus expects.
"""

import threading
import time
from collections import Counter as Count
from collections.abc import Callable, Iterator, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from server.db.database import Database
from server.disk import MIB, DiskSpace
from server.jobs.pause import paused_since
from server.jobs.reports import Ended, ended_between, queue_size, webhooks_waiting
from server.models import JobError
from server.workers.pool import SlotState, SlotView

STAGE_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 180, 300, 600, 1200, 3600)
WAIT_BUCKETS_S = (1, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200)
HTTP_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 300, 1200)


# When each counter began: `process_start_time_seconds` says it for all.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library's


class Metrics:
    """The metrics of one server."""

    def __init__(
        self,
        database: Database,
        slots: Callable[[], Sequence[SlotView]],
        disk: DiskSpace,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._now = now
        self._slots = slots
        self._disk = disk
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        self._scraping = threading.Lock()
        self._counted_until = now()
        self._outcomes = Counter(
            "cosmos_jobs_finished",
            "Jobs that ended, by outcome: succeeded, cancelled, invalid_input or fal's error_type.",
            ["outcome"],
            registry=self._registry,
        )
        self._stages = Histogram(
            "cosmos_stage_seconds",
            "Seconds that each stage of a finished video took.",
            ["stage"],
            buckets=STAGE_BUCKETS_S,
            registry=self._registry,
        )
        self._waits = Histogram(
            "cosmos_wait_seconds",
            "Seconds that jobs waited which ran, from the submit to the start of their last run.",
            buckets=WAIT_BUCKETS_S,
            registry=self._registry,
        )
        self._requests = Counter(
            "cosmos_http_requests",
            "Answers by service and HTTP status.",
            ["service", "status"],
            registry=self._registry,
        )
        self._answers = Histogram(
            "cosmos_http_seconds",
            "Seconds until an answer began, by service; that of a run begins with its video.",
            ["service"],
            buckets=HTTP_BUCKETS_S,
            registry=self._registry,
        )
        self._webhook_tries = Counter(
            "cosmos_webhook_tries",
            "Tries to send a webhook, by outcome: delivered, failed or given_up.",
            ["outcome"],
            registry=self._registry,
        )

    def webhook_tried(self, outcome: str) -> None:
        """Count a try to send a webhook."""
        self._webhook_tries.labels(outcome).inc()

    def answered(self, service: str, status: int, seconds: float) -> None:
        """Count an answer that has begun."""
        self._requests.labels(service, str(status)).inc()
        self._answers.labels(service).observe(seconds)

    def text(self) -> bytes:
        """Everything in Prometheus' text format; reads the tables."""
        with self._scraping:
            # A row from before the clock was set back may lie ahead: it must not hide others.
            for ended in ended_between(self._database, self._counted_until, self._now()):
                self._count(ended)
            now = CollectorRegistry(auto_describe=False)
            now.register(_Now(self._database, self._slots(), self._disk, self._now()))
            return generate_latest(self._registry) + generate_latest(now)

    def _count(self, ended: Ended) -> None:
        self._outcomes.labels(outcome_of(ended.error)).inc()
        for stage, seconds in ended.stage_seconds.items():
            self._stages.labels(stage).observe(seconds)
        if ended.waited_s is not None:
            self._waits.observe(max(0.0, ended.waited_s))
        self._counted_until = ended.at


def outcome_of(error: JobError | None) -> str:
    """How a job ended, in one word."""
    if error is None:
        return "succeeded"
    if error.error_type is None:
        return "invalid_input"
    return "cancelled" if error.error_type == "client_cancelled" else error.error_type


class _Now(Collector):
    """How things are at one moment."""

    def __init__(
        self, database: Database, slots: Sequence[SlotView], disk: DiskSpace, now: float
    ) -> None:
        self._database = database
        self._slots = slots
        self._disk = disk
        self._now = now

    def collect(self) -> Iterator[Metric]:
        yield from self._queue()
        yield from self._slots_now()
        free, wanted = self._disk.free_bytes(), self._disk.min_free_mib * MIB
        yield GaugeMetricFamily("cosmos_disk_free_bytes", "Room on the disk of the data.", free)
        least = "Room under which nothing is accepted or started."
        yield GaugeMetricFamily("cosmos_disk_min_free_bytes", least, wanted)

    def _queue(self) -> Iterator[Metric]:
        queue = queue_size(self._database, self._now)
        yield GaugeMetricFamily("cosmos_jobs_waiting", "Jobs that wait.", queue.waiting)
        yield GaugeMetricFamily("cosmos_jobs_running", "Jobs that run.", queue.running)
        oldest = "Seconds since the oldest job that waits was submitted; 0 if none waits."
        yield GaugeMetricFamily("cosmos_oldest_waiting_seconds", oldest, queue.oldest_s)
        is_paused = paused_since(self._database) is not None
        paused = "1 while the queue is paused, else 0."
        yield GaugeMetricFamily("cosmos_queue_paused", paused, int(is_paused))
        webhooks, unsent = webhooks_waiting(self._database), "Webhooks still to be delivered."
        yield GaugeMetricFamily("cosmos_webhooks_waiting", unsent, webhooks)

    def _slots_now(self) -> Iterator[Metric]:
        counts = Count(slot.state for slot in self._slots)
        slots = GaugeMetricFamily("cosmos_slots", "Slots, by state.", labels=["state"])
        for state in SlotState:
            slots.add_metric([state.value], counts[state])
        yield slots
        info = InfoMetricFamily("cosmos_slot", "What each slot runs on.", labels=["slot"])
        for slot in self._slots:
            known = {
                "device_name": slot.device_name or "",
                "attention": slot.attention or "",
                "memory": slot.memory or "",
                "kernels": slot.kernels or "",
            }
            info.add_metric([slot.name], {"device": slot.device, **known})
        yield info
        shortages = CounterMetricFamily(
            "cosmos_memory_shortages", "How often runs ran out of memory.", labels=["slot"]
        )
        for slot in self._slots:
            shortages.add_metric([slot.name], slot.memory_shortages)
        yield shortages
