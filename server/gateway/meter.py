"""What an adapter's traffic costs, counted once a generation and once a response; nothing is counted per token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from adapters.versions import Version
from server.engine.engine import Generation
from server.metrics import AdapterMetrics


class Meter:
    """Counts into ``metrics``; requests that no adapter answers go to ``(base)``."""

    BASE = "(base)"

    def __init__(self, metrics: AdapterMetrics) -> None:
        self._metrics = metrics

    def answered(self, version: Version | None, status: int | None) -> None:
        """Count a response. ``status`` None: the client left before there was one."""
        self._metrics.requests.labels(self._label(version), str(status or 499)).inc()

    @contextmanager
    def generation(
        self, version: Version | None, generation: Generation, *, cold_s: float, turn_s: float
    ) -> Iterator[None]:
        """Meter one generation: in flight inside the block, tokens and latencies at its end.

        ``cold_s``, ``turn_s``: what it waited for its adapter and for its turn; the engine's clock starts only then.
        """
        metrics, label = self._metrics, self._label(version)
        metrics.in_flight.labels(label).inc()
        metrics.turn_wait.labels(label).observe(turn_s)
        waited_s = cold_s + turn_s
        try:
            yield
        except Exception:
            metrics.errors.labels(label).inc()
            raise
        finally:
            metrics.in_flight.labels(label).dec()
            metrics.prompt_tokens.labels(label).inc(generation.prompt_tokens)
            metrics.generated_tokens.labels(label).inc(generation.generated_tokens)
            for histogram, seconds in (
                (metrics.first_token, _later(generation.first_token_s, waited_s)),
                (metrics.inter_token, generation.inter_token_s),
                (metrics.queue_wait, _later(generation.queue_s, waited_s)),
            ):
                if seconds is not None:
                    histogram.labels(label).observe(seconds)

    def _label(self, version: Version | None) -> str:
        return self.BASE if version is None else self._metrics.label(version.adapter)


def _later(seconds: float | None, by_s: float) -> float | None:
    return None if seconds is None else seconds + by_s
