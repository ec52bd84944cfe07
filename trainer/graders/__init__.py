"""Graders, OpenAI's kinds of them, a page each: what scores one answer."""
