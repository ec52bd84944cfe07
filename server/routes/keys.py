"""API keys: created, listed, rotated, revoked. A change reaches every server of the database within seconds."""

from fastapi import APIRouter

from server.access.api_key import ApiKey
from server.http.schemas.base import ListObject
from server.http.schemas.keys import CreatedKey, KeyBody, KeyObject, RotateBody
from server.routes.dependencies import StateDep

router = APIRouter(prefix="/v1/keys", tags=["keys"])


@router.post("", status_code=201)
async def create(body: KeyBody, state: StateDep) -> CreatedKey:
    """Create a key. Its ``value`` is the secret, which is shown only once."""
    key, secret = await state.keys.create(
        body.name, body.scopes, project=body.project, adapters=body.adapters, expires_at=body.expires_at
    )
    return _created(key, secret)


@router.get("")
async def list_keys(state: StateDep) -> ListObject[KeyObject]:
    """List every key, revoked and expired ones too, oldest first."""
    return ListObject[KeyObject](data=await state.keys.latest())


@router.post("/{key_id}/rotate", status_code=201)
async def rotate(key_id: str, state: StateDep, body: RotateBody | None = None) -> CreatedKey:
    """Create a successor with the same rights. The old key ends now, or after ``grace_s``."""
    return _created(*await state.keys.rotate(key_id, grace_s=(body or RotateBody()).grace_s))


@router.delete("/{key_id}")
async def revoke(key_id: str, state: StateDep) -> KeyObject:
    """Revoke a key for good."""
    return KeyObject.model_validate(await state.keys.revoke(key_id))


def _created(key: ApiKey, secret: str) -> CreatedKey:
    return CreatedKey(**KeyObject.model_validate(key).model_dump(mode="python"), value=secret)
