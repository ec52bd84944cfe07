"""Child processes with limits on memory, CPU and time."""
