"""The one form in which every LoRA is served, and what brings others into it."""
