"""The control routes: adapters, versions, aliases, models, files, fine-tuning, and the process itself."""
