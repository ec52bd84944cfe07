"""Every command of the README is run, in its order, against a real server; where output is shown, it must be that."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(
    r"^```(bash|python)\n(.*?)^```\n(?:```text\n(.*?)^```$)?", README.read_text(), re.MULTILINE | re.DOTALL
)
PRINTED = "http://127.0.0.1:8000"


@pytest.mark.parametrize(("language", "code", "shown"), BLOCKS, ids=[block[1].strip()[:40] for block in BLOCKS])
def test_a_block_of_the_readme_does_what_it_says(server, language, code, shown):
    code = code.replace(PRINTED, server.url)
    if "make serve" in code:
        assert server.is_ready()  # `make` itself is run by CI and by tests/setup
        return
    program = [sys.executable, "-c", code] if language == "python" else ["bash", "-euo", "pipefail", "-c", code]
    done = subprocess.run(
        program,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PATCHBAY_URL": server.url,
            "TERM": "dumb",
        },
        cwd=README.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if shown:
        assert done.stdout.strip() == shown.strip()
