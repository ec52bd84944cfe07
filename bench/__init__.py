"""Measures patchbay over HTTP, and stock vLLM beside it. Of the product it knows the registry alone, which it fills."""
