"""Measures patchbay over HTTP, and stock vLLM beside it. Of the product it imports the registry alone, to fill it."""
