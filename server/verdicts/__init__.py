"""Verdicts on jobs: their result, the base model and others read the same held-out rows on the serving engine."""
