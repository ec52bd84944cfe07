"""Checks of an upload: may it be served? Each fault names its place, what was found and what is needed."""
