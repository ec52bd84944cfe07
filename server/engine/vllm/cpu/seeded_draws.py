"""Generators of requests with a seed, set back where vLLM throws a drawn token away."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


def rewinding(bookkeeping: Callable[..., T]) -> Callable[..., T]:
    """Return ``bookkeeping`` of a model runner, which sets back the generators of thrown-away draws by itself.

    The method finds no generator of them, for it would set an offset that they do not have. Before a request's first
    token its generator begins anew, as if nothing had been drawn. A request that was preempted goes on from where its
    generator is: a draw more has no effect on its distribution.
    """

    @wraps(bookkeeping)
    def wrapped(runner: Any, *args: Any, **options: Any) -> T:
        batch = runner.input_batch
        discarded = np.nonzero(runner.discard_request_mask.np[: batch.num_reqs])[0].tolist()
        generators = {row: batch.generators.pop(row) for row in discarded if row in batch.generators}
        for row, generator in generators.items():
            if not batch.req_output_token_ids[row]:
                generator.manual_seed(generator.initial_seed())
        try:
            return bookkeeping(runner, *args, **options)
        finally:
            batch.generators.update(generators)

    return wrapped
