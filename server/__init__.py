"""Adapters being served: the HTTP app, the gateway, residency, the engine."""
