"""Measures patchbay from outside. Imports nothing of the product but the registry it fills."""
