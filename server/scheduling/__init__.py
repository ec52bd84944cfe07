"""Which generations reach the engine next: adapters share its slots and its batch fairly."""
