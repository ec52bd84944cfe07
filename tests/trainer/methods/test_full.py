"""A model trained whole: an adapter is extracted and compared with it, and it can be served as a base itself."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from threading import Event as Flag
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from adapters.base_model import BaseModel
from adapters.checks.inspection import AdapterLimits, inspect_adapter
from embedded import ADAPTERS, BASE
from tests.trainer.methods.children import start, watch
from trainer.endings import Stopped
from trainer.methods import full, whole_model
from trainer.methods.__main__ import main
from trainer.rendering import token_rows
from trainer.run_directory import Exit, RunCheckpoint, RunDirectory
from trainer.training_method import TrainingMethod

FULL = TrainingMethod.FULL
SHORT = {"method": FULL, "batch_size": 8, "n_epochs": 2, "checkpoint_steps": 2, "learning_rate_multiplier": 2.0}
"""Four steps on 16 rows, and two checkpoints."""
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def files(write, reviews) -> dict[str, Path]:
    return {"training_file": write(reviews[:16]), "validation_file": write(reviews[100:110], "valid.jsonl")}


@pytest.fixture
def exact_base(tmp_path: Path) -> Path:
    """The embedded base in float32, in which a model is stored without being rounded."""
    directory = tmp_path / "exact"
    shutil.copytree(BASE, directory)
    tensors = {name: tensor.float() for name, tensor in load_file(BASE / "model.safetensors").items()}
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    config = json.loads((BASE / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"dtype": "float32"}))
    return directory


@pytest.fixture
def trained(make_run, files) -> Callable[..., RunDirectory]:
    """Trains to the end; fields that the test leaves out make a short run."""

    def trained(name: str = "run", **fields: Any) -> RunDirectory:
        run: RunDirectory = make_run(name, **files | SHORT | fields)
        full.train(run, run.spec(), Flag())
        return run

    return trained


def changes(run: RunDirectory) -> dict[str, torch.Tensor]:
    """What training changed in the files of the best checkpoint's model, in float64; unchanged tensors are left out."""
    base, model = (load_file(path / "model.safetensors") for path in (run.spec().base, run.whole_model()))
    assert base.keys() == model.keys()
    assert all(base[name].dtype == model[name].dtype for name in base)
    found = {name: model[name].double() - base[name].double() for name in base}
    return {name: change for name, change in found.items() if bool(change.any())}


def kept(run: RunDirectory) -> list[int]:
    """Steps of the checkpoints that have a whole model."""
    return [made.step for made in run.checkpoints() if made.model.exists()]


def extraction(made: RunCheckpoint) -> dict[str, Any]:
    report = made.extraction()
    assert report is not None
    return report


def reports(run: RunDirectory) -> list[tuple[int, str]]:
    """Step and level of each event about an extraction."""
    return [(event.data["step"], event.level) for event in run.events() if "extraction" in event.data]


def test_it_trains_the_layers_that_an_adapter_can_hold_and_keeps_the_best_model(trained) -> None:
    run = trained(n_epochs=4, patience=None)
    losses = [event.data["train_loss"] for event in run.events() if "train_loss" in event.data]
    assert losses[-1] < losses[0] / 2
    linear = {name for name in load_file(BASE / "model.safetensors") if name.endswith("_proj.weight")}
    assert changes(run).keys() == linear
    result = run.result()
    assert kept(run) == [int(result.best_checkpoint.removeprefix("step-"))]
    assert {path.name for path in run.whole_model().iterdir()} == {path.name for path in BASE.iterdir()}
    assert (
        BaseModel.from_directory(run.whole_model(), "m").fingerprint == BaseModel.from_directory(BASE, "b").fingerprint
    )
    base, limits = BaseModel.from_directory(BASE, "base"), AdapterLimits(max_rank=8, max_bytes=1 << 30)
    for made in run.checkpoints():
        assert inspect_adapter(made.adapter, base, limits).report.rank == extraction(made)["rank"] == 8
    assert reports(run) == [(made.step, "info") for made in run.checkpoints()]
    metrics = run.checkpoint(kept(run)[0]).marker.metrics
    assert metrics["extraction_energy"] == extraction(run.checkpoint(kept(run)[0]))["energy"]


