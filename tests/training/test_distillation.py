import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from rewarddance.config.reasoning import DistillationConfig
from rewarddance.config.training import TrainConfig
from rewarddance.core.errors import DataError, UsageError
from rewarddance.core.types import Comparison, Judgement, JudgementCost, Media, Status
from rewarddance.rewards.loading import new_reward_model
from rewarddance.training.data_order import Shown
from rewarddance.training.distillation import teach
from rewarddance.training.learning_data import ChosenComparisons
from rewarddance.training.prepared_batches import Share
from rewarddance.training.reasoning_extras import check_extras, load_teacher
from tests.tiny_models import save_tiny_model
from tests.training.stand_in import StandInModel, stand_in_comparisons


class Teacher(StandInModel):
    """Answers with a number that tells which comparison it was asked about, and keeps what it was asked."""

    def __init__(self, fails=(), stops_after=None):
        super().__init__()
        self.asked, self.settings, self.orders = [], [], []
        self.fails, self.stops_after = fails, stops_after

    def judge(self, requests, order_mode=None, reference_mode=None, reasoning=None):
        if self.stops_after is not None and len(self.asked) >= self.stops_after:
            raise KeyboardInterrupt
        self.asked += [request.id for request in requests]
        self.settings.append(reasoning)
        self.orders.append(order_mode)
        return [self.answer(request) for request in requests]

    def answer(self, request):
        if request.id in self.fails:
            return Judgement(Status.UNFINISHED_RATIONALE, message="too long", id=request.id)
        reward = float(request.id.removeprefix("comparison-")) + 0.5
        return Judgement(Status.OK, 0.5, reward, id=request.id, cost=JudgementCost(2, 10, 7), rationale="so it is")


@pytest.fixture
def settings(tmp_path):
    folder = tmp_path / "teacher"
    folder.mkdir()
    (folder / "rewarddance.json").write_text("{}")
    return DistillationConfig(teacher=str(folder), samples=3, max_tokens=20)


def chosen(count):
    return ChosenComparisons(stand_in_comparisons(count), tuple(range(count)), f"digest of {count}")


def taught(settings, folder, teacher, comparisons=None, share=None):
    return teach(
        settings, 7, comparisons or chosen(40), folder, share or Share(), lambda: teacher, lambda: None
    )  # fmt: skip


def test_every_comparison_is_asked_once_in_both_orders_and_with_reasons(tmp_path, settings):
    teacher = Teacher()
    teaching = taught(settings, tmp_path, teacher)
    assert teacher.asked == [f"comparison-{number}" for number in range(40)]
    assert set(teacher.orders) == {"two"}
    asked = teacher.settings[0]
    assert (asked.format, asked.samples, asked.temperature, asked.max_tokens, asked.seed) == (
        "reason_first", 3, 1.0, 20, 7,
    )  # fmt: skip
    assert teaching.log_odds.tolist() == [number + 0.5 for number in range(40)]
    assert teaching.generated_tokens == 40 * 7


def test_a_swapped_comparison_gets_the_answer_with_its_sign_changed(tmp_path, settings):
    teaching = taught(settings, tmp_path, Teacher())
    answers = teaching.of([Shown(3, False), Shown(3, True)])
    assert answers.log_odds.tolist() == [3.5, -3.5]
    assert answers.is_known.tolist() == [True, True]


def test_comparisons_that_nobody_has_judged_are_asked_too_and_known_as_such(tmp_path, settings):
    unjudged = ChosenComparisons(
        [replace(one, choice=None) if place % 2 else one for place, one in enumerate(stand_in_comparisons(4))],
        (0, 1, 2, 3),
        "half of them",
    )
    teaching = taught(settings, tmp_path, Teacher(fails=["comparison-3"]), unjudged)
    assert teaching.unjudged == 2
    answers = teaching.of([Shown(place, False) for place in range(4)])
    assert answers.is_alone.tolist() == [False, True, False, True]
    assert answers.is_known.tolist() == [True, True, True, False]


