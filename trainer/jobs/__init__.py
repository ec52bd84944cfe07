"""Fine-tuning jobs in the database: the jobs, their queue, events and checkpoints."""