def test_the_numbers_are_those_of_model_and_adapter_as_they_are_stored(trained, files) -> None:
    """Computed anew from the files, by transformers and PEFT."""
    run = trained()
    rows = [json.loads(line) for line in files["validation_file"].read_text().splitlines()]
    assert len(rows) == 10
    base, model = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (BASE, run.whole_model())
    )
    made = run.best_checkpoint()
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32), made.adapter)
    import pyarrow as pa

    with pa.memory_map(str(run.token_rows / token_rows.VALIDATION)) as source:
        rendered = pa.ipc.open_stream(source).read_all().to_pylist()
    logits: dict[str, list[torch.Tensor]] = {"base": [], "full": [], "adapter": []}
    labels = []
    for row in rendered:
        answer = [place for place, label in enumerate(row["labels"]) if label != -100]
        labels += [row["input_ids"][place] for place in answer]
        for name, each in (("base", base), ("full", model), ("adapter", adapted)):
            with torch.no_grad():
                out = each(input_ids=torch.tensor([row["input_ids"]])).logits[0]
            logits[name].append(out[[place - 1 for place in answer]])
    plain, whole, extracted = (torch.cat(logits[name]) for name in ("base", "full", "adapter"))
    report = extraction(made)
    assert report["tokens"] == len(labels)
    assert (report["rows"], report["measured_on"]) == (10, "validation")
    error = torch.linalg.norm(extracted - whole) / torch.linalg.norm(whole - plain)
    assert report["logit_error"] == pytest.approx(float(error), rel=1e-3)
    assert 0.05 < report["logit_error"] < 1
    agreed = (extracted.argmax(-1) == whole.argmax(-1)).double().mean()
    assert report["agreement"] == pytest.approx(float(agreed), abs=0.01)
    for name, each in (("base", plain), ("full", whole), ("adapter", extracted)):
        loss = torch.nn.functional.cross_entropy(each, torch.tensor(labels))
        assert report["losses"][name] == pytest.approx(float(loss), rel=1e-3)
    assert report["losses"]["full"] < report["losses"]["adapter"] < report["losses"]["base"]


def test_the_energy_is_the_share_of_the_squared_change_that_the_adapter_is(trained, exact_base) -> None:
    run = trained(base=exact_base)
    made = run.best_checkpoint()
    adapter, report = load_file(made.adapter / WEIGHTS), extraction(made)
    lost, whole = {}, {}
    for name, change in changes(run).items():
        a, b = (adapter[f"base_model.model.{name.removesuffix('weight')}lora_{side}.weight"].double() for side in "AB")
        target = name.split(".")[-2]
        lost[target] = lost.get(target, 0) + float((change - b @ a).square().sum())
        whole[target] = whole.get(target, 0) + float(change.square().sum())
    assert report["energy"] == pytest.approx(1 - sum(lost.values()) / sum(whole.values()), abs=1e-5)
    assert report["targets"] == pytest.approx({name: 1 - lost[name] / whole[name] for name in whole}, abs=1e-5)
    assert 0 < report["worst_energy"] < report["energy"] < 1
    assert report["model_rounding"] == 0


def test_a_larger_rank_is_nearer_to_the_model(trained) -> None:
    """The weights that are trained do not depend on it."""
    runs = [trained(f"rank{rank}", rank=rank) for rank in (1, 8, 64, 256)]
    models = [(run.whole_model() / "model.safetensors").read_bytes() for run in runs]
    assert models == models[:1] * 4
    found = [extraction(run.best_checkpoint()) for run in runs]
    energies, errors = ([report[name] for report in found] for name in ("energy", "logit_error"))
    assert energies == sorted(energies)
    assert errors == sorted(errors, reverse=True)
    assert found[-1]["rank"] == 256
    assert energies[-1] == pytest.approx(1)
    assert errors[-1] < 0.1 < errors[0]


def test_an_energy_takes_the_smallest_rank_that_keeps_it(trained, exact_base) -> None:
    run = trained(base=exact_base, rank=256, extraction_energy=0.8)
    values = [torch.linalg.svdvals(change) for change in changes(run).values()]
    whole = sum(float(each.square().sum()) for each in values)
    shares = [sum(float(each[:rank].square().sum()) for each in values) / whole for rank in range(257)]
    rank = next(rank for rank, share in enumerate(shares) if share >= 0.8)
    report = extraction(run.best_checkpoint())
    assert (report["rank"], report["energy"]) == (rank, pytest.approx(shares[rank], abs=1e-4))
    assert 1 < rank < 256
    assert {level for _, level in reports(run)} == {"info"}


def test_an_energy_that_the_rank_does_not_reach_is_warned_of(trained) -> None:
    run = trained(rank=1, extraction_energy=0.99)
    assert extraction(run.best_checkpoint())["rank"] == 1
    assert {level for _, level in reports(run)} == {"warn"}
    assert "extraction_energy 0.99" in next(event.message for event in run.events() if "extraction" in event.data)


def test_stopped_in_the_middle_it_goes_on_to_the_same_bytes(make_run, trained, files) -> None:
    whole = trained("whole")
    run = make_run("stopped", **files, **SHORT)
    stop = Flag()
    stop.set()
    with pytest.raises(Stopped):
        full.train(run, run.spec(), stop)
    assert extraction(run.checkpoints()[0])["logit_error"] == 0  # the first step has a rate of 0
    full.train(run, run.spec(), Flag())
    assert [made.step for made in run.checkpoints()] == [1, 2, 4]
    assert_equal(run, whole)


