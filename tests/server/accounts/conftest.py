"""The key whose limits and usage the tests of accounts are about."""

from __future__ import annotations

import pytest

from server.access.scope import Scope
from tests.server.opened import Opened


@pytest.fixture
async def key_id(opened: Opened) -> str:
    """The id of the key that the client sends."""
    key, secret = await opened.state.keys.create("app", [Scope.ADMIN])
    opened.client.headers["authorization"] = f"Bearer {secret}"
    return key.id
