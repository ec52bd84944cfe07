"""The engine that generates: a protocol, a fake for tests, and vLLM."""
