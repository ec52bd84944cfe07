"""Takes jobs off the queue, trains each in a child process, and publishes what comes out."""
