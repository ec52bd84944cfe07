"""Alembic's environment for every package, and the migrations of this one's tables."""
