"""Merging: new versions as weighted combinations of others."""
