"""Adapters being made: files, jobs, data, methods, and the worker that brings them together."""
