"""Child processes: their start, environment, limits on memory and time, answers and end."""
