import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from rewarddance.core.errors import ModelError
from rewarddance.core.types import Media
from rewarddance.data.comparisons import ComparisonSet, write_comparisons
from rewarddance.data.rationale_exchanges import EXCHANGES_NAME, ExchangeStore, Reply
from rewarddance.data.records import ComparisonRecord
from rewarddance.rewards.chat_endpoint import ChatEndpoint, EndpointSettings
from rewarddance.training.rationale_collection import collect_rationales
from rewarddance.training.rationale_filter import filter_rationales
from rewarddance.training.rationale_run import NamedJudge, NamedTeacher, make_rationales
from rewarddance.training.served_rationales import (
    RationaleOrder,
    TeacherSettings,
    judge_name,
    served_judge,
    served_teacher,
    teacher_name,
)
from tests.chat_server import Body, ChatServer, chat_server, says

SETTINGS = TeacherSettings()
ASKED_FOR_A_NUMBER = "Answer with the number alone."


def text_of(body: Body) -> str:
    return "".join(part["text"] for part in body["messages"][0]["content"] if part["type"] == "text")


def teaches_and_reads(body: Body) -> Body:
    """A teacher whose rationale names the other image's fault, and a judge that finds the faulty image."""
    text = text_of(body)
    if ASKED_FOR_A_NUMBER in text:
        return says("2" if "Image 1 is dark" in text else "1." if "image 2 is dark" in text else "0")
    better = "image 1" if "found image 1 better" in text else "image 2"
    other = "image 2 is dark" if better == "image 1" else "Image 1 is dark"
    return says(f"{other}.\n\nTherefore {better} is better.")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight comparisons with a choice, a tie and one that nobody judged."""
    folder = tmp_path_factory.mktemp("data")
    media = []
    for number in range(2):
        Image.new("RGB", (4, 4), (200 * number, 0, 0)).save(folder / f"{number}.png")
        media.append(Media(folder / f"{number}.png"))
    choices = ["first", "second"] * 4 + ["tie", None]
    records = [
        ComparisonRecord(f"c{place}", f"prompt {place}", (media[0], media[1]), choice=choice)
        for place, choice in enumerate(choices)
    ]
    write_comparisons(folder, records)
    return folder


def endpoint(server: ChatServer, **changes: object) -> ChatEndpoint:
    quick = {"deadline_seconds": 10.0, "backoff_seconds": 0.01, "tries": 2}
    return ChatEndpoint(EndpointSettings(server.url, "big", **(quick | changes)))


def run(server: ChatServer, data: Path, out: Path, **changes: object):
    with endpoint(server, **changes) as client:
        return make_rationales(
            ComparisonSet.open(data),
            out,
            NamedTeacher(teacher_name(client.settings, SETTINGS), served_teacher(client, SETTINGS)),
            NamedJudge(judge_name(client.settings), served_judge(client)),
        )


def test_a_teacher_and_a_judge_over_http_give_comparisons_with_rationales(data: Path, tmp_path: Path):
    with chat_server(teaches_and_reads) as server:
        summary = run(server, data, tmp_path)

    after = {one.id: one for one in ComparisonSet.open(tmp_path)}
    assert after["c0"].rationale == "image 2 is dark."
    assert after["c1"].rationale == "Image 1 is dark."
    assert [after[name].rationale for name in ("c8", "c9")] == [None, None]
    assert (summary.comparisons, summary.unanchored, summary.written, summary.kept) == (10, 2, 8, 8)
    assert (summary.share_kept, summary.share_kept_by_choice) == (1.0, {"first": 1.0, "second": 1.0})
    assert json.loads((tmp_path / "rationales.json").read_text())["kept"] == 8


def test_the_judge_sees_neither_images_nor_the_choice_nor_the_prompt(data: Path, tmp_path: Path):
    with chat_server(teaches_and_reads) as server:
        run(server, data, tmp_path)

    read = [body["messages"][0]["content"] for body in server.bodies if ASKED_FOR_A_NUMBER in text_of(body)]
    # Eight rationales, but only two different ones.
    assert len(read) == 2
    assert all([part["type"] for part in content] == ["text"] for content in read)
    assert not any(word in content[0]["text"] for content in read for word in ("prompt", "better.", "found"))


def test_the_teacher_sees_both_images_and_is_told_the_choice(data: Path, tmp_path: Path):
    with chat_server(teaches_and_reads) as server:
        run(server, data, tmp_path)

    body = next(body for body in server.bodies if "Prompt: prompt 1\n" in text_of(body))
    kinds = [part["type"] for part in body["messages"][0]["content"]]
    assert kinds == ["text", "text", "image_url", "text", "image_url", "text"]
    assert "found image 2 better" in text_of(body)


def test_a_rationale_that_does_not_lead_to_the_choice_is_dropped(data: Path, tmp_path: Path):
    def wrong_half_of_the_time(body: Body) -> Body:
        text = text_of(body)
        if ASKED_FOR_A_NUMBER in text:
            return teaches_and_reads(body)
        return says("Image 1 is dark." if "prompt 1\n" in text or "found image 1" in text else "They differ in hue.")

    with chat_server(wrong_half_of_the_time) as server:
        summary = run(server, data, tmp_path)

    assert (summary.kept, summary.contradicted, summary.undecided) == (1, 4, 3)
    assert summary.share_kept == pytest.approx(1 / 8)
    assert summary.share_kept_by_choice == {"first": 0.0, "second": 0.25}
    assert [one.id for one in ComparisonSet.open(tmp_path) if one.rationale] == ["c1"]


def test_a_dropped_rationale_leaves_no_older_one_in_its_place(data: Path, tmp_path: Path):
    def names_the_wrong_one(body: Body) -> Body:
        return teaches_and_reads(body) if ASKED_FOR_A_NUMBER in text_of(body) else says("Image 1 is dark.")

    with chat_server(teaches_and_reads) as server:
        run(server, data, tmp_path / "before")
    with chat_server(names_the_wrong_one) as server:
        summary = run(server, tmp_path / "before", tmp_path / "after")

    # "Image 1 is dark" speaks for the second, which was chosen in four of eight.
    assert (summary.kept, summary.contradicted) == (4, 4)
    assert {one.id for one in ComparisonSet.open(tmp_path / "after") if one.rationale} == {"c1", "c3", "c5", "c7"}


@pytest.mark.parametrize("order", ["answer_first", "reason_first"])
def test_what_the_teacher_was_told_is_not_in_what_it_is_kept_for(order: RationaleOrder, data: Path, tmp_path: Path):
    def repeats_its_orders(body: Body) -> Body:
        return says(f"{body['messages'][0]['content'][-1]['text']} Image 1 is dark.")

    with chat_server(repeats_its_orders) as server, endpoint(server) as client, ExchangeStore(tmp_path) as store:
        teacher = served_teacher(client, TeacherSettings(order))
        found = collect_rationales(teacher, "big", list(ComparisonSet.open(data)), store)

    # Told "found image 1 better" and told "found image 2 better", it leaves the same words.
    assert len(found.rationales) == 8
    assert len(set(found.rationales.values())) == 1
    assert "People compared" not in found.rationales["c0"]


def test_a_rationale_that_cannot_change_places_is_left_out_and_counted(data: Path, tmp_path: Path):
    def leaves_a_number_alone(body: Body) -> Body:
        if "prompt 1\n" in text_of(body):
            return says("Image 1 is dark, whereas 2 is not.")
        return teaches_and_reads(body)

    with chat_server(leaves_a_number_alone) as server:
        summary = run(server, data, tmp_path)

    assert (summary.unswappable, summary.written, summary.kept, summary.failed_share) == (1, 7, 7, 0.0)
    assert next(one for one in ComparisonSet.open(tmp_path) if one.id == "c1").rationale is None
    assert json.loads((tmp_path / "rationales.json").read_text())["unswappable"] == 1


@pytest.mark.parametrize(
    ("order", "formats"),
    [
        ("answer_first", {"Give their reasons"}),
        ("reason_first", {"step by step"}),
        ("mixed", {"Give their reasons", "step by step"}),
    ],
)
def test_reasons_are_asked_for_in_the_formats_of_the_paper(
    order: RationaleOrder, formats: set[str], data: Path, tmp_path: Path
):
    with chat_server(teaches_and_reads) as server, endpoint(server) as client, ExchangeStore(tmp_path) as store:
        teacher = served_teacher(client, TeacherSettings(order))
        collect_rationales(teacher, "big", list(ComparisonSet.open(data)), store)

    asked = " ".join(text_of(body) for body in server.bodies)
    assert {words for words in ("Give their reasons", "step by step") if words in asked} == formats


def test_a_finished_collection_asks_nothing_again(data: Path, tmp_path: Path):
    with chat_server(teaches_and_reads) as server:
        first = run(server, data, tmp_path)
        asked = len(server.bodies)
        second = run(server, data, tmp_path)

    assert asked == 10
    assert len(server.bodies) == asked
    assert (first.asked, second.asked) == (10, 0)
    assert second.kept == first.kept


def test_what_a_refusal_or_a_cut_left_out_is_counted_and_not_asked_again(data: Path, tmp_path: Path):
    with chat_server(teaches_and_reads) as server:
        server.misbehave("refusal", "cut_short")
        first = run(server, data, tmp_path, concurrency=1)
        asked = len(server.bodies)
        run(server, data, tmp_path)

    assert first.failures == {"cut_short": 1, "refused": 1}
    assert (first.written, first.failed_share) == (6, 0.25)
    assert len(server.bodies) == asked


def test_a_passing_failure_is_asked_again_by_the_next_run(data: Path, tmp_path: Path):
    with chat_server(teaches_and_reads) as server:
        server.misbehave("500", "500")
        first = run(server, data, tmp_path, concurrency=1)
        asked = len(server.bodies)
        second = run(server, data, tmp_path)

    assert first.failures == {"server_error": 1}
    assert len(server.bodies) == asked + 1
    assert (second.failures, second.kept) == ({}, 8)


def test_a_reply_that_was_broken_off_is_asked_again_and_never_stands(data: Path, tmp_path: Path):
    with chat_server(teaches_and_reads) as server:
        server.misbehave("aborted", "aborted")
        first = run(server, data, tmp_path, concurrency=1)
        second = run(server, data, tmp_path)

    # Two tries each.
    assert (first.failures, first.written) == ({"broken_off": 1}, 7)
    assert (second.failures, second.kept, second.asked) == ({}, 8, 1)


def test_a_judge_that_is_cut_short_has_not_read(data: Path, tmp_path: Path):
    def thinks_too_long(body: Body) -> Body:
        is_judge = ASKED_FOR_A_NUMBER in text_of(body)
        return says("", finish_reason="length") if is_judge else teaches_and_reads(body)

    with chat_server(thinks_too_long) as server:
        summary = run(server, data, tmp_path)

    assert (summary.unread, summary.undecided, summary.failed_share) == (8, 0, 1.0)


def test_what_is_sent_along_decides_whether_a_stored_reply_stands(data: Path, tmp_path: Path):
    thinks = {"max_tokens": None, "max_completion_tokens": 2000, "temperature": None, "seed": None}
    with chat_server(teaches_and_reads) as server:
        run(server, data, tmp_path)
        asked = len(server.bodies)
        changed = run(server, data, tmp_path, request_fields=thinks)
        again = run(server, data, tmp_path, request_fields=thinks)

    assert (changed.asked, again.asked) == (asked, 0)
    for body in server.bodies[asked:]:
        assert body["max_completion_tokens"] == 2000
        assert not {"max_tokens", "temperature", "seed"} & set(body)


def test_a_field_that_is_not_sent_asks_nothing_anew():
    fields = {"max_tokens": 500, "temperature": None}
    told = EndpointSettings("http://127.0.0.1/v1", "big", request_fields=fields)
    names = [teacher_name(told, TeacherSettings(max_tokens=length, temperature=length / 100)) for length in (50, 90)]
    assert names[0] == names[1]
    assert teacher_name(told, TeacherSettings("reason_first")) != teacher_name(told, TeacherSettings("answer_first"))
    assert judge_name(EndpointSettings(told.url, "big"), 6) != judge_name(EndpointSettings(told.url, "big"), 4000)


def test_every_exchange_is_stored_with_what_was_asked_and_said(data: Path, tmp_path: Path):
    with chat_server(teaches_and_reads) as server:
        server.misbehave("refusal")
        run(server, data, tmp_path, concurrency=1)

    stored = [json.loads(line) for line in (tmp_path / EXCHANGES_NAME).read_text().splitlines()]
    teacher = [one for one in stored if one["role"] == "teacher"]
    assert [one["comparison_id"] for one in teacher] == [f"c{place}" for place in range(8)]
    assert teacher[0]["reply"]["failure"] == "refused"
    assert teacher[1]["reply"]["text"] == "Image 1 is dark.\n\nTherefore image 2 is better."
    assert "Image 1: [image 1]" in teacher[1]["reply"]["asked"]
    assert (teacher[1]["reply"]["prompt_tokens"], teacher[1]["reply"]["generated_tokens"]) == (11, 3)


def test_a_teacher_that_has_gone_stops_the_run_and_loses_nothing(data: Path, tmp_path: Path):
    comparisons = list(ComparisonSet.open(data))
    with chat_server(teaches_and_reads) as server, ExchangeStore(tmp_path) as store:
        server.lasting_mood = "500"
        with endpoint(server, tries=1, concurrency=1) as client, pytest.raises(ModelError, match="3 times in a row"):
            collect_rationales(served_teacher(client, SETTINGS), "big", comparisons, store, patience=3)

    assert len((tmp_path / EXCHANGES_NAME).read_text().splitlines()) == 3


def test_a_key_that_is_not_accepted_stops_the_run_at_once(data: Path, tmp_path: Path):
    with chat_server(teaches_and_reads) as server, pytest.raises(ModelError, match="not_allowed"):
        server.lasting_mood = "401"
        run(server, data, tmp_path, concurrency=1)

    assert len(server.bodies) <= 2


def test_images_that_cannot_be_read_are_those_comparisons_failures_and_nobody_s_silence(data: Path, tmp_path: Path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    whole = next(iter(ComparisonSet.open(data))).first
    records = [ComparisonRecord(f"b{place}", "a cat", (whole, Media(broken)), choice="first") for place in range(25)]
    write_comparisons(tmp_path / "in", [*records, ComparisonRecord("w", "a dog", (whole, whole), choice="first")])
    with chat_server(teaches_and_reads) as server:
        summary = run(server, tmp_path / "in", tmp_path / "out")

    assert summary.failures == {"unreadable_media": 25}
    assert summary.kept == 1
    assert len(server.bodies) == 2


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ("2", "kept"),
        ("Image 2.", "kept"),
        (" **2** ", "kept"),
        ("<think>Image 1 is dark, so 2.</think>\n2", "kept"),
        ("1", "contradicted"),
        ("0", "undecided"),
        ("Both", "undecided"),
        ("12", "undecided"),
        ("image 1 or image 2", "undecided"),
        ("", "undecided"),
    ],
)
def test_only_a_clear_word_of_the_judge_counts(said: str, verdict: str, data: Path, tmp_path: Path):
    comparison = next(one for one in ComparisonSet.open(data) if one.choice == "second")

    def judge(rationales):
        yield 0, Reply(rationales[0], said)

    with ExchangeStore(tmp_path) as store:
        found = filter_rationales(judge, "judge", [comparison], {comparison.id: "words"}, store)

    assert found.verdicts == {comparison.id: verdict}


def wait_until(is_true: Callable[[], bool], seconds: float = 60.0) -> None:
    ends_at = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < ends_at, "it did not happen in time"
        time.sleep(0.01)


def test_after_a_kill_only_what_is_missing_is_asked(data: Path, tmp_path: Path):
    command = [sys.executable, str(Path(__file__).parent / "rationale_driver.py"), str(data), str(tmp_path)]
    stored = tmp_path / EXCHANGES_NAME
    with chat_server(teaches_and_reads) as server:
        server.delay_seconds = 0.2
        killed = subprocess.Popen([*command, server.url])
        wait_until(lambda: stored.is_file() and stored.read_bytes().count(b"\n") >= 3)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        whole = stored.read_bytes().count(b"\n")
        server.delay_seconds = 0.0
        time.sleep(0.3)  # what was in flight has arrived
        server.bodies.clear()
        subprocess.run([*command, server.url], check=True)

    asked = {text_of(body).splitlines()[0] for body in server.bodies}
    ids = [json.loads(line)["comparison_id"] for line in stored.read_text().splitlines()]
    assert 3 <= whole < 8
    assert len(server.bodies) == len(asked) == 8 - whole
    assert sorted(ids) == [f"c{place}" for place in range(8)]


class Picky:
    """A teacher that rejects some comparisons; it knows in which order it was asked."""

    def __init__(self, rejects: Callable[[str], bool]) -> None:
        self.rejects = rejects
        self.asked: list[str] = []

    def __call__(self, comparisons):
        for place, comparison in enumerate(comparisons):
            self.asked.append(comparison.id)
            failed = ("rejected", "too long") if self.rejects(comparison.id) else (None, None)
            text = None if failed[0] else "image 1 is dark. image 2 is bright."
            yield place, Reply("asked", text, *failed, is_final=failed[0] is None, tries=1)


def test_questions_that_are_rejected_do_not_stop_a_teacher_that_answers_others(data: Path, tmp_path: Path):
    comparisons = list(ComparisonSet.open(data))
    teacher = Picky(lambda name: name != "c0")
    with ExchangeStore(tmp_path) as store:
        made = collect_rationales(teacher, "picky", comparisons, store, patience=3)
        assert (set(made.rationales), set(made.failures.values())) == ({"c0"}, {"rejected"})
        # and none of them blocks the next run, which asks them again
        again = collect_rationales(teacher, "picky", comparisons, store, patience=3)
    assert again.asked == 7


def test_a_teacher_that_rejects_everything_is_given_up(data: Path, tmp_path: Path):
    comparisons = list(ComparisonSet.open(data))
    with ExchangeStore(tmp_path) as store, pytest.raises(ModelError, match="3 times in a row"):
        collect_rationales(Picky(lambda name: True), "picky", comparisons, store, patience=3)


def test_what_was_never_asked_comes_before_what_failed(data: Path, tmp_path: Path):
    comparisons = list(ComparisonSet.open(data))
    with ExchangeStore(tmp_path) as store:
        collect_rationales(Picky(lambda name: name == "c1"), "picky", comparisons[:4], store)
        teacher = Picky(lambda name: False)
        collect_rationales(teacher, "picky", comparisons, store)
    assert teacher.asked == ["c4", "c5", "c6", "c7", "c1"]
