"""The inside of a process that answers lines of JSON on stdin with lines of JSON on stdout. See ``line_process``."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress

from adapters.processes.answers import Work, answer_of


def serve_lines(work: Work) -> None:
    """Answer each question with ``work`` until stdin ends. What libraries print goes to stderr."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            with suppress(OSError):  # stderr is a log file of this question only, unless a person runs this
                os.lseek(2, 0, os.SEEK_SET)
                os.ftruncate(2, 0)
            print(json.dumps(answer_of(work, json.loads(line))), file=answers, flush=True)
