import json
from pathlib import Path

import pytest

from rewarddance.core.errors import DataError
from rewarddance.core.types import Media
from rewarddance.data.comparisons import ComparisonSet, write_comparisons
from rewarddance.data.records import ComparisonRecord
from rewarddance.data.splits import assign_splits, check_split, normalise_prompt, split_of_prompt
from tests.data.published import write_picture


def record(folder: Path, name: str, prompt: str, numbers: tuple[int, int]) -> ComparisonRecord:
    """Media with one number have the same content, whatever their names."""
    paths = [folder / f"{name}{index}.png" for index in (0, 1)]
    for path, number in zip(paths, numbers, strict=True):
        write_picture(path, number)
    return ComparisonRecord(name, prompt, tuple(Media(path) for path in paths), choice="first")


def stored(folder: Path, *records: ComparisonRecord) -> ComparisonSet:
    write_comparisons(folder, records)
    return ComparisonSet.open(folder)


def test_prompts_and_media_on_both_sides_are_found(tmp_path: Path) -> None:
    train = stored(
        tmp_path / "train", record(tmp_path, "a", "A red cube.", (1, 2)), record(tmp_path, "b", "a dog", (3, 4))
    )
    test = stored(
        tmp_path / "test",
        record(tmp_path, "c", "a  RED cube", (5, 6)),  # prompt of a
        record(tmp_path, "d", "a cat", (7, 4)),  # an image of b under another name
        record(tmp_path, "e", "a fish", (8, 9)),
    )
    report = check_split(train, test)
    assert not report.is_clean
    (prompt,) = report.shared_prompts
    assert (prompt.prompt, prompt.train_ids, prompt.test_ids) == ("a red cube", ("a",), ("c",))
    (media,) = report.shared_media
    assert (Path(media.train_path).name, Path(media.test_path).name) == ("b1.png", "d1.png")
    assert (report.affected_test_records, report.test_records) == (2, 3)
    report.write(tmp_path / "split.json")
    assert json.loads((tmp_path / "split.json").read_text(encoding="utf-8"))["is_clean"] is False


def test_separate_sides_are_clean(tmp_path: Path) -> None:
    train = stored(tmp_path / "train", record(tmp_path, "a", "a cube", (1, 2)))
    test = stored(tmp_path / "test", record(tmp_path, "b", "a dog", (3, 4)))
    assert check_split(train, test).is_clean


def test_media_that_are_gone_are_not_called_clean(tmp_path: Path) -> None:
    train = stored(tmp_path / "train", record(tmp_path, "a", "a cube", (1, 2)))
    test = stored(tmp_path / "test", record(tmp_path, "b", "a dog", (3, 4)))
    (tmp_path / "b0.png").unlink()
    report = check_split(train, test)
    assert [Path(path).name for path in report.unreadable] == ["b0.png"]
    assert not report.is_clean


def test_spellings_of_a_prompt_are_one() -> None:
    spellings = ["A Red cube.", " a red\n cube", "a red cube!", "a \uff32ed cube"]
    assert {normalise_prompt(text) for text in spellings} == {"a red cube"}


def test_a_prompt_stays_in_its_split_and_the_shares_are_kept() -> None:
    shares = {"train": 0.8, "test": 0.2}
    splits = [split_of_prompt(f"prompt {number}", shares, seed=1) for number in range(2000)]
    # Standard deviation of the share: sqrt(0.8 * 0.2 / 2000) = 0.009.
    assert abs(splits.count("train") / 2000 - 0.8) < 0.03
    assert split_of_prompt("Prompt 7.", shares, seed=1) == splits[7]


def test_another_seed_gives_another_split() -> None:
    shares = {"train": 0.5, "test": 0.5}
    ones, twos = ([split_of_prompt(f"{number}", shares, seed) for number in range(100)] for seed in (1, 2))
    assert ones != twos


def test_shares_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(DataError, match="add up to 1"):
        split_of_prompt("p", {"train": 0.8, "test": 0.3})


def test_records_of_one_prompt_go_to_one_split() -> None:
    media = (Media(Path("a")), Media(Path("b")))
    records = [ComparisonRecord(str(number), f"p{number % 5}", media, choice="first") for number in range(20)]
    assigned = list(assign_splits(records, {"train": 0.5, "test": 0.5}, seed=3))
    assert all(assigned[number].split == assigned[number % 5].split for number in range(20))
