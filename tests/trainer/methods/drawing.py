"""Draws the answers of a policy in training without a server."""

from collections.abc import Callable
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from embedded import BASE
from trainer.policy_sampling import PolicyAnswer, PolicyAnswers, PolicyPrompt, PolicyRequest
from trainer.run_directory import RunDirectory

Grade = Callable[[str], float | None]


class Drawing:
    """Draws answers with transformers and PEFT, in the place of the server; keeps the requests."""

    def __init__(self, run: RunDirectory, grade: Grade) -> None:
        self._run = run
        self._grade = grade
        self._tokenizer = AutoTokenizer.from_pretrained(BASE)
        self.requests: list[PolicyRequest] = []

    def __call__(self, request: PolicyRequest) -> PolicyAnswers:
        self.requests.append(request)
        base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, self._run.policy_path(request.step))
        state = torch.get_rng_state()
        torch.manual_seed(request.seed % 2**31)
        sampling = [self._answers(model, prompt, request) for prompt in request.prompts]
        torch.set_rng_state(state)
        return PolicyAnswers(answers=sampling)

    def _answers(self, model: Any, prompt: PolicyPrompt, request: PolicyRequest) -> list[PolicyAnswer]:
        asked = torch.tensor([prompt.ids])
        made = model.generate(
            input_ids=asked,
            attention_mask=torch.ones_like(asked),
            num_return_sequences=request.samples,
            output_logits=True,
            return_dict_in_generate=True,
            pad_token_id=self._tokenizer.pad_token_id,
            max_new_tokens=request.max_tokens,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
        )
        logprobs = torch.stack(made.logits, dim=1).float().log_softmax(-1)
        return [
            self._answer_of(ids.tolist(), table)
            for ids, table in zip(made.sequences[:, len(prompt.ids) :], logprobs, strict=True)
        ]

    def _answer_of(self, ids: list[int], table: torch.Tensor) -> PolicyAnswer:
        stop = self._tokenizer.eos_token_id
        ids = ids[: ids.index(stop) + 1] if stop in ids else ids
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        numbers = [float(table[place, token]) for place, token in enumerate(ids)]
        reward = self._grade(text)
        return PolicyAnswer(
            ids=ids, logprobs=numbers, text=text, reward=reward, error=None if reward is not None else "no score"
        )
