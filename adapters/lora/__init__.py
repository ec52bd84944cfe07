"""LoRA as data: PEFT configs, tensor names, factors, the canonical form, differences, merges."""
