"""The child process that renders a run's files: ``python -P -m trainer.rendering RUN_DIR``."""

import sys
from pathlib import Path

from adapters.processes.child import die_with_parent
from trainer.rendering.rendering import render
from trainer.run_directory import RunDirectory

if __name__ == "__main__":
    die_with_parent()
    render(RunDirectory(Path(sys.argv[1])))
