"""The environment variables of a child process: enough to import the same packages, and no secret it does not need."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from typing import Final

from patchbay import IS_INSTALLED, ROOT

_NEEDED: Final = ("LD_LIBRARY_PATH", "PYTHONHOME", "TMPDIR")
_SECRET: Final = re.compile(r"^PATCHBAY_|(^|_)(AUTH|CREDENTIALS?|KEYS?|SECRETS?|TOKENS?)(_|$)|PASSW", re.IGNORECASE)
"""Names of API keys, hub tokens, object stores' credentials. PATCHBAY_DATABASE_URL may hold a password."""
_OFFLINE: Final = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "CUDA_VISIBLE_DEVICES": ""}
"""No network, and no accelerator: that is the engine's."""


def child_environment(
    *, inherits: bool = False, secrets: Collection[str] = (), threads: int | None = None
) -> dict[str, str]:
    """Return the environment of a child process.

    Args:
        inherits: the child gets the variables of this process apart from secrets; otherwise almost none of them, no
            network and no accelerator.
        secrets: names of the secrets that an inheriting child needs all the same.
        threads: how many threads OpenMP and OpenBLAS use; None: as many as they choose, or as inherited.
    """
    names = [name for name in os.environ if not _SECRET.search(name) or name in secrets] if inherits else _NEEDED
    environment = {name: os.environ[name] for name in names if name in os.environ}
    if threads is not None:
        environment |= {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    return environment | ({} if inherits else _OFFLINE) | import_variables() | {"PYTHONUNBUFFERED": "1"}


def import_variables() -> dict[str, str]:
    """Return the environment variables with which a child process imports the same packages as this process.

    Nothing comes from the child's working directory, which an empty entry of PYTHONPATH stands for too. This project
    comes first, except where that would put all of site-packages before the standard library.
    """
    entries = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry not in {"", str(ROOT)}]
    ours = [] if IS_INSTALLED else [str(ROOT)]
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join([*ours, *entries])}
