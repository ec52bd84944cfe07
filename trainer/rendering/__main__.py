"""The child process that renders a run's files: ``python -P -m trainer.rendering RUN_DIR``."""

import sys
from pathlib import Path

from adapters.processes.child import die_with_parent
from adapters.storage.disk import is_no_space
from trainer.rendering.rendering import render
from trainer.run_directory import Exit, RunDirectory

if __name__ == "__main__":
    die_with_parent()
    run = RunDirectory(Path(sys.argv[1]))
    try:
        render(run)
    except OSError as error:
        if not is_no_space(error, run.path):
            raise
        sys.exit(Exit.NO_SPACE)
