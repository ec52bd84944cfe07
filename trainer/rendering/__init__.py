"""Training rows as token ids, made by the code that serves: vLLM's renderer, with the options of the running server.

It runs in a child process of its own before a run's preflight (``python -P -m trainer.rendering RUN_DIR``), so that
the process that trains imports no vLLM and every start of a run reads the same token ids.
"""
