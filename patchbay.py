"""The command ``patchbay``, started only where Python imports this project's packages and no others of their names.

A module ``server`` in a directory on PYTHONPATH, or another installed package ``adapters``, could come first on
``sys.path``. So nothing of the project is imported here before that was checked.
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent
PACKAGES: Final = ("adapters", "trainer", "server")
IS_INSTALLED: Final = ROOT.name in {"site-packages", "dist-packages"}
"""False in a clone and in an editable install: nothing but this project lies beside this file."""


class ForeignPackage(ImportError):
    """Python imports another package in place of one of ours; the message has its path and says what to do."""


def check_packages() -> None:
    """Raise ForeignPackage unless each of ``PACKAGES`` is imported from ``ROOT``."""
    for name in PACKAGES:
        spec, ours = find_spec(name), ROOT / name / "__init__.py"
        origin = "nowhere" if spec is None else spec.origin or "a directory without __init__.py"
        if Path(origin).resolve() != ours.resolve():
            raise ForeignPackage(
                f"Python imports '{name}' from {origin} instead of {ours.parent}: take that directory off PYTHONPATH, "
                "or install patchbay in an environment of its own"
            )
        if "patchbay" not in ours.read_text(encoding="utf-8"):
            raise ForeignPackage(
                f"another package has overwritten {ours.parent}: install patchbay in an environment of its own"
            )


def main() -> None:
    if not IS_INSTALLED:
        sys.path[:] = [str(ROOT), *(entry for entry in sys.path if entry != str(ROOT))]
    try:
        check_packages()
    except ForeignPackage as foreign:
        sys.exit(f"error: {foreign}")
    from server import cli

    cli.main()


if __name__ == "__main__":
    main()
