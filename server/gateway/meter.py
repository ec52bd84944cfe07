"""Metrics per adapter, updated once a generation and once a response, never per token."""

from collections.abc import Iterator
from contextlib import contextmanager

from adapters.rollout import RolloutSide
from adapters.versions import Version
from server.engine.protocol import Generation
from server.metrics import AdapterMetrics


class Meter:
    """Counts into ``metrics``; requests that the base model answers have the label ``(base)``."""

    BASE = "(base)"

    def __init__(self, metrics: AdapterMetrics) -> None:
        self._metrics = metrics

    def answered(self, version: Version | None, status: int | None) -> None:
        """Count a response. ``status`` is None where the client closed the connection first; counted as 499."""
        self._metrics.requests.labels(self._label(version), str(status or 499)).inc()

    def tried(self, adapter: str, side: RolloutSide, took_s: float, *, has_failed: bool) -> None:
        """Count a request behind an alias with a rollout. ``took_s``: to the end of its answer."""
        label = self._metrics.label(adapter)
        self._metrics.rollout_requests.labels(label, side, "error" if has_failed else "ok").inc()
        if not has_failed:
            self._metrics.rollout_seconds.labels(label, side).observe(took_s)

    @contextmanager
    def generation(
        self, version: Version | None, generation: Generation, *, cold_s: float, turn_s: float
    ) -> Iterator[None]:
        """Meter one generation: in flight inside the block, tokens and latencies at its end.

        ``cold_s``, ``turn_s``: seconds waited for its adapter and its turn, before the engine's own clock starts.
        """
        series = self._metrics.series(self._label(version))
        series.in_flight.inc()
        series.turn_wait.observe(turn_s)
        waited_s = cold_s + turn_s
        try:
            yield
        except Exception:  # counted, and raised again
            series.errors.inc()
            raise
        finally:
            series.in_flight.dec()
            series.prompt_tokens.inc(generation.prompt_tokens)
            series.generated_tokens.inc(generation.generated_tokens)
            if generation.first_token_s is not None:
                series.first_token.observe(waited_s + generation.first_token_s)
            if generation.inter_token_s is not None:
                series.inter_token.observe(generation.inter_token_s)
            if generation.queue_s is not None:
                series.queue_wait.observe(waited_s + generation.queue_s)

    def _label(self, version: Version | None) -> str:
        return self.BASE if version is None else self._metrics.label(version.adapter)
