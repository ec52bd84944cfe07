"""Metrics for Prometheus, on one page with vLLM's own.

Per-adapter series carry the adapter's name, not its version: a deployment has hundreds of names and a version per
training run. The first ``limit`` names get series of their own; all later ones share ``(other)``, which cannot be the
name of an adapter. A name that was deleted leaves its place to another one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_INTER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)
OTHER = "(other)"


class AdapterSeries:
    """The series of one label, looked up once: a look-up in Prometheus's client costs more than the counting."""

    def __init__(self, metrics: AdapterMetrics, label: str) -> None:
        self.errors = metrics.errors.labels(label)
        self.first_token = metrics.first_token.labels(label)
        self.generated_tokens = metrics.generated_tokens.labels(label)
        self.in_flight = metrics.in_flight.labels(label)
        self.inter_token = metrics.inter_token.labels(label)
        self.prompt_tokens = metrics.prompt_tokens.labels(label)
        self.queue_wait = metrics.queue_wait.labels(label)
        self.turn_wait = metrics.turn_wait.labels(label)


class AdapterMetrics:
    """Series per adapter: requests, tokens, latencies."""

    def __init__(self, registry: CollectorRegistry, limit: int) -> None:
        self._limit = limit
        self._names: set[str] = set()
        self._series: dict[str, AdapterSeries] = {}
        label = ("adapter",)
        counter = partial(Counter, registry=registry)
        seconds = partial(Histogram, labelnames=label, buckets=_SECONDS, registry=registry)
        self.requests = counter("patchbay_requests", "Inference requests answered, by status", (*label, "status"))
        self.errors = counter("patchbay_generation_errors", "Generations that ended with an error", label)
        self.in_flight = Gauge("patchbay_requests_in_flight", "Generations running", label, registry=registry)
        self.prompt_tokens = counter("patchbay_prompt_tokens", "Prompt tokens processed", label)
        self.generated_tokens = counter("patchbay_generated_tokens", "Tokens generated", label)
        self.first_token = seconds(
            "patchbay_time_to_first_token_seconds", "Time from a request's arrival to its first token"
        )
        self.inter_token = Histogram(
            "patchbay_inter_token_seconds",
            "Mean time between tokens of each generation",
            label,
            buckets=_INTER_TOKEN,
            registry=registry,
        )
        self.turn_wait = seconds(
            "patchbay_turn_wait_seconds", "Time in the scheduler's queue before reaching the engine"
        )
        self.queue_wait = seconds(
            "patchbay_queue_wait_seconds",
            "Time until the engine starts: adapter load, scheduler's queue, engine's queue",
        )

        self.rollout_requests = counter(
            "patchbay_rollout_requests", "Requests behind an alias with a rollout", (*label, "side", "outcome")
        )
        self.rollout_seconds = Histogram(
            "patchbay_rollout_seconds",
            "Time to the end of an answer behind an alias with a rollout",
            (*label, "side"),
            buckets=_SECONDS,
            registry=registry,
        )

    def label(self, adapter: str) -> str:
        """Return the label value for ``adapter``: its name for the first ``limit`` names, else ``(other)``."""
        if adapter in self._names:
            return adapter
        if len(self._names) < self._limit:
            self._names.add(adapter)
            return adapter
        return OTHER

    def series(self, label: str) -> AdapterSeries:
        """Return the series of ``label``, but for those of ``requests``, which have a status too."""
        series = self._series.get(label)
        if series is None:
            series = self._series[label] = AdapterSeries(self, label)
        return series

    def make_room(self, living: Container[str]) -> None:
        """Once all names are taken, remove the series of those that are not ``living`` and have nothing in flight."""
        if len(self._names) < self._limit:
            return
        in_flight = {sample.labels["adapter"] for sample in _samples(self.in_flight) if sample.value}
        gone = {name for name in self._names - in_flight if name not in living}
        for sample in _samples(self.requests):
            if sample.labels["adapter"] in gone:
                self.requests.remove(sample.labels["adapter"], sample.labels["status"])
        for of_sides, names in ((self.rollout_requests, ("side", "outcome")), (self.rollout_seconds, ("side",))):
            labels = ("adapter", *names)
            for values in {tuple(sample.labels.get(each, "") for each in labels) for sample in _samples(of_sides)}:
                if values[0] in gone:
                    of_sides.remove(*values)
        for name in gone:
            self._series.pop(name, None)
            for metric in (
                self.errors,
                self.in_flight,
                self.prompt_tokens,
                self.generated_tokens,
                self.first_token,
                self.inter_token,
                self.turn_wait,
                self.queue_wait,
            ):
                metric.remove(name)
        self._names -= gone


