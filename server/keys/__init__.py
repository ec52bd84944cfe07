"""API keys: who may call, and for what."""