def test_an_interrupted_teacher_is_asked_only_for_what_is_missing(tmp_path, settings):
    with pytest.raises(KeyboardInterrupt):
        taught(settings, tmp_path, Teacher(stops_after=16))
    again = Teacher()
    teaching = taught(settings, tmp_path, again)
    assert again.asked == [f"comparison-{number}" for number in range(16, 40)]
    assert teaching.count == 40


def test_a_line_that_a_kill_cut_short_is_asked_again(tmp_path, settings):
    taught(settings, tmp_path, Teacher())
    file = tmp_path / "teacher_answers.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    again = Teacher()
    assert taught(settings, tmp_path, again).count == 40
    assert again.asked == ["comparison-39"]
    assert len(file.read_bytes().splitlines()) == 41


def test_taking_off_a_half_line_writes_nothing_anew(tmp_path, settings, monkeypatch):
    taught(settings, tmp_path, Teacher())
    file = tmp_path / "teacher_answers.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])

    def refuse(*_):
        raise AssertionError("a kill here would lose every answer")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    monkeypatch.setattr(Path, "write_text", refuse)
    assert taught(settings, tmp_path, Teacher()).count == 40
    assert len(file.read_bytes().splitlines()) == len(whole.splitlines())


def test_nothing_is_loaded_when_nothing_is_missing(tmp_path, settings):
    taught(settings, tmp_path, Teacher())

    def refuse():
        raise AssertionError("the teacher was loaded")

    assert teach(settings, 7, chosen(40), tmp_path, Share(), refuse, lambda: None).count == 40


@pytest.mark.parametrize("change", ["settings", "comparisons", "teacher"])
def test_answers_to_another_question_are_not_taken(tmp_path, settings, change):
    taught(settings, tmp_path, Teacher())
    comparisons = chosen(40)
    if change == "settings":
        settings = settings.model_copy(update={"samples": 2})
    elif change == "comparisons":
        comparisons = replace(comparisons, sha256="another")
    else:
        (Path(settings.teacher) / "rewarddance.json").write_text('{"kind": "another"}')
    again = Teacher()
    taught(settings, tmp_path, again, comparisons)
    assert len(again.asked) == 40


def test_comparisons_without_an_answer_are_counted_and_have_no_number(tmp_path, settings):
    teaching = taught(settings, tmp_path, Teacher(fails={"comparison-1", "comparison-2"}))
    assert teaching.failures == {"unfinished_rationale": 2}
    answers = teaching.of([Shown(0, False), Shown(1, True)])
    assert answers.is_known.tolist() == [True, False]
    assert torch.isfinite(answers.log_odds).all()


def test_a_teacher_that_never_answers_stops_the_run(tmp_path, settings):
    silent = Teacher(fails={f"comparison-{number}" for number in range(4)})
    with pytest.raises(DataError, match="unfinished_rationale"):
        taught(settings, tmp_path, silent, chosen(4))


def test_processes_share_the_asking_and_read_each_others_answers(tmp_path, settings):
    first, second = Teacher(), Teacher()
    taught(settings, tmp_path, second, share=Share(1, 2))
    teaching = taught(settings, tmp_path, first, share=Share(0, 2))
    assert sorted(first.asked + second.asked) == sorted(f"comparison-{number}" for number in range(40))
    assert teaching.count == 40


def test_a_teacher_without_reasons_is_asked_for_one_token(tmp_path, settings):
    teacher = Teacher()
    taught(settings.model_copy(update={"format": "answer_first"}), tmp_path, teacher)
    assert set(teacher.settings) == {None}


def test_the_side_with_several_media_is_the_reference(tmp_path, settings):
    class Sees(Teacher):
        def answer(self, request):
            self.seen = [str(one.path) for one in (*request.reference_images, request.candidate)]
            return super().answer(request)

    (one,) = stand_in_comparisons(1, 3)
    several = replace(one, beside_second=(Media(one.second.path.with_name("more.png")),))
    teacher = Sees()
    teaching = taught(settings, tmp_path, teacher, ChosenComparisons([several], (0,), "one"))
    assert [path.rsplit("/", 1)[1] for path in teacher.seen] == ["3-second.png", "more.png", "3-first.png"]
    assert teaching.log_odds.tolist() == [-3.5]


