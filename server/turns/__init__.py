"""Whose turn it is: which generations the engine gets next, so that busy adapters leave room for quiet ones."""
