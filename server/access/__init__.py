"""Access control: API keys, bearer tokens of an issuer, and their scopes."""
