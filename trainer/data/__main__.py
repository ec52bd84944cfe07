"""``python -m trainer.data METHOD TRAINING [VALIDATION]`` prints the reports on the files as a JSON list.

A process of its own: in a thread of the server, reading a large file would keep its requests waiting.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Final

from trainer.data.check import check_files
from trainer.run_spec import Method

NICENESS: Final = 10


def main(method: str, training: str, validation: str | None = None) -> None:
    """Check the files and print what was found in each."""
    os.nice(NICENESS)  # requests come first
    for asked in (signal.SIGINT, signal.SIGTERM):  # a terminal and systemd send them to the server's children too;
        signal.signal(asked, signal.SIG_IGN)  # the server ends this one itself, and checks again at its next start
    reports = check_files(Path(training), None if validation is None else Path(validation), Method(method))
    json.dump([report.to_json() for report in reports if report is not None], sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
