import json
from pathlib import Path

import numpy as np
import pytest

from rewarddance.core.errors import UsageError
from rewarddance.data.comparisons import ComparisonSet
from rewarddance.data.importing import import_source
from rewarddance.lab.photos import TEST_PHOTOS, TRAIN_PHOTOS, draw_pair, spoil_photo, write_photo_folder


def test_no_photo_is_in_both_splits() -> None:
    assert not set(TRAIN_PHOTOS) & set(TEST_PHOTOS)


def test_a_graver_fault_is_farther_from_the_untouched_photo() -> None:
    rng = np.random.default_rng(0)
    photo = draw_pair(("coffee",), rng).better
    untouched = np.asarray(photo, dtype=float)
    for fault in ("jpeg", "blur", "noise"):
        mild, grave = (np.asarray(spoil_photo(photo, fault, level, rng), dtype=float) for level in (0.2, 0.9))
        assert np.abs(grave - untouched).mean() > np.abs(mild - untouched).mean() + 1


def test_the_folder_imports_as_hpdv3_with_the_better_photo_on_either_side(tmp_path: Path) -> None:
    write_photo_folder(tmp_path / "published", train=24, test=6)
    report = import_source("hpdv3", tmp_path / "published", tmp_path / "out")
    train = ComparisonSet.open(tmp_path / "out").select(split="train")
    assert report.comparisons == 30
    assert {comparison.choice for comparison in train} == {"first", "second"}
    rows = json.loads((tmp_path / "published" / "train.json").read_text())
    assert all(row["path1"].endswith("-x.png") for row in rows)


def test_rows_of_other_photos_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text("[]")
    with pytest.raises(UsageError, match=r"holds a train\.json already"):
        write_photo_folder(tmp_path, train=1, test=1)
    assert (tmp_path / "train.json").read_text() == "[]"
    write_photo_folder(tmp_path / "own", train=1, test=1)
    first = (tmp_path / "own" / "train.json").read_bytes()
    write_photo_folder(tmp_path / "own", train=1, test=1)
    assert (tmp_path / "own" / "train.json").read_bytes() == first
    with pytest.raises(UsageError, match="of other settings"):
        write_photo_folder(tmp_path / "own", train=2, test=1)
