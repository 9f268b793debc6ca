import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rewarddance.core.errors import DataError, ModelError, UsageError
from rewarddance.core.files import locked
from rewarddance.core.types import Judgement, Status
from rewarddance.data.prompts import PromptItem
from rewarddance.search.bench import Drawing
from rewarddance.search.best_of_n import BestOfNSettings
from rewarddance.search.budget import Budget
from rewarddance.search.contact_sheet import strip_of
from rewarddance.search.output import SearchWriter, missing_prompts
from rewarddance.search.particles import ParticleSettings
from rewarddance.search.path_search import PathSettings
from rewarddance.search.running import Search, run_searches
from rewarddance.search.verification import Verifier, Way
from tests.search.gaussian_generator import GaussianGenerator, KnownJudge, brightness

PROMPTS = (PromptItem("0", "a cat"), PromptItem("1", "a dog"), PromptItem("2", "a cat"))
SETTINGS = {"algorithm": "best-of-n", "seed": 0}
FOUR = BestOfNSettings(4)


def run(
    folder: Path,
    judge=None,
    prompts=PROMPTS,
    settings=FOUR,
    keep="all",
    watcher=None,
    record=SETTINGS,
    way: Way = "score",
):
    search = Search(GaussianGenerator(), Verifier(judge or KnownJudge(), way), settings, Drawing(), watcher)
    return run_searches(search, prompts, SearchWriter(folder, record, keep))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows_of(folder: Path):
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def test_every_candidate_is_stored_with_its_score_and_its_picture(tmp_path: Path):
    run(tmp_path)
    cat, dog = rows_of(tmp_path)
    assert (cat["id"], cat["prompt"], dog["prompt"]) == ("0", "a cat", "a dog")
    assert sorted(one["place"] for one in cat["candidates"]) == [1, 2, 3, 4]
    for one in cat["candidates"]:
        picture = Image.open(tmp_path / one["picture"])
        assert brightness(picture) == pytest.approx(one["reward"], abs=1e-5)
    best = max(cat["candidates"], key=lambda one: one["reward"])
    assert cat["winner"] == best["index"]


def test_winners_are_pictures_of_their_own(tmp_path: Path):
    run(tmp_path)
    for row in rows_of(tmp_path):
        best = next(one for one in row["candidates"] if one["place"] == 1)
        found = [path for path in (tmp_path / "winners").iterdir() if path.stem in best["picture"]]
        assert [path.read_bytes() for path in found] == [(tmp_path / best["picture"]).read_bytes()]


def test_other_pictures_can_be_left_out(tmp_path: Path):
    run(tmp_path, keep="winners")
    assert not (tmp_path / "candidates").exists()
    kept = [one["picture"] for one in rows_of(tmp_path)[0]["candidates"] if one["picture"]]
    assert len(kept) == 1
    assert kept[0].startswith("winners/")


def test_the_budget_that_was_stated_is_stored_beside_the_one_that_was_spent(tmp_path: Path):
    summary = run(tmp_path)
    assert summary.stated == summary.spent == Budget(velocities=64, decodes=8, judgements=8)
    stored = json.loads((tmp_path / "budget.json").read_text())
    assert stored["spent"] == stored["stated"] == {"velocities": 64, "decodes": 8, "judgements": 8}
    assert stored["by_prompt"]["0"]["spent"] == {"velocities": 32, "decodes": 4, "judgements": 4}


@pytest.mark.parametrize(
    "settings",
    [FOUR, PathSettings(2, 2, None, levels=(0.5,)), ParticleSettings(4, levels=(0.5,))],
    ids=["best_of_n", "paths", "particles"],
)
def test_every_search_is_stored_and_resumed_to_the_same_bytes(tmp_path: Path, settings):
    class Killed(KnownJudge):
        def judge(self, requests):
            if requests[0].prompt == "a dog":
                raise KeyboardInterrupt
            return super().judge(requests)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", Killed(), settings=settings)
    judge = KnownJudge()
    summary = run(tmp_path / "killed", judge, settings=settings)
    assert summary.resumed == 1
    assert judge.asked == summary.spent.judgements / 2
    straight = run(tmp_path / "straight", settings=settings)
    assert straight.resumed == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "straight")


