"""vLLM as the engine: the only package that imports vLLM. ``patches`` is the register of what is patched there."""
