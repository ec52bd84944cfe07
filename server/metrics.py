"""What Prometheus sees of us. vLLM's own series stand beside ours in the same page.

Per-adapter series carry the adapter's name, not its version: a deployment has hundreds of the former and a version with
every training run. The first ``limit`` names get series of their own, all later ones share ``(other)``;
no adapter can be named so.
"""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_INTER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)
OTHER = "(other)"


class AdapterMetrics:
    """Series per adapter: requests, tokens, latencies."""

    def __init__(self, registry: CollectorRegistry, limit: int) -> None:
        label = ("adapter",)
        self._limit = limit
        self._names: set[str] = set()
        self.requests = Counter(
            "patchbay_requests",
            "Inference requests answered, by status",
            ("adapter", "status"),
            registry=registry,
        )
        self.errors = Counter("patchbay_generation_errors", "Generations that broke off", label, registry=registry)
        self.in_flight = Gauge("patchbay_requests_in_flight", "Generations running", label, registry=registry)
        self.prompt_tokens = Counter("patchbay_prompt_tokens", "Tokens read", label, registry=registry)
        self.generated_tokens = Counter("patchbay_generated_tokens", "Tokens written", label, registry=registry)
        self.first_token = Histogram(
            "patchbay_time_to_first_token_seconds",
            "Arrival to first token",
            label,
            buckets=_SECONDS,
            registry=registry,
        )
        self.inter_token = Histogram(
            "patchbay_inter_token_seconds",
            "Time between tokens, the mean of each generation",
            label,
            buckets=_INTER_TOKEN,
            registry=registry,
        )
        self.turn_wait = Histogram(
            "patchbay_turn_wait_seconds",
            "Wait for the turn to go to the engine, while other adapters had theirs",
            label,
            buckets=_SECONDS,
            registry=registry,
        )
        self.queue_wait = Histogram(
            "patchbay_queue_wait_seconds",
            "Wait for the adapter to be resident, for the turn, and for the engine to begin",
            label,
            buckets=_SECONDS,
            registry=registry,
        )

    def label(self, adapter: str) -> str:
        """Return the label value for ``adapter``: its name while there is room, else ``other``."""
        if adapter in self._names:
            return adapter
        if len(self._names) < self._limit:
            self._names.add(adapter)
            return adapter
        return OTHER


class EngineMetrics:
    """Series of the engine: residents, loads, deaths."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.ready = Gauge("patchbay_engine_ready", "1 while the engine answers", registry=registry)
        self.rebuilds = Counter("patchbay_engine_rebuilds", "Engines rebuilt after a death", registry=registry)
        self.start_seconds = Gauge("patchbay_engine_start_seconds", "How long the last start took", registry=registry)
        self.load_seconds = Histogram(
            "patchbay_adapter_load_seconds",
            "Time the engine took to load",
            buckets=_SECONDS,
            registry=registry,
        )
        self.load_failures = Counter("patchbay_adapter_load_failures", "Loads that failed", registry=registry)
        self.evictions = Counter("patchbay_adapter_evictions", "Residents evicted for room", registry=registry)
        self.residents = Gauge("patchbay_residents", "Adapters the engine holds ready", registry=registry)
        self.capacity = Gauge("patchbay_residents_capacity", "Adapters it may hold", registry=registry)
        self.resident_bytes = Gauge("patchbay_resident_bytes", "Size of their files", registry=registry)
        self.capacity_bytes = Gauge("patchbay_resident_bytes_capacity", "Size they may have", registry=registry)
        self.slots = Gauge("patchbay_slots", "Adapters one batch can mix (vLLM's max_loras)", registry=registry)
        self.slot_bytes = Gauge("patchbay_slot_bytes", "Memory that the slots take", registry=registry)
        self.active = Gauge("patchbay_active_adapters", "Adapters that the engine computes with", registry=registry)
        self.waiting = Gauge("patchbay_turns_waiting", "Generations that wait for their turn", registry=registry)


class Metrics:
    """All our series, in a registry of their own, so that two apps can live in one process."""

    def __init__(self, adapter_limit: int, *, capacity: int, capacity_bytes: int) -> None:
        self.registry = CollectorRegistry()
        self.adapters = AdapterMetrics(self.registry, adapter_limit)
        self.engine = EngineMetrics(self.registry)
        self.engine.capacity.set(capacity)
        self.engine.capacity_bytes.set(capacity_bytes)

    def page(self) -> bytes:
        """Return the exposition of our series and of vLLM's (which live in the process-wide registry)."""
        return generate_latest(self.registry) + generate_latest(REGISTRY)
