"""Make the embedded model again from a seed: `python -m embedded.recipe all`, or one part of it."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from embedded.recipe import adapters, pretrain, score, skills, tokenizer

_HERE: Final = Path(__file__).parent.parent


def make_adapters(out: Path, seed: int) -> None:
    """Train every example adapter on the base and the data in `out`."""
    for skill in skills.SKILLS:
        print(f"adapter {skill}", flush=True)
        rows = skills.read(out / "data", skill, "train")
        adapters.train(out / "base", rows, out / "adapters" / skill, adapters.AdapterHyperparameters(seed=seed))


def print_score_card(out: Path) -> None:
    """Print how often base and adapters answer exactly right on what they never saw."""
    for line, share in score.card(out / "base", out / "adapters", out / "data"):
        print(f"  {line:46s} {share:.2f}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m embedded.recipe", description=__doc__)
    parser.add_argument("part", choices=("data", "tokenizer", "base", "adapters", "score", "all"))
    parser.add_argument("--out", type=Path, default=_HERE, metavar="DIR", help="default: the embedded folder itself")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument(
        "--steps",
        type=int,
        default=pretrain.PretrainHyperparameters().steps,
        metavar="N",
        help="pretraining steps (default: %(default)s)",
    )
    return parser.parse_args()


def main() -> None:
    """Make the parts that were asked for, in the order in which they need each other."""
    arguments = _arguments()
    torch.set_num_threads(1)  # more threads add up in another order, and give other weights
    out, seed, wanted = arguments.out, arguments.seed, arguments.part
    settings = replace(pretrain.PretrainHyperparameters(), seed=seed, steps=arguments.steps)
    parts: dict[str, Callable[[], None]] = {
        "data": lambda: skills.write(out / "data", seed),
        "tokenizer": lambda: tokenizer.train(seed).save_pretrained(out / "base"),
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
