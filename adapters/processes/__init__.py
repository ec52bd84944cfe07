"""Child processes: how they are started, what of the environment and the machine they get, how they answer and end."""
