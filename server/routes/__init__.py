"""The control routes: adapters, versions, aliases, models, and the process itself."""
