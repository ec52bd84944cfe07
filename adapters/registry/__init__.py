"""Which adapters, versions and aliases exist: SQL rows, and a catalog of them in memory."""
