"""`python -m embedded.recipe data|tokenizer|base|adapters|score|all`: make the embedded model again from a
seed."""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Final

import torch

from embedded.recipe import adapters, mixture, pretrain, score, skills, tokenizer

_HERE: Final = Path(__file__).parent.parent
_TOKENIZER_DOCUMENTS: Final = 60_000


def _texts(seed: int) -> Iterator[str]:
    for document in islice(mixture.documents(seed), _TOKENIZER_DOCUMENTS):
        if isinstance(document, str):
            yield document
        else:
            yield "\n".join(f"{message['role']}\n{message['content']}" for message in document.messages)


def make_tokenizer(out: Path, seed: int) -> None:
    """Train the tokenizer on the mixture and save it beside the weights to come."""
    tokenizer.train(_texts(seed)).save_pretrained(out / "base")


def make_adapters(out: Path, seed: int) -> None:
    """Train every example adapter on the base and the data in `out`."""
    for skill in skills.SKILLS:
        print(f"adapter {skill}", flush=True)
        settings = adapters.Hyperparameters(seed=seed)
        adapters.train(
            out / "base", skills.read(out / "data", skill, "train"), out / "adapters" / skill, settings
        )


def print_score_card(out: Path) -> None:
    """Print how often base and adapters answer exactly right on what they never saw."""
    for line, share in score.card(out / "base", out / "adapters", out / "data"):
        print(f"  {line:32s} {share:.2f}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m embedded.recipe", description=__doc__)
    parser.add_argument("part", choices=("data", "tokenizer", "base", "adapters", "score", "all"))
    parser.add_argument(
        "--out", type=Path, default=_HERE, metavar="DIR", help="default: the embedded folder itself"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument(
        "--steps",
        type=int,
        default=pretrain.Hyperparameters().steps,
        metavar="N",
        help="pretraining steps (default: %(default)s)",
    )
    return parser.parse_args()


def main() -> None:
    """Make the parts that were asked for, in the order in which they need each other."""
    arguments = _arguments()
    torch.set_num_threads(1)  # more threads add up in another order, and give other weights
    out, seed, wanted = arguments.out, arguments.seed, arguments.part
    settings = replace(pretrain.Hyperparameters(), seed=seed, steps=arguments.steps)
    parts: dict[str, Callable[[], None]] = {
        "data": lambda: skills.write(out / "data", seed),
        "tokenizer": lambda: make_tokenizer(out, seed),
        "base": lambda: pretrain.pretrain(out / "base", settings),
        "adapters": lambda: make_adapters(out, seed),
        "score": lambda: print_score_card(out),
    }
    for part, make in parts.items():
        if wanted in (part, "all"):
            print(part, flush=True)
            make()


if __name__ == "__main__":
    main()
