"""Stored responses: what /v1/responses answered, for a later retrieval and for ``previous_response_id``."""
