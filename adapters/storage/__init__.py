"""Storage of bytes: staging directories, then blobs by digest, with a remote copy; and the database connection."""
