"""vLLM as the engine: the only package that imports vLLM, and the only place where vLLM is patched."""
