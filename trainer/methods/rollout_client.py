"""The child's end of the channel to its worker, over which the server draws answers of the policy."""

import json
import os
import random
import socket
from collections.abc import Callable

from trainer.endings import RolloutsRefused
from trainer.rollouts import Rollout, RolloutAnswer, RolloutRequest

Draw = Callable[[RolloutRequest], RolloutAnswer]


def connected() -> Draw:
    """Return a function that draws answers on the server; it blocks until they have come.

    It raises RolloutsRefused where there are none.
    """
    channel = socket.socket(fileno=os.dup(0)).makefile("rwb")  # standard input: see trainer.worker.rollout_channel

    def draw(request: RolloutRequest) -> RolloutAnswer:
        channel.write(request.model_dump_json().encode() + b"\n")
        channel.flush()
        if not (line := channel.readline()):
            raise RolloutsRefused("the worker has ended")
        answer = RolloutAnswer.model_validate_json(line)
        if answer.refusal is not None:
            raise RolloutsRefused(f"the server drew no answers at step {request.step}: {answer.refusal}")
        return answer

    return draw


def made_up(request: RolloutRequest) -> RolloutAnswer:
    """Return answers of full length with random rewards, for a dry run: they take the memory of real ones."""
    chance = random.Random(json.dumps([request.seed, request.step]))  # noqa: S311 - no secret depends on it

    def answer(ids: list[int]) -> Rollout:
        repeated = (ids * (request.max_tokens // len(ids) + 1))[: request.max_tokens]
        return Rollout(ids=repeated, logprobs=[-1.0] * len(repeated), text="", reward=chance.random())

    return RolloutAnswer(rollouts=[[answer(each.ids) for _ in range(request.samples)] for each in request.prompts])
