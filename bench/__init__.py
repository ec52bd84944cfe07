"""Measures patchbay over HTTP, and stock vLLM beside it. Imports of the product only the registry, to fill it."""
