"""Uploaded files, and files that jobs leave behind."""
