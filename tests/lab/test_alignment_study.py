import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml

from rewarddance.core.errors import UsageError
from rewarddance.core.files import write_json_atomic
from rewarddance.lab.alignment import LabAlignment, alignment_config, require_made_as
from rewarddance.lab.alignment_study import (
    WAYS,
    AlignmentCell,
    alignment_cells,
    guarded_summary,
    write_alignment_results,
)
from rewarddance.lab.reference_alignment import CANDIDATES
from rewarddance.lab.seeds import mean_and_half_width


def test_cells_come_seed_by_seed_so_that_a_study_cut_short_has_whole_columns():
    cells = alignment_cells((0, 1))
    assert len(cells) == 2 * 3 * 3 * 3
    assert {cell.seed for cell in cells[:27]} == {0}
    assert len({cell.name for cell in cells}) == len(cells)


def test_a_half_width_is_that_of_the_t_distribution():
    # standard error 0.1 / sqrt(3) = 0.0577; t(0.975, 2) = 4.303; half width 0.248
    assert mean_and_half_width([0.7, 0.8, 0.9]) == pytest.approx((0.8, 0.248), abs=5e-4)


def test_the_summary_is_of_gains_over_seeds():
    rows = [
        {"seed": seed, "gold_before": 0.5, "gold_after": 0.5 + gain, "diversity_before": 0.4, "diversity_after": 0.36}
        for seed, gain in enumerate((0.09, 0.10, 0.11))
    ]
    # gains 0.09, 0.10, 0.11: standard error 0.00577, t 4.303, half width 0.0248; 0.36 / 0.4 = 0.9
    summary = guarded_summary(rows)
    assert summary["gold_gain"] == pytest.approx(0.10)
    assert summary["gold_gain_low"] == pytest.approx(0.0752, abs=1e-4)
    assert summary["gold_gain_high"] == pytest.approx(0.1248, abs=1e-4)
    assert summary["diversity_ratio"] == pytest.approx(0.9)
    assert summary["seeds"] == [0, 1, 2]


def test_a_single_seed_has_no_interval():
    row = {"seed": 0, "gold_before": 0.5, "gold_after": 0.6, "diversity_before": 0.4, "diversity_after": 0.4}
    summary = guarded_summary([row])
    assert summary["gold_gain"] == pytest.approx(0.1)
    assert (summary["gold_gain_low"], summary["gold_gain_high"]) == (None, None)


def _row(step: int) -> dict[str, object]:
    return {"optimizer_step": step, "spread": 1.0, "diversity": 1.0, "proxy": float(step), "extra": {"gold": 0.5}}


def _run(cell: AlignmentCell, every: int) -> dict[str, object]:
    steps = range(0, WAYS[cell.way].optimizer_steps + 1, every)
    evaluations = [_row(step) for step in steps]
    return {"run": cell.name, **asdict(cell), "ending": "complete", "drawing": 0, "evaluations": evaluations}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for cell in alignment_cells((0,)):
        accuracy = {split: {"accuracy": {"estimate": 0.9}} for split in ("test_in", "test_out")}
        write_json_atomic(_made(tmp_path / f"{cell.size}-{cell.kind}-4000-0") / "row.json", accuracy)
    return tmp_path


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def test_a_study_made_in_parts_keeps_what_was_made_with_its_settings(tmp_path: Path, models: Path):
    kept, other = (
        _run(cell, WAYS[cell.way].evaluate_every if cell.way == "flow_grpo" else 1)
        for cell in alignment_cells((0,), ("nano",), ("scalar",), ("flow_grpo", "refl"))
    )
    figures = {"gold_before": 0.5, "gold_after": 0.6, "diversity_before": 1.0, "diversity_after": 1.0}
    guarded = [{"seed": seed, **figures} for seed in (0, 1)]
    write_json_atomic(tmp_path / "alignment.json", {"guarded": guarded, "rows": [kept, other]})
    write_alignment_results(tmp_path / "alignment.json", [], [], (0,), models)
    stored = json.loads((tmp_path / "alignment.json").read_text())
    # looked at every step, the run by ReFL is none of this study
    assert [row["run"] for row in stored["rows"]] == stored["made_earlier"] == ["nano-scalar-flow_grpo-0"]
    assert stored["guarded"] == guarded
    assert stored["summary"]["gold_gain"] == pytest.approx(0.1)
    assert stored["is_complete"] is False


def test_a_study_is_complete_with_every_run_of_every_seed_and_part(tmp_path: Path, models: Path):
    path = tmp_path / "alignment.json"
    rows = [_run(cell, WAYS[cell.way].evaluate_every) for cell in alignment_cells((0,))]
    figures = {"gold_before": 0.5, "gold_after": 0.6, "diversity_before": 1.0, "diversity_after": 1.0}
    chosen = [{"kind": kind, "seed": 0, "gold": [0.5], "gold_before": 0.5} for kind in CANDIDATES]

    def is_complete(guarded, references):
        write_json_atomic(path, {"rows": rows})
        write_alignment_results(path, guarded, [], (0,), models, references)
        return json.loads(path.read_text())["is_complete"]

    assert is_complete([{"seed": 0, **figures}], chosen)
    assert not is_complete([{"seed": 0, **figures}], chosen[:1])
    assert not is_complete([], chosen)
    assert not is_complete([{"seed": seed, **figures} for seed in (0, 1)], chosen)


def test_what_another_part_has_made_of_other_seeds_stays(tmp_path: Path, models: Path):
    path = tmp_path / "alignment.json"
    known = [{"kind": kind, "seed": seed, "gold": [0.5], "gold_before": 0.5} for seed in (0, 1) for kind in CANDIDATES]
    write_json_atomic(path, {"rows": [], "references": {"rows": known}})
    write_alignment_results(path, [], [], (0, 1), models, [{**known[0], "gold": [0.9]}])
    stored = json.loads(path.read_text())["references"]["rows"]
    assert [row["gold"] for row in stored] == [[0.9]] + [[0.5]] * 7


def test_a_finished_run_of_other_settings_is_refused(tmp_path: Path):
    run = LabAlignment(tmp_path, tmp_path, tmp_path, tmp_path / "reward", (tmp_path / "judge",))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(alignment_config(run).model_dump(mode="json")))
    require_made_as(run)
    require_made_as(replace(run, judges=(tmp_path / "elsewhere",)))
    for change in ({"optimizer_steps": 50}, {"learning_rate": 1.0}, {"judges": ()}, {"evaluation_prompts": 5}):
        with pytest.raises(UsageError, match=r"is a run with another .*; give another --out"):
            require_made_as(replace(run, **change))