def test_a_line_that_a_kill_left_half_written_is_made_again(tmp_path: Path):
    run(tmp_path / "whole")
    run(tmp_path / "torn")
    path = tmp_path / "torn" / "rows.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    judge = KnownJudge()
    run(tmp_path / "torn", judge)
    assert judge.asked == 4
    assert contents(tmp_path / "torn") == contents(tmp_path / "whole")


def test_what_is_finished_is_not_searched_again(tmp_path: Path):
    run(tmp_path)
    before = contents(tmp_path)
    judge = KnownJudge()
    assert run(tmp_path, judge).resumed == 2
    assert judge.asked == 0
    assert contents(tmp_path) == before
    assert missing_prompts(tmp_path, SETTINGS, PROMPTS) == ()


def test_a_search_that_grows_is_unfinished_until_it_is_finished_again(tmp_path: Path):
    run(tmp_path)

    class Killed(KnownJudge):
        def judge(self, requests):
            if requests[0].prompt == "a fox":
                raise KeyboardInterrupt
            return super().judge(requests)

    more = (*PROMPTS, PromptItem("3", "a hen"), PromptItem("4", "a fox"))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Killed(), more)
    assert not (tmp_path / "summary.json").exists()
    assert missing_prompts(tmp_path, SETTINGS, more) == (more[-1],)


def test_other_settings_are_refused(tmp_path: Path):
    run(tmp_path)
    with pytest.raises(UsageError, match="another seed"):
        run(tmp_path, record={**SETTINGS, "seed": 1})


def test_settings_that_answered_nothing_bind_nobody_and_leave_nothing(tmp_path: Path):
    wrong, right = SETTINGS | {"model": "wrong"}, SETTINGS | {"model": "right"}
    run(tmp_path, judge=KnownJudge(is_away=lambda request: True), record=wrong, settings=BestOfNSettings(6))
    run(tmp_path, record=right)
    assert json.loads((tmp_path / "settings.json").read_text()) == right
    assert [len(row["candidates"]) for row in rows_of(tmp_path)] == [4, 4]
    assert len(list((tmp_path / "candidates").iterdir())) == 8
    assert missing_prompts(tmp_path, right, PROMPTS) == ()
    with pytest.raises(UsageError, match="another model"):
        run(tmp_path, record=wrong)


def test_rows_whose_settings_are_gone_are_neither_continued_nor_lost(tmp_path: Path):
    run(tmp_path)
    before = (tmp_path / "rows.jsonl").read_bytes()
    (tmp_path / "settings.json").unlink()
    with pytest.raises(DataError, match="missing or damaged"):
        run(tmp_path)
    assert (tmp_path / "rows.jsonl").read_bytes() == before


def test_two_processes_do_not_search_in_one_folder(tmp_path: Path):
    run(tmp_path, prompts=PROMPTS[:1])
    before = (tmp_path / "rows.jsonl").read_bytes()
    with locked(tmp_path / "rows.jsonl"), pytest.raises(UsageError, match="another process"):
        run(tmp_path)
    assert (tmp_path / "rows.jsonl").read_bytes() == before
    assert run(tmp_path).prompts == 2


def test_a_damaged_line_is_named(tmp_path: Path):
    run(tmp_path)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"{broken}\n" + path.read_bytes())
    with pytest.raises(DataError, match=r"rows\.jsonl: line 1 is damaged"):
        run(tmp_path)


def test_a_prompt_that_cannot_be_judged_is_reported_and_has_no_winner(tmp_path: Path):
    summary = run(tmp_path, KnownJudge(fails=lambda request: request.prompt == "a dog"))
    assert summary.without_winner == {"1": "none of 4 pictures could be judged: the model answered with nan"}
    assert summary.failed_judgements == 4
    assert len(list((tmp_path / "winners").iterdir())) == 1
    dog = rows_of(tmp_path)[1]
    assert dog["winner"] is None
    assert {one["reward"] for one in dog["candidates"]} == {None}
    assert {one["status"] for one in dog["candidates"]} == {"non_finite"}
    # The judge did answer, and would answer the same again.
    assert missing_prompts(tmp_path, SETTINGS, PROMPTS) == ()


