"""One file each: what is measured, and how small it is by default."""