def test_what_the_teacher_wrote_is_kept(tmp_path, settings):
    taught(settings, tmp_path, Teacher())
    row = json.loads((tmp_path / "teacher_answers.jsonl").read_text().splitlines()[1])
    assert (row["id"], row["rationale"], row["status"]) == ("comparison-0", "so it is", "ok")


@pytest.mark.parametrize(
    ("kind", "attention", "cause"), [("scalar", "causal", "is scalar"), ("pairwise", "blocks", "is in block mode")]
)
def test_a_teacher_that_cannot_reason_is_refused_before_anything_is_written(tmp_path, kind, attention, cause):
    base = save_tiny_model("internvl", tmp_path / "base")
    new_reward_model(base, kind, seed=0, attention=attention).save(tmp_path / "teacher")
    given = {"model": {"base": str(base)}, "data": {"train": str(tmp_path)}, "out": str(tmp_path / "run")}
    config = TrainConfig.model_validate({**given, "distillation": {"teacher": str(tmp_path / "teacher")}})
    with pytest.raises(UsageError, match=f"{cause} and gives no reasons .* answer_first"):
        check_extras(config, chosen(2))
    direct = {"teacher": str(tmp_path / "teacher"), "format": "answer_first"}
    check_extras(TrainConfig.model_validate({**given, "distillation": direct}), chosen(2))


def asked_to_teach(tmp_path, **distillation):
    given = {"model": {"base": "b"}, "data": {"train": str(tmp_path)}, "out": str(tmp_path / "run")}
    return TrainConfig.model_validate({**given, "distillation": distillation})


def test_an_untrained_instruct_model_may_teach_as_its_kind_says(tmp_path):
    base = save_tiny_model("internvl", tmp_path / "base")
    config = asked_to_teach(tmp_path, teacher=str(base), teacher_kind="pointwise", format="answer_first")
    check_extras(config, chosen(2))
    for name in ("red", "blue"):
        Image.new("RGB", (32, 32), name).save(tmp_path / f"{name}.png")
    shown = Comparison("a", "a red square", Media(tmp_path / "red.png"), Media(tmp_path / "blue.png"), "first")
    teacher = load_teacher(config.distillation, torch.device("cpu"))
    teaching = taught(config.distillation, tmp_path, teacher, ChosenComparisons([shown], (0,), "one"))
    assert (teacher.kind, teaching.count, teaching.failures) == ("pointwise", 1, {})
    file = tmp_path / "teacher_answers.jsonl"
    header = json.loads(file.read_text().splitlines()[0])
    assert header["settings"]["teacher_kind"] == "pointwise"


def test_keys_that_came_later_leave_the_answers_of_earlier_runs_as_they_are(tmp_path, settings):
    taught(settings, tmp_path, Teacher())
    header = json.loads((tmp_path / "teacher_answers.jsonl").read_text().splitlines()[0])
    assert not {"teacher_kind", "teacher_revision"} & header["settings"].keys()


@pytest.mark.parametrize("teacher", ["no/such/folder", "empty"])
def test_a_folder_without_a_model_does_not_teach(tmp_path, teacher):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no model"):
        check_extras(asked_to_teach(tmp_path, teacher=str(tmp_path / teacher)), chosen(2))


def test_a_teacher_of_another_kind_than_the_config_says_is_refused(tmp_path):
    base = save_tiny_model("internvl", tmp_path / "base")
    new_reward_model(base, "pairwise", device="cpu").save(tmp_path / "trained")
    with pytest.raises(UsageError, match="is a pairwise model, not a pointwise one; leave teacher_kind out"):
        check_extras(asked_to_teach(tmp_path, teacher=str(tmp_path / "trained"), teacher_kind="pointwise"), chosen(2))


def test_a_hub_id_may_teach(tmp_path):
    check_extras(asked_to_teach(tmp_path, teacher="somebody/instruct", teacher_revision="v1"), chosen(2))
