"""What an adapter must be to come in: its files, its config, every tensor against the base model."""
