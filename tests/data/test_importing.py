import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rewarddance.core.errors import DataError, UsageError
from rewarddance.core.media import MediaLimits
from rewarddance.core.types import Comparison
from rewarddance.data.comparisons import ComparisonSet
from rewarddance.data.importing import import_source
from tests.core.test_media import bomb_png
from tests.data.published import hpdv3_row, write_hpdv3, write_picture


def pairs_of(folder: Path) -> list[Comparison]:
    return list(ComparisonSet.open(folder))


def report_of(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "import_report.json").read_text(encoding="utf-8"))
    return loaded


def orders_of(root: Path, out: Path, **options: Any) -> dict[str, str]:
    import_source("hpdv3", root, out, **options)
    return {pair.prompt: pair.first.path.name for pair in pairs_of(out)}


def test_the_winner_is_second_in_half_of_the_rows_and_labels_follow(tmp_path: Path) -> None:
    rows = [hpdv3_row(number, path1="images/win.jpg", path2="images/lose.jpg") for number in range(400)]
    write_hpdv3(tmp_path / "h", rows)
    import_source("hpdv3", tmp_path / "h", tmp_path / "out", seed=3)
    pairs = pairs_of(tmp_path / "out")
    # Standard deviation of the share: sqrt(0.25 / 400) = 0.025.
    assert abs(sum(pair.choice == "second" for pair in pairs) / 400 - 0.5) < 0.1
    for pair in pairs:
        chosen = pair.first if pair.choice == "first" else pair.second
        assert (chosen.path.name, chosen.generator) == ("win.jpg", "flux")
        # 3 of 12 votes are for the loser.
        assert pair.target == (0.25 if pair.choice == "first" else 0.75)


def test_the_order_of_a_row_depends_on_the_seed_and_the_row_alone(tmp_path: Path) -> None:
    rows = [hpdv3_row(number) for number in range(40)]
    whole = orders_of(write_hpdv3(tmp_path / "a", rows), tmp_path / "out-a", seed=1)
    again = orders_of(tmp_path / "a", tmp_path / "out-b", seed=1)
    part = orders_of(write_hpdv3(tmp_path / "c", rows[::-3]), tmp_path / "out-c", seed=1)
    other = orders_of(tmp_path / "a", tmp_path / "out-d", seed=2)
    assert whole == again
    assert all(whole[prompt] == first for prompt, first in part.items())
    assert whole != other


def test_a_row_with_half_a_letter_is_bad_and_the_import_goes_on(tmp_path: Path) -> None:
    rows = [hpdv3_row(0), {**hpdv3_row(1), "prompt": "a cat \ud83d"}]
    report = import_source("hpdv3", write_hpdv3(tmp_path / "h", rows), tmp_path / "out", max_bad_share=0.5)
    assert (report.records, report.bad) == (1, {"malformed_row": 1})


def test_media_are_found_from_a_folder_behind_a_link(tmp_path: Path) -> None:
    published = write_hpdv3(tmp_path / "home" / "h", [hpdv3_row(0)])
    (tmp_path / "large" / "disk" / "out").mkdir(parents=True)
    (tmp_path / "home" / "out").symlink_to(tmp_path / "large" / "disk" / "out")
    import_source("hpdv3", published, tmp_path / "home" / "out", overwrite=True)
    for folder in (tmp_path / "home" / "out", tmp_path / "large" / "disk" / "out"):
        assert all(pair.first.path.is_file() for pair in pairs_of(folder))


def test_the_order_can_be_kept_and_the_report_then_warns(tmp_path: Path) -> None:
    write_hpdv3(tmp_path / "h", [hpdv3_row(number) for number in range(60)])
    report = import_source("hpdv3", tmp_path / "h", tmp_path / "out", randomise_order=False)
    assert report.choices == {"first": 60}
    assert "100% of the choices are 'first'" in report.warnings[0]


