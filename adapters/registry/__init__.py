"""The registry of adapters, versions and aliases: SQL rows, and a catalog of them in memory."""
