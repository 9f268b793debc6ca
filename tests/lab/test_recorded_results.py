from pathlib import Path

from rewarddance.core.files import write_json_atomic
from rewarddance.lab.recorded_results import joined, recorded


def test_a_study_that_has_left_nothing_begins_with_nothing(tmp_path: Path):
    assert recorded(tmp_path / "alignment.json") == {}
    write_json_atomic(tmp_path / "alignment.json", {"rows": [1]})
    assert recorded(tmp_path / "alignment.json") == {"rows": [1]}


def test_parts_are_joined_in_the_order_of_the_study_and_the_new_row_counts():
    earlier = [{"run": "b", "gold": 1}, {"run": "a", "gold": 1}, {"run": "of another study", "gold": 1}]
    made = [{"run": "c", "gold": 2}, {"run": "b", "gold": 2}]
    rows = joined(earlier, made, ["a", "b", "c", "d"], lambda row: row["run"])
    assert rows == [{"run": "a", "gold": 1}, {"run": "b", "gold": 2}, {"run": "c", "gold": 2}]
