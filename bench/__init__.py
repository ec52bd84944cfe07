"""Measures patchbay from outside, over HTTP. Of the product it knows the registry alone, which it fills."""
