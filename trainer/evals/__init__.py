"""Evals: graders over the items of a data source, and runs that apply them to the answers of a model."""
