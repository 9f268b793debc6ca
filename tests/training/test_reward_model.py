import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml

from rewarddance.config.training import TrainConfig
from rewarddance.core.errors import DataError, DeviceMemoryError, NonFiniteError, UsageError
from rewarddance.core.files import locked_folder
from rewarddance.core.seeding import derive_seed
from rewarddance.core.types import JudgementRequest
from rewarddance.rewards.loading import load_reward_model, new_reward_model
from rewarddance.training.reward_model import train_reward_model
from tests.tiny_models import save_tiny_model
from tests.training.drawn_comparisons import draw_comparisons
from tests.training.stand_in import StandInModel, stand_in_comparisons


def config(out, **changes):
    settings = {
        "model": {"base": "unused", "instruction": "none"},
        "data": {"train": "unused"},
        "optimizer": {"learning_rate": 3e-3},
        "batch_size": 4,
        "out": str(out),
    }
    return TrainConfig.model_validate({**settings, **changes})


def weights(folder):
    return safetensors.torch.load_file(folder / "model" / "model.safetensors")


def logged(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny_model("internvl", tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw_comparisons(tmp_path_factory.mktemp("media"), 8)


@pytest.mark.parametrize("kind", ["pairwise", "pointwise", "scalar"])
def test_every_paradigm_learns_one_batch_by_heart(tmp_path, base, drawn, kind):
    settings = config(
        tmp_path / "run", model={"base": str(base), "kind": kind, "instruction": "none"}, epochs=12, batch_size=8
    )
    # Four comparisons, each twice in the batch.
    result = train_reward_model(settings, train=[*drawn[:4], *drawn[:4]], held_out=drawn[:4])
    assert result.is_finished
    assert result.best_accuracy == 1.0
    assert logged(result.folder)[-1]["loss"] < 0.3
    judge = load_reward_model(result.model_folder, device="cpu")
    better, worse = drawn[0].second, drawn[0].first
    if drawn[0].choice == "first":
        better, worse = worse, better
    assert judge.judge([JudgementRequest(drawn[0].prompt, better, worse)])[0].score > 0.5


def test_an_untrained_model_starts_at_the_loss_of_a_coin(tmp_path, base, drawn):
    settings = config(tmp_path / "run", model={"base": str(base), "kind": "scalar", "instruction": "none"})
    train_reward_model(settings, train=drawn[:4], held_out=())
    # The head of a new scalar model is nearly zero, so every reward is the same.
    assert logged(tmp_path / "run")[0]["loss"] == pytest.approx(math.log(2), abs=0.1)


def test_the_run_directory_is_complete_without_a_server(tmp_path):
    out = tmp_path / "run"
    train_reward_model(config(out), StandInModel(), stand_in_comparisons(8), stand_in_comparisons(4, 100))
    assert {path.name for path in out.iterdir()} == {
        "config.yaml", "environment.json", "metrics.jsonl", "checkpoints", "model",
    }  # fmt: skip
    assert yaml.safe_load((out / "config.yaml").read_text(encoding="utf-8"))["batch_size"] == 4
    assert [row["optimizer_step"] for row in logged(out)] == [1, 2]
    assert logged(out)[-1]["held_out_accuracy"] is not None


def test_the_finished_model_has_the_weights_of_the_best_checkpoint(tmp_path):
    accuracies = iter([0.5, 0.9, 0.7])
    kept = {}

    def evaluate(model):
        accuracy = next(accuracies)
        kept[accuracy] = {name: value.clone() for name, value in model.module.state_dict().items()}
        return accuracy

    result = train_reward_model(
        config(tmp_path / "run", epochs=3), StandInModel(), stand_in_comparisons(8), (), evaluate=evaluate
    )
    assert (result.best_accuracy, result.best_step) == (0.9, 4)
    assert all(torch.equal(value, kept[0.9][name]) for name, value in weights(result.folder).items())


def test_two_micro_batches_of_two_teach_the_same_as_one_of_four(tmp_path):
    for name, sizes in {"one": {"batch_size": 4}, "two": {"batch_size": 2, "gradient_accumulation": 2}}.items():
        model = StandInModel()
        model.module.dropout.p = 0.0
        train_reward_model(config(tmp_path / name, **sizes), model, stand_in_comparisons(8), ())
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)


@pytest.mark.parametrize("sizes", [{"batch_size": 10**9}, {"batch_size": 3, "gradient_accumulation": 3}])
def test_a_step_larger_than_the_data_is_refused_with_both_numbers(tmp_path, sizes):
    step = sizes["batch_size"] * sizes.get("gradient_accumulation", 1)
    with pytest.raises(UsageError, match=f"takes {step:,} comparisons .*, and there are 8 to learn from; lower"):
        train_reward_model(config(tmp_path / "run", **sizes), StandInModel(), stand_in_comparisons(8), ())
    assert not (tmp_path / "run").exists()


def test_data_loader_workers_change_nothing(tmp_path):
    for workers in (0, 2):
        data = {"train": "unused", "workers": workers}
        train_reward_model(config(tmp_path / str(workers), data=data), StandInModel(), stand_in_comparisons(8), ())
    alone, helped = weights(tmp_path / "0"), weights(tmp_path / "2")
    assert all(torch.equal(alone[name], helped[name]) for name in alone)


class NotFiniteAt(StandInModel):
    """Gives a loss that is not finite for one record."""

    def prepare_comparisons(self, comparisons):
        self._bad = [comparison.id == "comparison-5" for comparison in comparisons]
        return super().prepare_comparisons(comparisons)

    def comparison_loss(self, prepared, settings):
        result = super().comparison_loss(prepared, settings)
        result.loss[torch.tensor(self._bad)] *= math.nan
        return result


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_records(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(NonFiniteError, match=r'"comparison-5"\]') as raised:
        train_reward_model(config(out), NotFiniteAt(), stand_in_comparisons(8), ())
    assert "\n" not in str(raised.value)
    dump = json.loads((out / "nonfinite_batch.json").read_text(encoding="utf-8"))
    assert {row["id"] for row in dump["records"] if not row["is_finite"]} == {"comparison-5"}
    assert len(dump["records"]) == 8


def test_ties_can_be_dropped_and_a_set_without_a_judgement_is_refused(tmp_path):
    ties = [type(one)(one.id, one.prompt, one.first, one.second, choice="tie") for one in stand_in_comparisons(4)]
    with pytest.raises(DataError, match="no judged comparison"):
        train_reward_model(config(tmp_path / "dropped", loss={"ties": "drop"}), StandInModel(), ties, ())
    result = train_reward_model(config(tmp_path / "soft"), StandInModel(), ties, ())
    assert result.optimizer_steps == 1
    assert logged(result.folder)[0]["accuracy"] is None


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    train_reward_model(config(tmp_path / "run"), StandInModel(), stand_in_comparisons(8), ())
    with pytest.raises(UsageError, match="--resume"):
        train_reward_model(config(tmp_path / "run"), StandInModel(), stand_in_comparisons(8), ())


@pytest.mark.parametrize("resume", [False, True])
def test_one_run_at_a_time_has_a_folder(tmp_path, resume):
    settings, refused = config(tmp_path / "run"), []

    def begin_again(_):
        with pytest.raises(UsageError, match="being written by another process"):
            train_reward_model(settings, StandInModel(), stand_in_comparisons(8), (), resume=resume)
        refused.append(True)

    train_reward_model(settings, StandInModel(), stand_in_comparisons(8), (), on_step=begin_again)
    assert len(refused) == 2


def test_a_killed_run_leaves_its_folder_free_although_it_had_workers(tmp_path):
    settings = config(tmp_path / "run", data={"train": "unused", "workers": 2})

    def kill(_):
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            train_reward_model(settings, StandInModel(), stand_in_comparisons(8), (), on_step=kill)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    time.sleep(1)
    with locked_folder(settings.out):
        pass


@pytest.mark.parametrize("name", ["model", "adapter", "checkpoints", "teacher_answers.jsonl"])
def test_a_new_run_takes_the_place_of_nothing_that_is_there(tmp_path, name):
    foreign = tmp_path / "run" / name / "weights"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("of another")
    for resume in (False, True):
        with pytest.raises(UsageError, match=f"no config.yaml of a run, but holds {name}, which a run would replace"):
            train_reward_model(config(tmp_path / "run"), StandInModel(), stand_in_comparisons(8), (), resume=resume)
    assert foreign.read_text() == "of another"
    assert [path.name for path in (tmp_path / "run").iterdir()] == [name]


@pytest.mark.parametrize("key", ["base", "train"])
def test_what_a_run_reads_may_not_lie_where_it_writes(tmp_path, key):
    train_reward_model(config(tmp_path / "run"), StandInModel(), stand_in_comparisons(8), ())
    before = weights(tmp_path / "run")
    own = str(tmp_path / "run" / "model")
    blocks = {"base": {"model": {"base": own, "instruction": "none"}}, "train": {"data": {"train": own}}}
    settings = config(tmp_path / "run", **blocks[key])
    with pytest.raises(UsageError, match=rf"{key} is {own}, which lies in {own}, and the run writes there"):
        train_reward_model(settings, StandInModel(), stand_in_comparisons(8), (), resume=True)
    assert all(torch.equal(before[name], value) for name, value in weights(tmp_path / "run").items())


def test_a_run_is_not_resumed_with_another_config_or_other_data(tmp_path):
    out = tmp_path / "run"
    train_reward_model(config(out), StandInModel(), stand_in_comparisons(8), ())
    with pytest.raises(UsageError, match="seed"):
        train_reward_model(config(out, seed=1), StandInModel(), stand_in_comparisons(8), (), resume=True)
    with pytest.raises(UsageError, match="comparisons are not those"):
        train_reward_model(config(out), StandInModel(), stand_in_comparisons(8, 1), (), resume=True)


def test_a_resumed_run_may_learn_slower_in_smaller_batches_and_says_so(tmp_path):
    out, seen = tmp_path / "run", []

    def stop(report):
        seen.append(report)
        os.kill(os.getpid(), signal.SIGTERM)

    train_reward_model(config(out), StandInModel(), stand_in_comparisons(8), (), on_step=stop)
    changes = {"optimizer": {"learning_rate": 1e-4}, "batch_size": 2, "gradient_accumulation": 2}
    train_reward_model(config(out, **changes), StandInModel(), stand_in_comparisons(8), (), resume=True)
    whole = tmp_path / "whole"
    train_reward_model(config(whole), StandInModel(), stand_in_comparisons(8), ())
    assert logged(out)[-1]["order_sha256"] == logged(whole)[-1]["order_sha256"]
    rows = [json.loads(line) for line in (out / "changes.jsonl").read_text(encoding="utf-8").splitlines()]
    step = seen[-1].optimizer_step
    assert [(row["optimizer_step"], row["key"]) for row in rows] == [
        (step, "batch_size"),
        (step, "gradient_accumulation"),
        (step, "optimizer.learning_rate"),
    ]


@pytest.mark.parametrize("is_in_update", [False, True])
def test_a_full_gpu_ends_a_run_with_one_line_and_saves_whole_steps_alone(tmp_path, is_in_update, monkeypatch):
    original, calls = torch.optim.AdamW.step, []

    def full(*arguments):
        if is_in_update:
            original(*arguments)
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")
        return arguments

    def step(optimizer, *arguments):
        if is_in_update:
            return full(optimizer, *arguments)
        return original(optimizer, *arguments)

    class Full(StandInModel):
        def comparison_loss(self, prepared, settings):
            if not is_in_update:
                full()
            return super().comparison_loss(prepared, settings)

    out = tmp_path / "run"
    settings = config(out, epochs=2, save_every=9)
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        with pytest.raises(DeviceMemoryError, match=r"--resume with what .*\.gradient_checkpointing=true") as caught:
            train_reward_model(settings, Full(), stand_in_comparisons(8), ())
    assert "\n" not in str(caught.value)
    assert [path.name for path in (out / "checkpoints").glob("*")] == ([] if is_in_update else ["step-00000001"])
    train_reward_model(settings, StandInModel(), stand_in_comparisons(8), (), resume=True)
    train_reward_model(config(tmp_path / "whole", epochs=2, save_every=9), StandInModel(), stand_in_comparisons(8), ())
    whole = weights(tmp_path / "whole")
    assert all(torch.equal(whole[name], value) for name, value in weights(out).items())


def test_resuming_a_finished_run_gives_the_same_model_again(tmp_path):
    out = tmp_path / "run"
    first = train_reward_model(config(out), StandInModel(), stand_in_comparisons(8), ())
    before = weights(out)
    again = train_reward_model(config(out), StandInModel(), stand_in_comparisons(8), (), resume=True)
    assert again == first
    assert all(torch.equal(before[name], value) for name, value in weights(out).items())


def test_a_frozen_vision_tower_keeps_its_weights_and_the_rest_learns(tmp_path, base, drawn):
    settings = config(tmp_path / "run", model={"base": str(base), "instruction": "none", "freeze_vision": True})
    train_reward_model(settings, train=drawn, held_out=())
    before = safetensors.torch.load_file(base / "model.safetensors")
    after = weights(tmp_path / "run")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any("vision_tower" in name for name in changed)
    assert any("multi_modal_projector" in name for name in changed)
    assert any("language_model" in name for name in changed)


def test_adapters_learn_in_float32_what_a_bfloat16_weight_would_swallow(tmp_path, base, drawn):
    model = {"base": str(base), "instruction": "none", "lora": {"rank": 4}}
    optimizer = {"learning_rate": 1e-5, "warmup_share": 0.0}
    settings = config(tmp_path / "run", model=model, optimizer=optimizer, precision="bfloat16", seed=3)
    reward_model = new_reward_model(base, "pairwise", instruction="none")
    start = {}

    def remember(_):
        if not start:
            start["dtypes"] = {p.requires_grad: p.dtype for p in reward_model.module.parameters()}

    train_reward_model(settings, reward_model, drawn, (), on_step=remember)
    assert start["dtypes"] == {True: torch.float32, False: torch.bfloat16}
    adapter = safetensors.torch.load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    matrices = [value for name, value in adapter.items() if "lora_A" in name]
    # A first value is about 0.1; bfloat16 keeps 8 bits of it, so a change of 1e-5 would be gone.
    untouched = adapters_at_the_start(base, seed=3)
    moved = [(now - then).abs().max() for now, then in zip(matrices, untouched, strict=True)]
    assert max(moved) > 0
    assert max(moved) < 1e-4
    changed = torch.cat([(now != then).flatten() for now, then in zip(matrices, untouched, strict=True)])
    rounded = [(now.bfloat16() != then.bfloat16()).flatten() for now, then in zip(matrices, untouched, strict=True)]
    assert changed.float().mean() > 0.5
    assert torch.cat(rounded).float().mean() < 0.1


def adapters_at_the_start(base, seed):
    from rewarddance.config.training import LoraConfig
    from rewarddance.training.trained_parameters import Adapters

    model = new_reward_model(base, "pairwise", instruction="none").backbone.model
    Adapters(model, LoraConfig(rank=4), seed)
    return [value.detach() for name, value in sorted(model.named_parameters()) if "lora_A" in name]


def test_the_saved_model_judges_as_base_and_adapter_do_together(tmp_path, base, drawn):
    model = {"base": str(base), "instruction": "none", "lora": {"rank": 4}}
    settings = config(tmp_path / "run", model=model, epochs=4)
    result = train_reward_model(settings, train=drawn, held_out=())
    request = JudgementRequest(drawn[0].prompt, drawn[0].second, drawn[0].first)
    merged = load_reward_model(result.model_folder, device="cpu").judge([request])[0]
    assert merged.reward == pytest.approx(adapted_reward(base, result.folder / "adapter", request), abs=1e-5)
    assert not (result.model_folder / "adapter_config.json").exists()


def adapted_reward(base, adapter, request):
    model = new_reward_model(base, "pairwise", instruction="none")
    with_adapter = load_reward_model(base, adapter=adapter, device="cpu")
    with_adapter.record = model.record
    return with_adapter.judge([request])[0].reward


def test_a_wrong_adapter_target_is_named(tmp_path, base, drawn):
    model = {"base": str(base), "instruction": "none", "lora": {"target_modules": ["q_projj"]}}
    with pytest.raises(UsageError, match="q_projj"):
        train_reward_model(config(tmp_path / "run", model=model), train=drawn, held_out=())


def test_a_rank_beyond_every_layer_is_refused(tmp_path, base, drawn):
    model = {"base": str(base), "instruction": "none", "lora": {"rank": 99_999_999}}
    with pytest.raises(
        UsageError, match=r"model\.lora\.rank is 99,999,999, and the largest layer with an adapter, .*take"
    ):
        train_reward_model(config(tmp_path / "run", model=model), train=drawn, held_out=())


@pytest.mark.parametrize("text", ["", "a: [", "- a\n"])
def test_a_damaged_config_of_a_run_is_one_line(tmp_path, text):
    out = tmp_path / "run"
    train_reward_model(config(out), StandInModel(), stand_in_comparisons(8), ())
    (out / "config.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"config\.yaml is not the config of a run: it is empty or damaged"):
        train_reward_model(config(out), StandInModel(), stand_in_comparisons(8), (), resume=True)


def test_a_folder_has_no_revision(tmp_path, base, drawn):
    model = {"base": str(base), "revision": "main"}
    with pytest.raises(UsageError, match=f"{base} is a folder and has no revision 'main'; leave it out"):
        train_reward_model(config(tmp_path / "run", model=model), train=drawn, held_out=())


def test_gradient_checkpointing_changes_no_gradient(tmp_path, base, drawn):
    for name, is_on in {"plain": False, "checkpointed": True}.items():
        model = {"base": str(base), "instruction": "none", "gradient_checkpointing": is_on}
        train_reward_model(config(tmp_path / name, model=model), train=drawn, held_out=())
    plain, checkpointed = logged(tmp_path / "plain"), logged(tmp_path / "checkpointed")
    assert [row["gradient_norm"] for row in checkpointed] == pytest.approx(
        [row["gradient_norm"] for row in plain], rel=1e-4
    )


def test_dropout_depends_on_seed_and_step_alone():
    assert derive_seed(0, "dropout", 3, 0) == derive_seed(0, "dropout", 3, 0)
    assert len({derive_seed(seed, "dropout", step, rank) for seed in (0, 1) for step in (0, 1) for rank in (0, 1)}) == 8


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path):
    script = Path(__file__).parent / "two_processes.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, str(script), str(tmp_path / "two")], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    model = StandInModel()
    model.module.dropout.p = 0.0
    train_reward_model(config(tmp_path / "one"), model, stand_in_comparisons(16), stand_in_comparisons(5, 100))
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)
    assert [row["order_sha256"] for row in logged(tmp_path / "two")] == [
        row["order_sha256"] for row in logged(tmp_path / "one")
    ]
    assert logged(tmp_path / "two")[-1]["held_out_accuracy"] == logged(tmp_path / "one")[-1]["held_out_accuracy"]
