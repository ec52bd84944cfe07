"""Work on uploads in processes of its own, each held to a share of memory and time."""
