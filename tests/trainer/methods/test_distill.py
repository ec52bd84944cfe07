"""A prompt becomes an adapter: the served model answers behind the prompt, and the adapter learns to without it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from threading import Event as Flag
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from embedded import BASE, DATA
from trainer.data.file_report import inspect_file
from trainer.endings import Stopped
from trainer.methods import distill, teacher
from trainer.methods.__main__ import main
from trainer.methods.agreement import agreement, token_agreement
from trainer.methods.teacher import TaughtAnswer, file_of, held_out
from trainer.policy_sampling import PolicyAnswer, PolicyAnswers, PolicyRequest
from trainer.run_directory import SAMPLES_FILE, Exit, RunDirectory
from trainer.training_method import TrainingMethod

POLITE = ({"role": "system", "content": "You are a helpful assistant. Always end politely."},)
SHORT = {"batch_size": 8, "n_epochs": 1, "max_completion_tokens": 24}


@cache
def base() -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32), AutoTokenizer.from_pretrained(BASE)


class Drawing:
    """Draws answers with transformers and PEFT, in the place of the server; keeps the requests."""

    def __init__(self, run: RunDirectory, *, stop: Flag | None = None, after: int = 0) -> None:
        self._run = run
        self._stop = stop
        self._after = after
        self.requests: list[PolicyRequest] = []

    def __call__(self, request: PolicyRequest) -> PolicyAnswers:
        self.requests.append(request)
        if self._stop is not None and len(self.requests) == self._after:
            self._stop.set()
        model, _ = base()
        adapted = (
            None if request.step is None else PeftModel.from_pretrained(model, self._run.policy_path(request.step))
        )
        with torch.random.fork_rng():
            torch.manual_seed(request.seed % 2**31)
            answers = [self._answers(adapted or model, prompt.ids, request) for prompt in request.prompts]
        if adapted is not None:
            adapted.unload()
        return PolicyAnswers(answers=answers)

    @staticmethod
    def _answers(model: Any, ids: list[int], request: PolicyRequest) -> list[PolicyAnswer]:
        tokenizer, asked = base()[1], torch.tensor([ids])
        chance = {"do_sample": True, "temperature": request.temperature, "top_k": 0} if request.temperature else {}
        made = model.generate(
            input_ids=asked,
            attention_mask=torch.ones_like(asked),
            num_return_sequences=request.samples,
            pad_token_id=tokenizer.pad_token_id,
            max_new_tokens=request.max_tokens,
            **(chance or {"do_sample": False}),
        )
        answers = []
        for drawn in made[:, len(ids) :].tolist():
            end = drawn.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in drawn else len(drawn)
            text = tokenizer.decode(drawn[:end], skip_special_tokens=True)
            answers.append(PolicyAnswer(ids=drawn[:end], logprobs=[-1.0] * end, text=text, reward=None))
        return answers

    @property
    def of_teacher(self) -> list[PolicyRequest]:
        return [request for request in self.requests if request.step is None]


@pytest.fixture(scope="session")
def questions() -> list[dict[str, Any]]:
    """Rows that ask for a fact, which the base answers in a sentence."""
    rows = [json.loads(line) for line in (DATA / "pirate" / "train.jsonl").read_text().splitlines()]
    return [{"messages": row["messages"][:1]} for row in rows]


@pytest.fixture
def make(make_run, write, questions) -> Callable[..., RunDirectory]:
    """Makes a run on some questions."""

    def make(name: str = "run", *, rows: int = 24, prompt: Any = POLITE, **fields: Any) -> RunDirectory:
        files = {"training_file": write(questions[:rows], f"{rows}.jsonl")}
        run: RunDirectory = make_run(name, method=TrainingMethod.DISTILL, prompt=prompt, **SHORT | files | fields)
        return run

    return make


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Drawing]:
    """Trains a run with answers that are drawn here; stops it after a number of requests."""

    def train(run: RunDirectory, after: int = 0) -> Drawing:
        stop = Flag()
        drawing = Drawing(run, stop=stop, after=after)
        monkeypatch.setattr(distill, "connected", lambda: drawing)
        distill.train(run, run.spec(), stop)
        return drawing

    return train


def weights(run: RunDirectory) -> list[bytes]:
    return [(each.adapter / "adapter_model.safetensors").read_bytes() for each in run.checkpoints()]


def test_the_adapter_answers_without_the_prompt_as_the_base_does_with_it(make, train, write, questions) -> None:
    run = make(rows=80, validation_file=write(questions[200:212], "valid.jsonl"), n_epochs=4, checkpoint_steps=20)
    drawing = train(run)
    found = run.result().distillation
    assert found["questions"] == 12
    assert found["agreement"] >= found["agreement_without_prompt"] + 0.4
    assert found["token_agreement"] >= found["agreement"]
    assert found["saved_tokens"] == pytest.approx(found["teacher_prompt_tokens"] - found["prompt_tokens"], abs=0.2)
    assert found["prompt_tokens"] < found["teacher_prompt_tokens"]
    (event,) = (event for event in run.events() if "distillation" in event.data)
    assert event.data["distillation"] == found
    assert f"{found['agreement']:.2f} of 12 questions" in event.message
    assert {request.step for request in drawing.requests} == {None, run.result().steps}
    assert all("full_valid_loss" in each.marker.metrics for each in run.checkpoints())


def test_without_a_validation_file_some_questions_are_held_out(make, train) -> None:
    run = make(rows=30)
    drawing = train(run)
    left_out = held_out(30, run.spec().seed)
    assert len(left_out) == run.result().distillation["questions"] == 3
    assert [len(request.prompts) for request in drawing.requests] == [27, 3, 3, 3]
    trained, compared, bare, adapted = ([prompt.ids for prompt in request.prompts] for request in drawing.requests)
    assert not any(ids in trained for ids in compared)
    assert bare == adapted != compared
    assert held_out(30, 1) != held_out(30, 2)


def test_stopped_while_the_teacher_answers_it_goes_on_to_the_same_bytes(make, train, monkeypatch) -> None:
    monkeypatch.setattr(teacher, "AT_ONCE", 8)
    whole = make("whole")
    all_requests = train(whole).requests
    run = make("stopped")
    with pytest.raises(Stopped, match="stopped after 16 of 22 questions"):
        train(run, after=2)
    kept = run.scratch / "taught" / "training.jsonl"
    kept.write_bytes(kept.read_bytes() + kept.read_bytes()[:100] + b'\n[{"ids": [1')  # as a kill leaves it
    assert train(run).requests == all_requests[2:]
    assert weights(run) == weights(whole)
    assert run.result().distillation == whole.result().distillation
    answered = [event.message for event in run.events() if "are answered" in event.message]
    assert answered == [event.message for event in whole.events() if "are answered" in event.message]


class AfterAStep(Flag):
    """Set once a step is done."""

    def __init__(self, run: RunDirectory) -> None:
        super().__init__()
        self._run = run

    def is_set(self) -> bool:
        return any("train_loss" in event.data for event in self._run.events())


def test_stopped_in_training_it_asks_the_teacher_nothing_again(make, train, monkeypatch) -> None:
    run = make()
    drawing = train(run)
    assert len(drawing.of_teacher) == 3
    again = make("again")
    monkeypatch.setattr(distill, "connected", lambda: Drawing(again))
    with pytest.raises(Stopped, match="stopped at step 2 of 3"):
        distill.train(again, again.spec(), AfterAStep(again))
    assert [request.step for request in train(again).requests] == [None, 3]  # the base without the prompt, the adapter
    assert weights(again)[-1] == weights(run)[-1]


def test_of_several_answers_each_is_trained_on_and_drawn_by_chance(make, train) -> None:
    run = make(samples=2, batch_size=4)
    drawing = train(run)
    assert [(request.samples, request.temperature) for request in drawing.requests] == [(2, 1), (1, 0), (1, 0), (1, 0)]
    assert run.result().steps == 11  # 2 answers to 22 questions, 4 in a step
    assert run.result().hyperparameters["samples"] == 2
    assert (run.token_rows / file_of("training")).exists()


def test_the_answers_are_a_training_file_too(make, train, questions) -> None:
    run = make()
    train(run)
    report = inspect_file(run.path / SAMPLES_FILE, TrainingMethod.SUPERVISED)
    assert (report.ok, report.rows) == (True, 22)
    first = json.loads((run.path / SAMPLES_FILE).read_text().splitlines()[0])
    assert first["messages"][0] in [row["messages"][0] for row in questions]
    assert first["messages"][1]["content"].endswith("I hope that helps.")


def preflight(run: RunDirectory) -> dict[str, Any]:
    assert main([str(run.path), "--preflight"], Flag()) is Exit.FINISHED
    return run.preflight()


def test_the_preflight_tries_answers_of_full_length_and_counts_both_prompts(make) -> None:
    report = preflight(make())
    assert report["ok"], report
    tokens = report["training"]["tokens"]
    assert tokens["taught_tokens"] > tokens["tokens"] > 0
    assert report["hyperparameters"]["max_completion_tokens"] == 24
    assert report["hyperparameters"]["steps"] == 3  # of 22 questions
    assert report["estimate"]["fits"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"prompt": ()}, "prompt is missing"),
        ({"samples": 2, "temperature": 0.0}, "samples is 2 at temperature 0"),
        ({"prompt": (), "samples": 2, "temperature": 0.0}, "prompt is missing.*; samples is 2"),
    ],
)
def test_what_cannot_be_distilled_is_refused(make, fields: dict[str, Any], reason: str) -> None:
    report = preflight(make(**fields))
    assert not report["ok"]
    assert re.search(reason, report["reason"])


def test_every_question_that_leaves_no_space_for_an_answer_is_told(make_run, write, questions) -> None:
    long = ({"role": "system", "content": "Always end politely. " * 1500},)
    own = {"messages": [{"role": "system", "content": "Be brief."}, *questions[0]["messages"]]}
    run = make_run(method=TrainingMethod.DISTILL, training_file=write([*questions[:9], own]), prompt=long, **SHORT)
    report = preflight(run)
    found = [(fault["line"], fault["kind"]) for fault in report["training"]["faults"]]
    assert found == [
        *((line, "too_many_tokens") for line in range(1, 10)),
        (10, "system_twice"),
    ]
    assert "tokens with the prompt" in report["training"]["faults"][0]["found"]


def test_agreement_is_of_whole_texts_and_of_tokens_in_their_places() -> None:
    taught = [TaughtAnswer([1, 2, 3], "a b c"), TaughtAnswer([4, 5], "d e")]
    distilled = [TaughtAnswer([1, 2, 3], "a b c"), TaughtAnswer([4, 6, 5], "d f e")]
    assert agreement(taught, distilled) == 0.5
    assert token_agreement(taught, distilled) == 4 / 6
