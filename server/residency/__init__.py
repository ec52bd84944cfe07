"""Which versions are resident in the engine, which requests lease them, and which one is evicted next."""