def test_a_prompt_whose_judge_was_away_is_searched_again_and_the_later_line_counts(tmp_path: Path):
    out = run(tmp_path / "out", KnownJudge(is_away=lambda request: request.prompt == "a dog"))
    assert out.unanswered == {"1": 4}
    assert "unreachable" in out.without_winner["1"]
    assert missing_prompts(tmp_path / "out", SETTINGS, PROMPTS) == PROMPTS[1:2]
    judge = KnownJudge()
    again = run(tmp_path / "out", judge)
    assert (again.resumed, again.without_winner, again.unanswered, judge.asked) == (1, {}, {}, 4)
    straight = run(tmp_path / "straight")
    assert (again.spent, again.failed_judgements) == (straight.spent, 0)
    found, expected = contents(tmp_path / "out"), contents(tmp_path / "straight")
    assert found.pop("rows.jsonl").endswith(expected.pop("rows.jsonl").splitlines(keepends=True)[1])
    assert found == expected


@pytest.mark.parametrize("way", ["score", "round_robin", "knock_out"])
def test_a_winner_among_the_few_that_were_judged_does_not_stand(tmp_path: Path, way: Way):
    calls = iter(range(100))
    out = run(tmp_path, KnownJudge(is_away=lambda request: next(calls) == 0), way=way)
    assert (out.without_winner, out.unanswered) == ({}, {"0": 1})
    again = run(tmp_path, way=way)
    assert (again.resumed, again.unanswered) == (1, {})
    best = max(rows_of(tmp_path)[-1]["candidates"], key=lambda one: one["reward"])
    assert rows_of(tmp_path)[-1]["winner"] == best["index"]


def test_a_held_out_judge_that_was_away_is_asked_again(tmp_path: Path):
    assert run(tmp_path, watcher=KnownJudge(is_away=lambda request: request.prompt == "a dog")).unanswered == {"1": 3}
    assert run(tmp_path, watcher=KnownJudge()).unanswered == {}


class Refuses(KnownJudge):
    """Refuses some questions for good."""

    def __init__(self, refuses, message="rejected: HTTP 400: holds an image token") -> None:
        super().__init__()
        self.refuses, self.message = refuses, message

    def _judged(self, request):
        if self.refuses(request):
            return Judgement(Status.FAILED, message=self.message)
        return super()._judged(request)


def test_one_refused_picture_does_not_make_its_prompt_missing(tmp_path: Path):
    first = []
    judge = Refuses(lambda request: not first and (first.append(request) or True))
    summary = run(tmp_path, judge=judge)
    assert summary.unanswered == {}
    assert summary.failed_judgements == 1
    assert missing_prompts(tmp_path, SETTINGS, PROMPTS) == ()


def test_pictures_whose_answer_the_service_did_not_list_are_named(tmp_path: Path):
    """They are those that it is surest of, and a winner without them may not be the best."""
    brightest: list[float] = []

    def is_sure(request):
        brightest.append(brightness(request.candidate))
        return request.prompt == "a cat" and brightest[-1] == max(brightest) and len(brightest) > 1

    judge = Refuses(is_sure, "no_answer: no is not among the 20 tokens that the service lists; allow more")
    summary = run(tmp_path, judge=judge, settings=BestOfNSettings(6))
    assert list(summary.unread) == ["0"]
    assert summary.failures == {"no_answer": summary.unread["0"]}
    assert json.loads((tmp_path / "summary.json").read_text())["unread"] == dict(summary.unread)


def test_a_prompt_that_is_refused_whole_ends_beside_others_that_were_answered(tmp_path: Path):
    many = BestOfNSettings(24)
    run(tmp_path, prompts=PROMPTS[:1], settings=many)
    summary = run(tmp_path, judge=Refuses(lambda request: request.prompt == "a dog"), settings=many)
    assert list(summary.without_winner) == ["1"]
    assert summary.unanswered == {}


