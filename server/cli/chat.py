"""``patchbay chat``: a conversation with one model, or with two side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from rich.console import Console

from server.cli.client import ApiClient, ApiKey, Json, Url, connect, read_events, without_none
from server.cli.failure import CommandFailed
from server.cli.output import show_note

app = typer.Typer()


@app.command(rich_help_panel="Adapters")
def chat(
    ref: Annotated[str, typer.Argument(metavar="REF", help="Adapter, version, fine-tuned name, or the base model.")],
    *,
    vs: Annotated[str | None, typer.Option(metavar="REF", help="Second model that answers each message too.")] = None,
    message: Annotated[
        str | None, typer.Option("--message", "-m", help="Send this one message and exit; without it, read messages.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System message; without it, none.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer, in tokens; without it, up to the model's context.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="0 picks the most probable token; without it, the model's default.")
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Chat with an adapter; an empty line or Ctrl-D ends the chat."""
    options = without_none(max_tokens=max_tokens, temperature=temperature)
    with connect(url, api_key) as server:
        sides = [Side(server, model, options, system) for model in (ref, vs) if model is not None]
        if message is None:
            _converse(sides)
        else:
            _ask(sides, message, label=typer.echo if vs is not None else None)


def _converse(sides: list[Side]) -> None:
    terminal = Console(stderr=True)
    while message := _prompt(terminal):
        try:
            _ask(sides, message, label=show_note)
        except CommandFailed as failed:  # the next message may succeed
            failed.show()


def _prompt(terminal: Console) -> str:
    try:
        return terminal.input("[bold]> [/]").strip()
    except EOFError:
        return ""


def _ask(sides: list[Side], message: str, label: Callable[[str], None] | None) -> None:
    """Print the answer of each side; before it, the model that answered if there is a ``label`` function."""
    for side in sides:
        answer = side.ask(message)
        version = next(answer)
        if label is not None:
            label(f"[{version}]")
        for text in answer:
            typer.echo(text, nl=False)
        typer.echo()


@dataclass(slots=True)
class Side:
    """One model and the conversation with it."""

    server: ApiClient
    model: str
    options: Json
    system: str | None
    turns: list[Json] = field(default_factory=list)

    def ask(self, message: str) -> Iterator[str]:
        """Yield the version that answers, then pieces of its answer; a complete answer joins ``turns``."""
        question = {"role": "user", "content": message}
        heading = [] if self.system is None else [{"role": "system", "content": self.system}]
        body = {"model": self.model, "messages": [*heading, *self.turns, question], "stream": True, **self.options}
        answer = ""
        with self.server.stream("POST", "/v1/chat/completions", json=body) as response:
            yield response.headers.get("x-patchbay-adapter", self.model)
            for event in read_events(response.iter_lines()):
                text = _text(event)
                answer += text
                yield text
        self.turns += [question, {"role": "assistant", "content": answer}]


def _text(event: Json) -> str:
    choices: list[Any] = event.get("choices") or []
    return "".join(choice["delta"].get("content") or "" for choice in choices)
