"""Batches: files of requests that are answered behind other traffic, within a day. OpenAI's /v1/batches."""
