"""How adapters are made: a page for each method, and what they share. Runs as ``python -m trainer.methods RUN_DIR``."""
