"""Fine-tuning jobs as durable rows: what people ask for, what workers hold, what came of it."""