def test_killed_at_a_random_step_it_goes_on_to_the_same_bytes(make_run, trained, files) -> None:
    numbers = {"n_epochs": 8, "checkpoint_steps": 4}
    whole = trained("whole", **numbers)
    run = make_run("killed", **files | SHORT | numbers)
    fatal = random.randint(1, 14)
    process = start(run, stderr=subprocess.PIPE)
    watch(process, lambda: sum("train_loss" in event.data for event in run.events()) >= fatal)
    process.kill()
    process.communicate()
    assert run.result() is None
    process = start(run, stderr=subprocess.PIPE)
    _, trouble = process.communicate()
    assert process.returncode == 0, trouble
    assert_equal(run, whole)
    assert reports(run) == reports(whole)


def assert_equal(run: RunDirectory, other: RunDirectory) -> None:
    for made in other.checkpoints():
        same = run.checkpoint(made.step)
        assert (same.adapter / WEIGHTS).read_bytes() == (made.adapter / WEIGHTS).read_bytes()
        assert extraction(same) == extraction(made)
    assert kept(run) == kept(other)
    for file in other.whole_model().iterdir():
        assert (run.whole_model() / file.name).read_bytes() == file.read_bytes()


def test_models_that_a_killed_process_left_go_with_the_result(trained) -> None:
    run = trained()
    result = run.result()
    best = run.best_checkpoint()
    (run.path / "result.json").unlink()
    older = next(made for made in run.checkpoints() if made.step != best.step)
    if older.step < best.step:
        shutil.copytree(best.model, older.model)
    full.train(run, run.spec(), Flag())
    assert kept(run) == [best.step]
    assert run.result().best_checkpoint == result.best_checkpoint


def test_targets_are_what_is_trained(trained) -> None:
    run = trained(targets=("q_proj", "v_proj"))
    assert {name.split(".")[-2] for name in changes(run)} == {"q_proj", "v_proj"}
    assert extraction(run.best_checkpoint())["targets"].keys() == {"q_proj", "v_proj"}


def test_from_a_warm_start_the_adapter_has_both_changes(trained) -> None:
    """Nearly nothing is trained here: what the extracted adapter holds is the warm start."""
    run = trained(warm_start=ADAPTERS / "sql", learning_rate_multiplier=1e-6, targets=("q_proj",), rank=8)
    report = extraction(run.best_checkpoint())
    assert report["energy"] > 0.99
    sql = json.loads((ADAPTERS / "sql" / "adapter_config.json").read_text())
    assert report["targets"].keys() == {name.split(".")[-1] for name in sql["target_modules"]}
    assert report["losses"]["full"] == pytest.approx(report["losses"]["adapter"], rel=0.05)
    assert abs(report["losses"]["full"] - report["losses"]["base"]) > 0.05


@pytest.mark.parametrize("field", [{"quantization": "4bit"}, {"alpha": 16.0}, {"targets": ("lm_head",)}])
def test_what_has_no_meaning_for_it_is_refused(make_run, files, field) -> None:
    run = make_run(**files | SHORT | field)
    assert main([str(run.path)], Flag()) is Exit.REFUSED
    assert next(iter(field)) in run.events()[-1].message


def test_a_base_whose_weights_are_packed_is_refused_with_the_reason(make_run, files, tmp_path) -> None:
    base = tmp_path / "packed"
    shutil.copytree(BASE, base)
    tensors = load_file(BASE / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    save_file({**tensors, name: tensors[name].to(torch.float8_e4m3fn)}, base / "model.safetensors", {"format": "pt"})
    run = make_run(**files | SHORT, base=base)
    assert main([str(run.path)], Flag()) is Exit.REFUSED
    assert "model.layers.0.mlp.up_proj cannot be extracted" in run.events()[-1].message


def test_the_preflight_tells_memory_and_disk(make_run, files, monkeypatch) -> None:
    run = make_run(**files | SHORT)
    assert main([str(run.path), "--preflight"], Flag()) is Exit.FINISHED
    report = run.preflight()
    assert report["ok"], report
    trained = sum(
        tensor.numel()
        for name, tensor in load_file(BASE / "model.safetensors").items()
        if name.endswith("_proj.weight")
    )
    estimate = report["estimate"]
    assert (estimate["trained_parameters"], estimate["state_bytes"]) == (trained, 16 * trained)
    assert estimate["disk_bytes"] > 2 * 12 * trained
    assert estimate["steps"] == 4
    free = shutil.disk_usage(run.path)._replace(free=10**6)
    monkeypatch.setattr(whole_model.shutil, "disk_usage", lambda _: free)
    assert main([str(run.path), "--preflight"], Flag()) is Exit.FINISHED
    assert run.preflight()["ok"] is False
    assert "of the disk" in run.preflight()["reason"]


def test_two_processes_make_what_one_makes(make_run, trained, files) -> None:
    alone = trained("alone")
    run = make_run("shared", **files | SHORT, processes=2)
    with start(run) as process:
        assert process.wait() == Exit.FINISHED
    ours, theirs = (extraction(each.best_checkpoint()) for each in (run, alone))
    for name in ("energy", "logit_error"):
        assert ours[name] == pytest.approx(theirs[name], rel=0.1)
    assert ours["losses"] == pytest.approx(theirs["losses"], rel=0.05)
    assert kept(run) == kept(alone)
