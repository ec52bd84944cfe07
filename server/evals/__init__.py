"""Runs of evals: items are asked as lines of a batch are, behind other requests, and their answers graded."""
