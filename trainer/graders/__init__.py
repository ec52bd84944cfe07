"""OpenAI's graders: each scores one answer of a model."""
