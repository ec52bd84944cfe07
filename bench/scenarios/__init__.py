"""One file per scenario: a command with its options, and the measurement."""
