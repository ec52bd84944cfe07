"""patchbay's server: the HTTP app, the gateway, residency, the engine."""
