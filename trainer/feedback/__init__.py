"""Feedback on answers that this server gave, and the training rows that it becomes."""
