"""Where bytes lie: staged while nothing is decided about them, then as blobs by their digest."""
