"""Adapters being made. Empty until the trainer lands; the floor is here so that the import contract is."""
