"""The child's end of the channel to its worker, over which the server draws answers of the policy."""

import json
import os
import random
import socket
from collections.abc import Callable

from trainer.endings import SamplingRefused
from trainer.policy_sampling import PolicyAnswer, PolicyAnswers, PolicyRequest

Draw = Callable[[PolicyRequest], PolicyAnswers]


def connected() -> Draw:
    """Return a function that draws answers on the server; it blocks until they have come.

    It raises SamplingRefused where there are none.
    """
    channel = socket.socket(fileno=os.dup(0)).makefile("rwb")  # standard input: see trainer.worker.policy_channel

    def draw(request: PolicyRequest) -> PolicyAnswers:
        channel.write(request.model_dump_json().encode() + b"\n")
        channel.flush()
        if not (line := channel.readline()):
            raise SamplingRefused("the worker has ended")
        answer = PolicyAnswers.model_validate_json(line)
        if answer.refusal is not None:
            raise SamplingRefused(f"the server drew no answers {request.source}: {answer.refusal}")
        return answer

    return draw


def made_up(request: PolicyRequest) -> PolicyAnswers:
    """Return answers of full length with random rewards, for a dry run: they take the memory of real ones."""
    chance = random.Random(json.dumps([request.seed, request.step]))  # noqa: S311 - no secret depends on it

    def answer(ids: list[int]) -> PolicyAnswer:
        repeated = (ids * (request.max_tokens // len(ids) + 1))[: request.max_tokens]
        return PolicyAnswer(ids=repeated, logprobs=[-1.0] * len(repeated), text="", reward=chance.random())

    return PolicyAnswers(answers=[[answer(each.ids) for _ in range(request.samples)] for each in request.prompts])
