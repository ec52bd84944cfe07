"""How the house speaks HTTP: errors, uploads and downloads."""
