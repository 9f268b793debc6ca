import json
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from rewarddance.config.training import TrainConfig
from rewarddance.core.errors import DataError, UsageError
from rewarddance.core.types import JudgementRequest
from rewarddance.rewards.loading import load_reward_model
from rewarddance.training.data_order import DataOrder
from rewarddance.training.learning_data import ChosenComparisons
from rewarddance.training.prepared_batches import Extras, Share, prepared_batches
from rewarddance.training.reward_model import train_reward_model
from tests.tiny_models import save_tiny_model
from tests.training.drawn_comparisons import draw_comparisons
from tests.training.stand_in import StandInModel, stand_in_comparisons


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny_model("internvl", tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    numbers = {"first": 1, "second": 2}
    comparisons = draw_comparisons(tmp_path_factory.mktemp("media"), 4)
    return [replace(one, rationale=f"image {numbers[one.choice]} is a red square") for one in comparisons]


def config(out, base, **changes):
    settings = {
        "model": {"base": str(base), "instruction": "none"},
        "data": {"train": "unused"},
        "optimizer": {"learning_rate": 3e-3},
        "batch_size": 2,
        "out": str(out),
    }
    return TrainConfig.model_validate({**settings, **changes})


def told(result):
    return json.loads((result.model_folder / "rewarddance.json").read_text(encoding="utf-8"))["training"]


class RemembersFormats(StandInModel):
    """Keeps where the rationales of every batch stand."""

    def __init__(self):
        super().__init__()
        self.formats = []

    def prepare_comparisons(self, comparisons, formats=None):
        self.formats.append(formats)
        return super().prepare_comparisons(comparisons)


def formats_of(start, share=Share(), reason_first_share=0.5):  # noqa: B008
    model = RemembersFormats()
    comparisons = stand_in_comparisons(32)
    chosen = ChosenComparisons(comparisons, tuple(range(32)), "")
    order = DataOrder(3, 32, 8, "random")
    list(prepared_batches(model, chosen, order, share, start, 12, 0, Extras(reason_first_share)))
    return model.formats


def test_formats_are_mixed_in_their_shares():
    drawn = [form for batch in formats_of(0, reason_first_share=0.25) for form in batch]
    assert 0.1 < drawn.count("reason_first") / len(drawn) < 0.4


def test_a_resumed_run_finds_the_formats_that_it_would_have_had():
    assert formats_of(0)[5:] == formats_of(5)


def test_processes_take_their_part_of_the_same_formats():
    halves = [formats_of(0, Share(rank, 2)) for rank in (0, 1)]
    assert [first + second for first, second in zip(*halves, strict=True)] == formats_of(0)


def test_without_rationales_none_are_asked_for():
    assert set(formats_of(0, reason_first_share=None)) == {None}


def rationales_by_order(keeps_swapped):
    class Remembers(StandInModel):
        def prepare_comparisons(self, comparisons, formats=None):
            shown.extend(comparisons)
            return super().prepare_comparisons(comparisons)

    shown = []
    stored = [replace(one, rationale="image 1 has blur. image 2 has everything.") for one in stand_in_comparisons(32)]
    chosen = ChosenComparisons(stored, tuple(range(32)), "")
    order = DataOrder(3, 32, 8, "random")
    list(prepared_batches(Remembers(), chosen, order, Share(), 0, 8, 0, Extras(0.5, keeps_swapped)))
    first = {one.id: one.first for one in stored}
    rationales = {True: set(), False: set()}
    for one in shown:
        rationales[one.first == first[one.id]].add(one.rationale)
    return rationales


def test_a_rationale_is_learned_in_the_order_that_it_is_stored_in():
    written = {"image 1 has blur. image 2 has everything."}
    assert rationales_by_order(keeps_swapped=False) == {True: written, False: {None}}
    exchanged = {"image 2 has blur. image 1 has everything."}
    assert rationales_by_order(keeps_swapped=True) == {True: written, False: exchanged}


def test_a_run_learns_rationales_and_says_so(tmp_path, base, drawn):
    result = train_reward_model(config(tmp_path, base, rationale={"answer_weight": 0.3}), train=drawn, held_out=drawn)
    assert told(result)["rationale_answer_weight"] == 0.3
    assert told(result)["reason_first_share"] == 0.5
    assert told(result)["rationale_when_swapped"] == "answer_alone"
    assert result.best_accuracy is not None


def test_rationales_change_what_is_learned(tmp_path, base, drawn):
    weights = []
    for name, changes in {"without": {}, "with": {"rationale": {}}}.items():
        result = train_reward_model(config(tmp_path / name, base, **changes), train=drawn, held_out=())
        weights.append(safetensors.torch.load_file(result.model_folder / "model.safetensors"))
    without, with_them = weights
    assert any(not torch.equal(without[name], with_them[name]) for name in without)


def test_accuracy_leaves_out_what_the_model_was_told(tmp_path, base, drawn):
    settings = config(tmp_path, base, rationale={"reason_first_share": 0.999, "when_swapped": "exchanged"})
    train_reward_model(settings, train=drawn, held_out=())
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["accuracy"] for row in rows] == [None] * len(rows)


def test_comparisons_without_any_rationale_stop_before_the_folder_is_claimed(tmp_path, base, drawn):
    plain = [replace(one, rationale=None) for one in drawn]
    with pytest.raises(DataError, match="no comparison to learn from has a rationale"):
        train_reward_model(config(tmp_path / "run", base, rationale={}), train=plain, held_out=())
    assert not (tmp_path / "run").exists()


def test_a_missing_teacher_stops_before_the_folder_is_claimed(tmp_path, base, drawn):
    settings = config(tmp_path / "run", base, distillation={"teacher": str(tmp_path / "nobody")})
    with pytest.raises(UsageError, match="nobody"):
        train_reward_model(settings, train=drawn, held_out=())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("is_judged", "weight"), [(True, 1.0), (False, 0.3)])
def test_a_student_learns_its_teachers_answers(tmp_path, base, drawn, is_judged, weight):
    teacher = train_reward_model(config(tmp_path / "teacher", base, epochs=10), train=drawn, held_out=())
    distillation = {"teacher": str(teacher.model_folder), "format": "answer_first", "weight": weight}
    # Another model, with the choices turned round or none: with a weight of 1 the teacher alone is learned.
    other = save_tiny_model("internvl", tmp_path / "other", seed=9)
    turned = {"first": "second", "second": "first"}
    wrong = [replace(one, choice=turned[one.choice] if is_judged else None, rationale=None) for one in drawn]
    settings = config(tmp_path / "run", other, distillation=distillation, epochs=15)
    result = train_reward_model(settings, train=wrong, held_out=())
    rows = [json.loads(line) for line in (result.folder / "teacher_answers.jsonl").read_text().splitlines()[1:]]
    taught = [row["log_odds"] for row in rows]
    student = load_reward_model(result.model_folder, device="cpu")
    rewards = [one.reward for one in student.judge([JudgementRequest(o.prompt, o.second, o.first) for o in wrong])]
    assert min(abs(value) for value in taught) > 1
    assert [value > 0 for value in taught] == [one.choice == "second" for one in drawn]
    assert [value > 0 for value in rewards] == [value > 0 for value in taught]
    assert (told(result)["teacher_answers"], told(result)["teacher_format"]) == (4, "answer_first")
    assert told(result)["unjudged_comparisons"] == (0 if is_judged else 4)
