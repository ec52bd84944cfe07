"""What the README tells people to type exists, and its first screen is enough to begin with."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

from typer.testing import CliRunner

from server.cli import app

FIRST_SCREEN_LINES = 40
SERVER = "http://127.0.0.1:8000"
SERVED = re.compile(r"/(v1/.+|health|ready|metrics)")
# Without what `make test` tells the makes it starts.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}


def test_what_the_readme_says_to_type_exists(repository: Path) -> None:
    assert list(complaints_about_commands((repository / "README.md").read_text(), repository)) == []


def test_the_first_screen_of_the_readme_is_enough_to_begin_with(repository: Path) -> None:
    assert list(complaints_about_first_screen((repository / "README.md").read_text())) == []


def complaints_about_commands(readme: str, repository: Path) -> Iterator[str]:
    """Yield a sentence for each make, patchbay or curl line in a bash block that would not work."""
    for command in commands(readme):
        program, *arguments = shlex.split(command, comments=True)
        if program == "curl":
            yield from (f"{command}: {complaint}" for complaint in complaints_about_curl(arguments))
            continue
        if program == "patchbay":
            if (shown := CliRunner().invoke(app, [*arguments, "--help"])).exit_code != 0:
                yield f"{command}: {shown.output.strip()}"
            continue
        dry = ["make", "-n", *arguments]
        done = subprocess.run(dry, cwd=repository, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        is_mere_file = done.stdout.startswith("make")  # Nothing to be done for 'server'.
        if done.returncode != 0 or is_mere_file:
            yield f"{command}: {done.stderr.strip() or done.stdout.strip()}"


def commands(readme: str) -> Iterator[str]:
    """Yield the first program of each command line that we can judge."""
    for block in re.findall(r"^```bash\n(.*?)^```", readme, re.DOTALL | re.MULTILINE):
        for line in joined_lines(block):
            if line.startswith(("make ", "patchbay ", "curl ")):
                yield before_pipe(line)


def joined_lines(block: str) -> Iterator[str]:
    """Yield the lines of ``block``, those joined that a backslash or an open quote continues."""
    joined = ""
    for line in block.replace("\\\n", " ").splitlines():
        joined += f"{line}\n"
        try:
            shlex.split(joined, comments=True)
        except ValueError:
            continue
        yield joined
        joined = ""


def before_pipe(line: str) -> str:
    """Cut ``line`` where the shell would start another program."""
    words = shlex.shlex(line, posix=False, punctuation_chars="|&;<>")
    words.whitespace_split = True
    words.commenters = "#"
    kept = []
    for word in words:
        if set(word) <= set("|&;<>"):
            break
        kept.append(word)
    return " ".join(kept)


def complaints_about_curl(arguments: list[str]) -> Iterator[str]:
    urls = [argument for argument in arguments if "://" in argument or argument.startswith("localhost")]
    if len(urls) != 1 or not urls[0].startswith(f"{SERVER}/"):
        yield f"asks {urls} instead of {SERVER}"
    elif not SERVED.fullmatch(urls[0].removeprefix(SERVER).partition("?")[0]):
        yield "asks for a path that the server does not have"
    for option, body in itertools.pairwise(arguments):
        if option in {"-d", "--data", "--json"} and not body.startswith("@"):
            try:
                json.loads(body)
            except ValueError as error:
                yield f"sends a body that is not JSON: {error}"


def complaints_about_first_screen(readme: str) -> Iterator[str]:
    """Yield a sentence for each thing that the first lines of a README should hold and do not."""
    first = "\n".join(readme.splitlines()[:FIRST_SCREEN_LINES])
    yield from (f"no {needed!r}" for needed in ("make serve", "make test", "curl ") if needed not in first)
    rows = re.findall(r"^\|.*\d.*\|\s*$", readme, re.MULTILINE)
    measured = {number for row in rows for number in re.findall(r"\d[\d.,]*\d", row)}
    if not any(re.search(rf"(?<![\d.,]){re.escape(number)}(?![\d,])", first) for number in measured):
        yield "no number from a table of results"


GOOD = """# patchbay
A switch between two of 200 adapters costs 1.7 ms.
```bash
make serve                      # installs everything
make test ARGS="-k names" | tail -1
curl http://127.0.0.1:8000/v1/chat/completions \\
  -d '{"model": "sql@stable",
       "messages": []}' | head -c 80
```
| | ms |
|---|---|
| switch | 1.7 |
"""


def test_a_good_readme_passes(repository: Path) -> None:
    assert list(complaints_about_commands(GOOD, repository)) == []
    assert list(complaints_about_first_screen(GOOD)) == []


def test_an_unknown_target_command_path_or_body_is_complained_of(repository: Path) -> None:
    bad = """```bash
make lunch
make setup
patchbay no-such-command
curl http://127.0.0.1:8000/v2/models
curl http://127.0.0.1:9000/ready
curl http://127.0.0.1:8000/v1/models -d '{model: sql}'
```"""
    found = [complaint.partition(":")[0] for complaint in complaints_about_commands(bad, repository)]
    assert found == [
        "make lunch",
        "make setup",
        "patchbay no-such-command",
        "curl http",
        "curl http",
        "curl http",
    ]


def test_a_first_screen_without_beginnings_is_complained_of() -> None:
    assert len(list(complaints_about_first_screen("# patchbay\n| ms |\n|---|\n"))) == 4
