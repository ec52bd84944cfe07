"""Uploaded files, and the result files of jobs."""
