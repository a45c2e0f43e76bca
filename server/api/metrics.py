"""Numbers for Prometheus. No label holds a key, a prompt, a URL or anything else of a caller's.

What waits and what ended is read from the tables at each scrape, so jobs that another process
ended count, too. Counters begin at zero with the process, as Prometheus expects.
"""

import threading
import time
from collections import Counter as Count
from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from server.db.database import Database
from server.jobs.reports import Ended, QueueSize, ended_between, queue_size
from server.models import JobError
from server.workers.pool import SlotState, SlotView

STAGE_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 180, 300, 600, 1200, 3600)


class Metrics:
    """The metrics of one server."""

    def __init__(
        self,
        database: Database,
        slots: Callable[[], Sequence[SlotView]],
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._now = now
        self._slots = slots
        self._registry = CollectorRegistry(auto_describe=False)
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
        self._webhook_tries = Counter(
            "cosmos_webhook_tries",
            "Tries to send a webhook, by outcome: delivered, failed or given_up.",
            ["outcome"],
            registry=self._registry,
        )

    def webhook_tried(self, outcome: str) -> None:
        """Count a try to send a webhook."""
        self._webhook_tries.labels(outcome).inc()

    def text(self) -> bytes:
        """Everything in Prometheus' text format; reads the tables."""
        with self._scraping:
            # A row from before the clock was set back may lie ahead: it must not hide others.
            for ended in ended_between(self._database, self._counted_until, self._now()):
                self._count(ended)
            now = CollectorRegistry(auto_describe=False)
            now.register(_Now(queue_size(self._database, self._now()), self._slots()))
            return generate_latest(self._registry) + generate_latest(now)

    def _count(self, ended: Ended) -> None:
        self._outcomes.labels(outcome_of(ended.error)).inc()
        for stage, seconds in ended.stage_seconds.items():
            self._stages.labels(stage).observe(seconds)
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

    def __init__(self, queue: QueueSize, slots: Sequence[SlotView]) -> None:
        self._queue = queue
        self._slots = slots

    def collect(self) -> Iterator[Metric]:
        queue = self._queue
        yield GaugeMetricFamily("cosmos_jobs_waiting", "Jobs that wait.", queue.waiting)
        yield GaugeMetricFamily("cosmos_jobs_running", "Jobs that run.", queue.running)
        oldest = "Seconds since the oldest job that waits was submitted; 0 if none waits."
        yield GaugeMetricFamily("cosmos_oldest_waiting_seconds", oldest, queue.oldest_s)
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
