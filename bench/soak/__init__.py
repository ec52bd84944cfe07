"""A long mixed load with kills, and the account of what became of every request and every acknowledged write."""
