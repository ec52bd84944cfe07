"""New versions out of others: weighted combinations of what they add to the base model's weights."""