def test_rationales_that_the_new_order_leaves_out_are_counted(tmp_path: Path) -> None:
    for number in (1, 2):
        write_picture(tmp_path / "in" / f"{number}.png", number)
    rows = [
        {"prompt": f"a cat {number}", "first": "1.png", "second": "2.png", "choice": "second", "rationale": words}
        for number, words in enumerate(["Image 2 has a cat, 1 has none.", "Image 1 has no cat."] * 20)
    ]
    (tmp_path / "in" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = import_source("jsonl", tmp_path / "in" / "rows.jsonl", tmp_path / "out")
    pairs = pairs_of(tmp_path / "out")
    moved = [pair for pair in pairs if pair.choice == "first"]
    without = [pair for pair in pairs if pair.rationale is None]
    assert 0 < len(without) < len(moved)
    assert all(pair.choice == "first" for pair in without)
    assert list(report.notes.values()) == [len(without)]
    assert {pair.rationale for pair in moved} == {None, "Image 2 has no cat."}


def broken_folder(root: Path) -> Path:
    """Forty good rows, and one of each kind of bad one."""
    rows = [hpdv3_row(number) for number in range(46)]
    rows[45]["path1"] = "../secret.jpg"
    rows[44]["path2"] = "/etc/passwd"
    del rows[43]["path2"]
    write_hpdv3(root, rows)
    (root / rows[42]["path1"]).unlink()
    (root / rows[41]["path1"]).write_bytes(b"<html>not found</html>")
    (root / rows[40]["path2"]).write_bytes(bomb_png(30_000))
    write_picture(root.parent / "secret.jpg", 1)
    return root


def test_bad_rows_and_media_are_listed_by_name_and_the_rest_is_imported(tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = import_source("hpdv3", broken_folder(tmp_path / "h"), out, max_bad_share=0.2)
    assert (report.rows, report.records, report.bad_rows) == (46, 40, 6)
    assert report.bad == {"oversized": 1, "unreadable": 1, "missing": 1, "malformed_row": 1, "escapes_root": 2}
    found = {(problem.reason, problem.name) for problem in report.problems}
    assert ("oversized", "images/40b.jpg") in found
    assert ("missing", "images/42a.jpg") in found
    assert ("escapes_root", "../secret.jpg") in found and ("escapes_root", "/etc/passwd") in found
    (malformed,) = [problem for problem in report.problems if problem.reason == "malformed_row"]
    assert malformed.message == "train.json row 43: there is no field 'path2'"
    listed = [json.loads(line) for line in (out / "import_problems.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(listed) == 6
    assert report_of(out)["bad_rows"] == 6 and report_of(out)["is_accepted"] is True


def test_above_the_share_of_bad_rows_the_import_fails_after_its_report(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError, match="6 of 46 rows are bad, over the limit of 5%; first: ") as caught:
        import_source("hpdv3", broken_folder(tmp_path / "h"), out)
    assert "\n" not in str(caught.value)
    assert report_of(out)["is_accepted"] is False
    assert not (out / "comparisons.parquet").exists()


def test_a_header_check_passes_truncated_data_and_a_full_one_does_not(tmp_path: Path) -> None:
    root = write_hpdv3(tmp_path / "h", [hpdv3_row(number) for number in range(30)])
    image = root / "images/7a.jpg"
    image.write_bytes(image.read_bytes()[:-100])
    assert import_source("hpdv3", root, tmp_path / "a").bad_rows == 0
    report = import_source("hpdv3", root, tmp_path / "b", verify="full")
    assert [problem.name for problem in report.problems] == ["images/7a.jpg"]


def test_media_stay_in_place_by_relative_path(tmp_path: Path) -> None:
    root = write_hpdv3(tmp_path / "h", [hpdv3_row(0)])
    import_source("hpdv3", root, tmp_path / "out")
    (record,) = ComparisonSet.open(tmp_path / "out").records()
    assert {media.path.resolve().parent for media in record.candidates} == {root / "images"}
    assert all(media.sha256 for media in record.candidates)
    assert not (tmp_path / "out/media").exists()


@pytest.mark.parametrize("mode", ["link", "copy"])
def test_linked_and_copied_media_move_with_the_folder(tmp_path: Path, mode: Any) -> None:
    root = write_hpdv3(tmp_path / "h", [hpdv3_row(0), hpdv3_row(1, path1="images/0a.jpg")])
    import_source("hpdv3", root, tmp_path / "out", media=mode)
    (tmp_path / "out").rename(tmp_path / "moved")
    media = list(ComparisonSet.open(tmp_path / "moved").media())
    # 0a.jpg is in both rows and stored once.
    assert len(media) == 3
    for one in media:
        assert one.path.is_file() and one.path.stem == one.sha256
        assert (one.path.stat().st_nlink > 1) == (mode == "link")


def test_a_data_set_with_nothing_usable_is_an_error(tmp_path: Path) -> None:
    root = write_hpdv3(tmp_path / "h", [])
    with pytest.raises(DataError, match="no comparisons in 0 rows"):
        import_source("hpdv3", root, tmp_path / "out")
    assert report_of(tmp_path / "out")["is_accepted"] is False


def test_comparisons_are_not_replaced_unasked(tmp_path: Path) -> None:
    root = write_hpdv3(tmp_path / "h", [hpdv3_row(0)])
    import_source("hpdv3", root, tmp_path / "out")
    with pytest.raises(UsageError, match="holds comparisons already"):
        import_source("hpdv3", root, tmp_path / "out")
    import_source("hpdv3", root, tmp_path / "out", overwrite=True)


def test_unknown_names_say_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there are: hpdv3, hpdv2"):
        import_source("hpdv9", tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match="no split 'dev'"):
        import_source("hpdv3", tmp_path, tmp_path / "out", split="dev")
    with pytest.raises(DataError, match=r"looked for train\.json, test\.json"):
        import_source("hpdv3", tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match="no such file or folder"):
        import_source("hpdv3", tmp_path / "gone", tmp_path / "out")


def test_the_limit_counts_records_and_progress_counts_rows(tmp_path: Path) -> None:
    root = write_hpdv3(tmp_path / "h", [hpdv3_row(number) for number in range(250)])
    calls: list[int] = []
    report = import_source("hpdv3", root, tmp_path / "out", limit=230, on_progress=calls.append)
    assert report.records == 230
    assert calls == [100, 200, 230]


def test_rows_with_the_same_content_keep_different_ids(tmp_path: Path) -> None:
    root = write_hpdv3(tmp_path / "h", [hpdv3_row(0), hpdv3_row(0)])
    report = import_source("hpdv3", root, tmp_path / "out")
    assert len({pair.id for pair in pairs_of(tmp_path / "out")}) == 2
    assert sum(report.notes.values()) == 1


def test_media_limits_of_the_caller_count(tmp_path: Path) -> None:
    root = write_hpdv3(tmp_path / "h", [hpdv3_row(0)])
    with pytest.raises(DataError, match="over the limit of 100"):
        import_source("hpdv3", root, tmp_path / "out", limits=MediaLimits(max_pixels=100))


def test_an_import_needs_no_torch() -> None:
    code = "import sys, rewarddance.data.importing, rewarddance.data.splits; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
