"""How the server speaks HTTP: errors, uploads and downloads."""