def _samples(metric: Counter | Gauge | Histogram) -> Iterator[Sample]:
    return (sample for family in metric.collect() for sample in family.samples)


@dataclass(frozen=True, slots=True)
class AdaptersInFlight:
    """The names of the adapters with generations in the engine, and of those with generations that wait."""

    slots: int
    running: Sequence[str]
    waiting: Sequence[str]


class AdaptersCollector(Collector):
    """vLLM's gauge ``vllm:lora_requests_info``, by which routers find the server that has an adapter.

    One series, under the names that clients call: vLLM's own has versions, and a series more for each combination.
    """

    def __init__(self) -> None:
        self.read: Callable[[], AdaptersInFlight] = partial(AdaptersInFlight, 0, (), ())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        now = self.read()
        gauge = GaugeMetricFamily(
            "vllm:lora_requests_info",
            "Adapters in flight; the value is the time",
            labels=("max_lora", "running_lora_adapters", "waiting_lora_adapters"),
        )
        gauge.add_metric((str(now.slots), ",".join(now.running), ",".join(now.waiting)), time.time())
        yield gauge


class EngineMetrics:
    """Series of the engine: residents, loads, deaths."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        self.ready = gauge("patchbay_engine_ready", "1 while the engine serves requests, else 0")
        self.rebuilds = counter("patchbay_engine_rebuilds", "Engines rebuilt after a death")
        self.start_seconds = gauge("patchbay_engine_start_seconds", "Duration of the last engine start")
        self.load_seconds = Histogram(
            "patchbay_adapter_load_seconds", "Time to load an adapter", buckets=_SECONDS, registry=registry
        )
        self.load_failures = counter("patchbay_adapter_load_failures", "Adapter loads that failed")
        self.evictions = counter("patchbay_adapter_evictions", "Residents evicted to free capacity")
        self.residents = gauge("patchbay_residents", "Resident adapters")
        self.capacity = gauge("patchbay_residents_capacity", "Most resident adapters")
        self.resident_bytes = gauge("patchbay_resident_bytes", "Size of the residents' files in bytes")
        self.capacity_bytes = gauge("patchbay_resident_bytes_capacity", "Largest size of the residents' files in bytes")
        self.slots = gauge("patchbay_slots", "Adapters that one batch can mix (vLLM's max_loras)")
        self.slot_bytes = gauge("patchbay_slot_bytes", "Memory allocated for the slots in bytes")
        self.active = gauge("patchbay_active_adapters", "Adapters with generations in the engine")
        self.waiting = gauge("patchbay_turns_waiting", "Generations in the scheduler's queue")
        self.adapters = AdaptersCollector()
        registry.register(self.adapters)


class Metrics:
    """All series of one app, in a registry of its own, so that two apps can run in one process."""

    def __init__(self, adapter_limit: int, *, capacity: int, capacity_bytes: int) -> None:
        self.registry = CollectorRegistry()
        self.adapters = AdapterMetrics(self.registry, adapter_limit)
        self.engine = EngineMetrics(self.registry)
        self.engine.capacity.set(capacity)
        self.engine.capacity_bytes.set(capacity_bytes)

    def page(self) -> bytes:
        """Return the exposition of these series and of vLLM's, which are in the process-wide registry."""
        return generate_latest(self.registry) + generate_latest(REGISTRY)
