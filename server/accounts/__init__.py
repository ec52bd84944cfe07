"""Accounts of callers: limits, usage by day, the audit log, and the answers kept for repeated requests."""
