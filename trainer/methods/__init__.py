"""How adapters are made: a file for each method, and what they share. Runs as ``python -m trainer.methods RUN_DIR``."""
