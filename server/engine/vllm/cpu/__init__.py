"""What only vLLM's CPU build needs: dense LoRA products, a fork server, idle sleep, thread binding."""
