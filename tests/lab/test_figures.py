import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from rewarddance.core.errors import UsageError
from rewarddance.lab.figures import (
    FIGURES,
    alignment_figures,
    context_figures,
    describing_figures,
    guard_figures,
    reasoning_figures,
    search_figures,
    write_figures,
)

DOCS = Path(__file__).parents[2] / "docs"


def recorded(study):
    return json.loads((DOCS / "results" / f"{study}.json").read_text(encoding="utf-8"))


def test_the_figures_of_the_documentation_are_those_of_the_recorded_results(tmp_path):
    written = write_figures(DOCS / "results", tmp_path)
    assert {file.name for file in written} == {file.name for file in (DOCS / "images").glob("*.svg")}
    for file in written:
        assert file.read_text() == (DOCS / "images" / file.name).read_text(), (
            f"run `rewarddance lab figures`: {file.name}"
        )


def test_every_figure_stands_in_the_documentation_with_a_description():
    page = (DOCS / "experiments.md").read_text(encoding="utf-8")
    for file in (DOCS / "images").glob("*.svg"):
        assert f"](images/{file.name})" in page
        assert f"![]({file.name})" not in page


def test_a_figure_is_a_document_of_its_own(tmp_path):
    for file in write_figures(DOCS / "results", tmp_path):
        root = ElementTree.parse(file).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert float(root.attrib["width"]) > 500


def test_without_results_there_are_no_figures(tmp_path):
    with pytest.raises(UsageError, match="lab study"):
        write_figures(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_study_that_was_not_made_is_left_out(tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    (results / "guard.json").write_text(json.dumps(recorded("guard")))
    assert [file.name for file in write_figures(results, tmp_path / "out")] == ["guard.svg"]


def test_gold_is_the_mean_of_the_runs_of_a_size():
    def run(size, golds):
        steps = [
            {"optimizer_step": 20 * place, "proxy": 0.0, "spread": 1.0, "extra": {"gold": gold}}
            for place, gold in enumerate(golds)
        ]
        return {"way": "refl", "size": size, "evaluations": steps}

    rows = [run(size, golds) for size in ("nano", "micro", "small") for golds in ((0.5, 0.6), (0.5, 0.8))]
    first = alignment_figures({"rows": rows})["alignment_gold"].series[0]
    assert [point.x for point in first.points] == [0, 20]
    assert [point.y for point in first.points] == pytest.approx([0.5, 0.7])
    # two runs: half of the interval is t = 12.7 times the standard error, 0.1
    assert first.points[1].high - first.points[1].y == pytest.approx(1.27, abs=0.01)


def test_a_single_run_has_no_band_and_a_size_without_runs_no_line():
    steps = [{"optimizer_step": 20 * place, "proxy": 0.0, "spread": 1.0, "extra": {"gold": 0.5}} for place in (0, 1)]
    chart = alignment_figures({"rows": [{"way": "refl", "size": "micro", "evaluations": steps}]})["alignment_gold"]
    assert [line.name for line in chart.series] == ["micro"]
    assert (chart.series[0].points[0].low, chart.series[0].points[0].high) == (None, None)
    assert "1 runs a size" in chart.title


def test_a_part_that_was_not_made_gives_no_figure(tmp_path):
    found = {"caught": 0, "catch_interval": [0.0, 1.0], "false_alarms": 0, "false_alarm_interval": [0.0, 1.0]}
    no_runs = {**found, "hacking_runs": 0, "healthy_runs": 5, "guard_defaults": found, "spread_alone": found}
    assert alignment_figures({"rows": []}) == {}
    assert guard_figures({"summary": no_runs}) == {}
    assert context_figures({"summary": {"instructions": {}}}) == {}
    assert reasoning_figures({"summary": {}}).keys() <= {"reasoning"}
    assert search_figures({"frontier": {}}) == {}


def test_a_damaged_results_file_is_named(tmp_path):
    (tmp_path / "guard.json").write_text('{"summary": 3}')
    with pytest.raises(UsageError, match=r"guard\.json is damaged"):
        write_figures(tmp_path, tmp_path / "out")


def test_detectors_are_shares_of_their_own_runs():
    found = {"caught": 3, "catch_interval": [0.3, 0.9], "false_alarms": 1, "false_alarm_interval": [0.0, 0.5]}
    summary = {**found, "hacking_runs": 4, "healthy_runs": 5, "guard_defaults": found, "spread_alone": found}
    caught, false = guard_figures({"summary": summary})["guard"].rows[0].estimates
    assert (caught.value, caught.low, caught.high) == (0.75, 0.3, 0.9)
    assert false.value == pytest.approx(0.2)


def test_the_frontier_goes_by_what_was_spent():
    def way(velocities, gold):
        return {"budget": {"velocities": velocities}, "gold": {"estimate": gold, "low": gold, "high": gold}}

    frontier = {"whole": {"small": {"paths": way(126, 0.7)}}, "half": {"small": {"paths": way(64, 0.6)}}}
    charts = search_figures({"frontier": frontier})
    assert list(charts) == ["search_small"]
    assert [(point.x, point.y) for point in charts["search_small"].series[0].points] == [(64, 0.6), (126, 0.7)]


def test_what_a_study_has_not_reached_is_left_blank():
    gain = {"test_out": {"gain_by_prompt": {"estimate": 0.1, "low": 0.0, "high": 0.2}}}
    chart = context_figures({"summary": {"instructions": {"micro": {"none": gain, "generic": gain}}}})["instructions"]
    assert [row.label for row in chart.rows] == ["micro"]
    assert [one and one.value for one in chart.rows[0].estimates] == [0.1, None]


def test_the_learning_curve_has_its_points_in_order():
    def ways(value):
        mean = {"mean": value, "low": value, "high": value}
        return {way: {"test_out": {"accuracy": mean}} for way in ("plain", "answer_first")}

    curve = reasoning_figures({"summary": {"micro": {"2000": ways(0.9), "500": ways(0.8)}}})["rationales_curve"]
    assert [point.x for point in curve.series[0].points] == [500, 2000]


def test_a_study_of_many_comparisons_and_few_has_a_row_for_each_and_a_mark_for_what_was_asked():
    gain = {"test_out": {"gain_by_prompt": {"estimate": 0.1, "low": 0.0, "high": 0.2}}}
    found = dict.fromkeys(("plain", "answer_first", "reason_first"), gain) | {"words_right": {}}
    chart = describing_figures("alone", "A base", {"summary": {"small": {"4000": found, "1000": found}}})["alone"]
    assert [row.label for row in chart.rows] == ["4000 comparisons", "1000 comparisons"]
    assert [len(row.estimates) for row in chart.rows] == [2, 2]


def test_every_study_with_figures_has_recorded_results():
    assert all((DOCS / "results" / f"{study}.json").is_file() for study in FIGURES)
