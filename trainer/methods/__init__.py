"""How adapters are made: one page for each method, and what they share. Runs as ``python -m trainer.methods RUN_DIR``."""
