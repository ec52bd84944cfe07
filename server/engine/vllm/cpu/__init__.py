"""What only vLLM's CPU build needs: dense LoRA products, a fork server, a prediction of its thread binding."""