@pytest.mark.parametrize("settings", [FOUR, PathSettings(2, 2, None, levels=(0.5,))], ids=["best_of_n", "paths"])
def test_a_judge_that_has_gone_stops_the_search_and_the_same_command_goes_on(tmp_path: Path, settings):
    prompts = [PromptItem(str(number), f"cat {number}") for number in range(8)]
    gone = KnownJudge(is_away=lambda request: request.prompt != "cat 0")
    # Four judgements a prompt: the twentieth without an answer belongs to the fifth prompt in a row.
    with pytest.raises(
        ModelError, match=r"no answer 20 times in a row, at last: unreachable: .*the same command goes on"
    ):
        run(tmp_path, gone, prompts, settings)
    assert [row["prompt"] for row in rows_of(tmp_path)] == [f"cat {number}" for number in range(5)]
    assert not (tmp_path / "summary.json").exists()
    again = run(tmp_path, KnownJudge(), prompts, settings)
    assert (again.resumed, again.without_winner, again.unanswered) == (1, {}, {})


def test_an_answer_now_and_then_keeps_the_search_going(tmp_path: Path):
    prompts = [PromptItem(str(number), f"cat {number}") for number in range(12)]
    calls = iter(range(100))
    out = run(tmp_path, KnownJudge(is_away=lambda request: next(calls) % 10 != 0), prompts)
    assert sum(out.unanswered.values()) == 43  # of 48, those at 0, 10, 20, 30 and 40 were answered


def test_nothing_is_left_of_a_search_that_was_made_again(tmp_path: Path):
    calls = iter(range(100))
    run(tmp_path, KnownJudge(is_away=lambda request: next(calls) == 0), PROMPTS[:1])
    before = len(list((tmp_path / "candidates").iterdir()))
    summary = run(tmp_path, KnownJudge(fails=lambda request: True), PROMPTS[:1])
    assert (len(summary.without_winner), len(list((tmp_path / "winners").iterdir()))) == (1, 0)
    assert len(list((tmp_path / "candidates").iterdir())) == before


def test_what_the_held_out_judge_saw_is_stored(tmp_path: Path):
    summary = run(tmp_path, watcher=KnownJudge())
    assert summary.watch is not None
    stored = json.loads((tmp_path / "summary.json").read_text())
    assert stored["watch"]["judge_agrees"] == 1.0
    assert rows_of(tmp_path)[0]["watch"]["judge_gain"] > 0
    assert summary.watch_spent.judgements <= 2 * 8


def test_the_contact_sheet_frames_the_winner_and_shows_it_first(tmp_path: Path):
    run(tmp_path)
    sheet = np.asarray(Image.open(tmp_path / "contact_sheet.png"))
    strips = [np.asarray(Image.open(path)) for path in (tmp_path / "strips").iterdir()]
    assert sheet.shape[0] == sum(strip.shape[0] for strip in strips)
    frame = (sheet == (214, 90, 20)).all(axis=2)
    columns = np.flatnonzero(frame.any(axis=0))
    assert 0 < columns.min() < columns.max() < 130


def test_a_strip_can_be_made_of_any_prompt(tmp_path: Path):
    search = Search(GaussianGenerator(), Verifier(KnownJudge()), FOUR, Drawing())
    assert strip_of(search.run("猫 " * 500)).height == strip_of(search.run("a cat")).height


def test_one_prompt_over_which_the_judge_is_silent_does_not_block_the_others(tmp_path: Path):
    prompts = [PromptItem(str(number), f"cat {number}") for number in range(3)]
    many = BestOfNSettings(24)
    silent = KnownJudge(is_away=lambda request: request.prompt == "cat 0")
    with pytest.raises(ModelError, match="no answer 24 times in a row"):
        run(tmp_path, silent, prompts, many)
    with pytest.raises(ModelError, match="no answer 24 times in a row"):
        run(tmp_path, silent, prompts, many)
    assert [row["prompt"] for row in rows_of(tmp_path)] == ["cat 1", "cat 2"]
    assert run(tmp_path, KnownJudge(), prompts, many).without_winner == {}


def test_a_tournament_of_one_is_refused_before_anything_is_made(tmp_path: Path):
    for settings in (BestOfNSettings(1), PathSettings(1, 2, None, levels=(0.5,))):
        for way in ("knock_out", "round_robin"):
            with pytest.raises(UsageError, match="two pictures at least"):
                Search(GaussianGenerator(), Verifier(KnownJudge(), way), settings, Drawing()).budget()
        Search(GaussianGenerator(), Verifier(KnownJudge()), settings, Drawing()).budget()
