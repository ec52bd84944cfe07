"""Takes jobs off the queue, trains each in a child process, publishes checkpoints and results."""
