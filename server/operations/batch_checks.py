"""Checks of a batch against this server: does the base model answer its endpoint, do its models exist?"""

from dataclasses import dataclass

from adapters.errors import PatchbayError
from adapters.registry.registry import Registry
from server.access.key_ring import KeyRing
from server.current_engine import CurrentEngine
from server.gateway.authenticate import authorize
from server.gateway.inference_routes import needs
from server.gateway.resolve import resolve


@dataclass(frozen=True, slots=True)
class BatchChecks:
    """Implements ``server.batches.batch_attempt.ServerChecks``."""

    engine: CurrentEngine
    registry: Registry
    keys: KeyRing

    async def catch_up(self) -> None:
        await self.registry.try_refresh()

    def endpoint_fault(self, endpoint: str) -> str | None:
        if endpoint in self.engine.serving().engine.paths:
            return None
        return f"the base model does not answer {endpoint}; that takes {needs(endpoint)}"

    def model_fault(self, model: str, endpoint: str, key_id: str | None) -> str | None:
        info = self.engine.info
        try:
            caller = authorize(self.keys, key_id, "POST", endpoint)
            if model not in info.served_names:
                resolve(model, self.registry.catalog, info, caller)
        except PatchbayError as refusal:
            return refusal.message
        return None
