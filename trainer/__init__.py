"""patchbay's trainer: files, jobs, data, methods, and the worker that brings them together."""
