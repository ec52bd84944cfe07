"""LoRA as data: safetensors headers, PEFT configs, tensor names, factors, the canonical form, differences, merges."""
