"""The warning of a server whose database names versions that lie in another server's directory or bucket."""

import structlog

from adapters.errors import BlobStoreUnavailable
from server.state import AppState

log = structlog.get_logger(__name__)


async def warn_of_missing_blobs(state: AppState) -> None:
    """Log an error if there are versions, and the bytes of none of them are here."""
    living = await state.registry.digests()
    try:
        is_lost = living and not await state.blobs.has_any(living)
    except BlobStoreUnavailable as away:
        log.warning("the blob store cannot be looked into yet", reason=away.message)
        return
    if is_lost:
        log.error(
            "no version of this database has its files here, so none can be answered: start this server with the "
            "--data-dir or the --blob-url of the server that published them",
            digests=len(living),
            data_dir=str(state.settings.data_dir),
            blob_url=state.settings.blob_url,
        )
