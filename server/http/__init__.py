"""How the house speaks HTTP: errors and uploads."""
