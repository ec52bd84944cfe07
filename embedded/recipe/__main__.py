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
    """Train each example adapter on the base and the data in `out`."""
    for skill in skills.SKILLS:
        print(f"adapter {skill}", flush=True)
        rows = skills.read(out / "data", skill, "train")
        adapters.train(out / "base", rows, out / "adapters" / skill, adapters.AdapterHyperparameters(seed=seed))


def print_score_card(out: Path) -> None:
    """Print the share of exactly right answers of base and adapters to held-out prompts."""
    for line, share in score.card(out / "base", out / "adapters", out / "data"):
        print(f"  {line:46s} {share:.2f}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m embedded.recipe", description=__doc__)
    parser.add_argument("part", choices=("data", "tokenizer", "base", "adapters", "score", "all"))
    parser.add_argument("--out", type=Path, default=_HERE, metavar="DIR", help="default: the embedded folder itself")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    steps = pretrain.PretrainHyperparameters().steps
    parser.add_argument("--steps", type=int, default=steps, metavar="N", help="of pretraining (default: %(default)s)")
    return parser.parse_args()


def main() -> None:
    """Make the chosen part, or all parts in the order of their dependencies."""
    arguments = _arguments()
    torch.set_num_threads(1)  # with more threads sums have another order, and weights differ
    out, seed = arguments.out, arguments.seed
    settings = replace(pretrain.PretrainHyperparameters(), seed=seed, steps=arguments.steps)
    parts: dict[str, Callable[[], None]] = {
        "data": lambda: skills.write(out / "data", seed),
        "tokenizer": lambda: tokenizer.train(seed).save_pretrained(out / "base"),
        "base": lambda: pretrain.pretrain(out / "base", settings),
        "adapters": lambda: make_adapters(out, seed),
        "score": lambda: print_score_card(out),
    }
    for part, make in parts.items():
        if arguments.part in (part, "all"):
            print(part, flush=True)
            make()


if __name__ == "__main__":
    main()
