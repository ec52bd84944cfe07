"""Which versions the engine holds ready, who is using them, and who must go when room is needed."""
