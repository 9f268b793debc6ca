import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from rewarddance.core.errors import DataError
from rewarddance.reports.alignment_curves import reward_section
from rewarddance.reports.alignment_files import read_alignment
from rewarddance.reports.alignment_sections import alignment_figures, alignment_sections
from rewarddance.reports.alignment_verdicts import guard_section
from rewarddance.reports.html_page import page_html
from rewarddance.reports.line_chart import draw_line_chart
from rewarddance.reports.pictures import is_wide
from rewarddance.reports.run_files import read_run
from rewarddance.reports.run_report import report_run
from rewarddance.reports.sections import (
    Charts,
    Estimate,
    Figures,
    Finding,
    Guide,
    LineChart,
    Page,
    PictureRow,
    PictureSheet,
    PictureSheets,
    Point,
    Section,
    Series,
    Table,
    Timeline,
    TimelineRow,
    Verdict,
)
from rewarddance.reports.timeline import STATE_COLOURS, draw_timeline

STEPS = (0, 20, 40, 60)
HOSTILE = "<script>alert('x')</script>"


def evaluation(step: int, **values: object) -> dict[str, object]:
    """The proxy rises to the end; the held-out judge and gold fall after step 40."""
    known = {
        "optimizer_step": step,
        "proxy": step / 20,
        "proxy_score": 0.5,
        "held_out": {"micro": {0: 0.0, 20: 0.5, 40: 1.0, 60: 0.2}[step]},
        "spread": 0.4,
        "saturation": 0.1,
        "diversity": 0.5 - step / 200,
        "statistics": {"contrast": 0.2},
        "kl": step / 5,
        "extra": {"gold": {0: 0.5, 20: 0.6, 40: 0.7, 60: 0.6}[step]},
        "verdict": "hacking" if step == 60 else "healthy",
        "reason": f"reason {step}",
        "action": "roll_back" if step == 60 else "none",
        "best_step": min(step, 40),
    }
    return known | values


def run_folder(tmp_path: Path, name: str = "refl", rows: list[dict[str, object]] | None = None) -> Path:
    """An alignment run with every file that a report reads."""
    folder = tmp_path / name
    folder.mkdir(parents=True)
    shown = rows if rows is not None else [evaluation(step) for step in STEPS]
    (folder / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shown))
    logged = [{"optimizer_step": step, "reward": 0.1, "kl": None, "method": {"clip_share": 0.2}} for step in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in logged))
    (folder / "config.yaml").write_text("method: {name: refl}\n")
    for step in STEPS:
        place = folder / "samples" / f"step-{step:08d}"
        place.mkdir(parents=True)
        for prompt in range(2):
            for seed in (3, 4):
                Image.new("RGB", (8, 8), (step, 40 * prompt, seed)).save(place / f"{prompt}-{seed}.png")
    prompts = [{"prompt": "a red circle"}, {"prompt": f"a {HOSTILE} star"}]
    (folder / "samples" / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    return folder


def charts_of(section: Section) -> dict[str, LineChart]:
    return {chart.title: chart for block in section.blocks if isinstance(block, Charts) for chart in block.charts}


def heights(series: Series) -> list[float]:
    return [point.y for point in series.points]


def test_a_full_run_has_every_section(tmp_path: Path) -> None:
    rows = [evaluation(step, extra={"gold": 0.5, "kind:counting": 0.5}) for step in STEPS]
    out = report_run([run_folder(tmp_path, rows=rows)], tmp_path / "report.html")
    titles = [
        "Alignment",
        "Before and after",
        "Rewards",
        "Guard",
        "Kinds of prompts",
        "Pictures in numbers",
        "Alignment, step by step",
        "Environment and config",
    ]
    assert re.findall(r"<h2>([^<]*)</h2>", out.read_text()) == titles


def test_an_alignment_and_a_reward_model_share_a_page(tmp_path: Path) -> None:
    trained = tmp_path / "trained"
    trained.mkdir()
    (trained / "metrics.jsonl").write_text('{"optimizer_step": 1, "loss": 0.5}\n')
    out = report_run([trained, run_folder(tmp_path)], tmp_path / "report.html")
    titles = re.findall(r"<h2>([^<]*)</h2>", out.read_text())
    assert {"Key figures", "Training", "Alignment", "Alignment, step by step"} <= set(titles)


def test_a_run_of_another_kind_has_no_alignment_section(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"optimizer_step": 1, "loss": 0.5}\n')
    run = read_run(tmp_path)
    assert run.alignment is None
    assert alignment_sections([run]) == ()
    assert alignment_figures([run]) is None


def test_a_curve_that_hardly_rises_before_it_falls_stays_on_the_axis(tmp_path: Path) -> None:
    gold = (0.5, 0.51, 0.4, 0.3)
    rows = [evaluation(step, extra={"gold": height}) for step, height in zip(STEPS, gold, strict=True)]
    section = reward_section([read_run(run_folder(tmp_path, rows=rows))])
    together = {series.name: heights(series) for series in charts_of(section)["Do they rise together?"].series}
    assert together["gold"] == pytest.approx([0, 0.05, -0.5, -1])


def test_curves_that_part_share_an_axis_in_units_of_their_largest_change(tmp_path: Path) -> None:
    section = reward_section([read_run(run_folder(tmp_path))])
    together = {series.name: heights(series) for series in charts_of(section)["Do they rise together?"].series}
    assert together["proxy"] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert together["held-out micro"] == pytest.approx([0, 0.5, 1, 0.2])
    assert together["gold"] == pytest.approx([0, 0.5, 1, 0.5])  # 0.5, 0.6, 0.7, 0.6: a rise of 0.2


def test_pressure_is_the_square_root_of_the_distance(tmp_path: Path) -> None:
    section = reward_section([read_run(run_folder(tmp_path))])
    places = [point.x for point in charts_of(section)["Gold, by distance"].series[0].points]
    assert places == pytest.approx([0, 2, 8**0.5, 12**0.5])  # distances 0, 4, 8, 12


def test_without_a_distance_there_are_no_curves_over_it(tmp_path: Path) -> None:
    rows = [evaluation(step, kl=None) for step in STEPS]
    section = reward_section([read_run(run_folder(tmp_path, rows=rows))])
    assert not any("distance" in title for title in charts_of(section))


def test_two_runs_have_a_chart_for_each_curve_and_a_line_for_each_run(tmp_path: Path) -> None:
    runs = [read_run(run_folder(tmp_path, name)) for name in ("refl", "flow_grpo")]
    charts = charts_of(reward_section(runs))
    assert [series.name for series in charts["Gold"].series] == ["refl", "flow_grpo"]
    assert "Held-out micro" in charts


def test_two_runs_have_a_table_of_the_policies_that_they_kept(tmp_path: Path) -> None:
    stayed = [evaluation(step, action="none") for step in STEPS]
    runs = [read_run(run_folder(tmp_path, "refl")), read_run(run_folder(tmp_path, "flow_grpo", stayed))]
    (table,) = alignment_figures(runs).blocks
    assert isinstance(table, Table)
    # rolled back to step 40, and left at step 60
    assert table.rows[0] == ("refl", 2.0, 1.0, 0.7, pytest.approx(0.6), "hacking, first at step 60")
    assert table.rows[1] == ("flow_grpo", 3.0, 0.2, 0.6, pytest.approx(0.4), "hacking, first at step 60")


def test_an_interval_stored_beside_a_curve_becomes_its_band(tmp_path: Path) -> None:
    rows = [evaluation(step, extra={"gold": 0.5, "gold_low": 0.4, "gold_high": 0.6}) for step in STEPS]
    charts = charts_of(reward_section([read_run(run_folder(tmp_path, rows=rows))]))
    assert charts["Gold"].series[0].points[0] == Point(0.0, 0.5, 0.4, 0.6)
    assert "Gold low" not in charts


def test_a_page_without_a_held_out_judge_says_what_it_cannot_tell(tmp_path: Path) -> None:
    rows = [evaluation(step, held_out={}, extra={}) for step in STEPS]
    out = report_run([run_folder(tmp_path, rows=rows)], tmp_path / "report.html")
    assert "No held-out judge was asked" in out.read_text()


def test_the_highest_value_is_given_where_the_last_is_not_the_highest(tmp_path: Path) -> None:
    rows = [evaluation(step, action="none") for step in STEPS]
    (block,) = alignment_figures([read_run(run_folder(tmp_path, rows=rows))]).blocks
    assert isinstance(block, Figures)
    notes = {figure.label: figure.note for figure in block.figures}
    assert notes["proxy"] == "log-odds, from 0.000 at step 0"
    assert notes["gold"] == "from 0.500 at step 0\nhighest 0.700 at step 40"
    assert notes["diversity, share of the start's"] == "0.200, was 0.500"


def test_after_a_roll_back_the_figures_are_those_of_the_policy_that_was_kept(tmp_path: Path) -> None:
    (block,) = alignment_figures([read_run(run_folder(tmp_path))]).blocks
    assert isinstance(block, Figures)
    figures = {figure.label: figure for figure in block.figures}
    assert figures["gold"].value == Estimate(0.7)
    assert figures["gold"].note == "from 0.500 at step 0\nof the policy that was kept, step 40"
    assert figures["proxy"].note.endswith("highest 3.000 at step 60\nof the policy that was kept, step 40")


def test_the_gravest_verdict_is_the_one_in_front(tmp_path: Path) -> None:
    rows = [evaluation(step, verdict="warning" if step == 20 else "healthy", action="none") for step in STEPS]
    (block,) = alignment_figures([read_run(run_folder(tmp_path, rows=rows))]).blocks
    assert isinstance(block, Figures)
    assert (block.figures[-1].value, block.figures[-1].note) == ("warning", "first at step 20")


def test_the_first_action_of_a_guard_and_the_last_are_named(tmp_path: Path) -> None:
    rows = [evaluation(20, verdict="hacking", action="raise_kl") if step == 20 else evaluation(step) for step in STEPS]
    (block,) = alignment_figures([read_run(run_folder(tmp_path, rows=rows))]).blocks
    assert isinstance(block, Figures)
    assert block.figures[-1].note == "first at step 20; raise kl at step 20; roll back to step 40 at step 60"


def test_a_stretch_of_one_verdict_is_one_line_with_the_reason_that_opened_it(tmp_path: Path) -> None:
    section = guard_section([read_run(run_folder(tmp_path))])
    (timeline,) = section.blocks
    assert isinstance(timeline, Timeline)
    assert timeline.findings == (
        Finding("steps 0 to 40", "healthy", "reason 0"),
        Finding("step 60", "hacking", "reason 60", "roll back to step 40"),
    )


def test_a_run_without_a_guard_has_no_time_line(tmp_path: Path) -> None:
    rows = [evaluation(step, verdict=None, reason=None, action=None) for step in STEPS]
    assert guard_section([read_run(run_folder(tmp_path, rows=rows))]) is None


def test_the_time_line_has_a_piece_for_each_verdict_in_its_colour() -> None:
    verdicts = (Verdict(0, "healthy"), Verdict(10, "warning"), Verdict(30, "hacking", "stop"))
    svg = ElementTree.fromstring(draw_timeline(Timeline("title", "step", (TimelineRow("run", verdicts),))))
    pieces = [part for part in svg.iter("{http://www.w3.org/2000/svg}rect") if part.attrib["height"] == "20"]
    assert [piece.attrib["fill"] for piece in pieces] == [
        STATE_COLOURS[state] for state in ("healthy", "warning", "hacking")
    ]
    # Borders lie half-way between evaluations: 0 to 5, 5 to 20, 20 to 30.
    widths = [float(piece.attrib["width"]) + 1.5 for piece in pieces]
    assert widths[1] == pytest.approx(3 * widths[0], rel=0.01)
    assert widths[2] == pytest.approx(2 * widths[0], rel=0.01)
    assert "stop" in [text.text for text in svg.iter("{http://www.w3.org/2000/svg}text")]


def test_a_single_verdict_can_be_drawn() -> None:
    svg = draw_timeline(Timeline("title", "step", (TimelineRow("run", (Verdict(20, "unknown"),)),)))
    assert STATE_COLOURS["unknown"] in svg


def test_before_best_and_after_are_shown_with_their_prompts_and_noise(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    sections = {section.title: section for section in alignment_sections([read_run(folder)])}
    (block,) = sections["Before and after"].blocks
    assert isinstance(block, PictureSheets)
    first = block.sheets[0]
    assert (first.prompt, first.columns) == ("a red circle", ("noise 4", "noise 5"))
    assert [row.label for row in first.rows] == ["before, step 0", "kept, step 40", "not kept, step 60"]
    assert first.rows[1].images[1] == folder / "samples" / "step-00000040" / "0-4.png"


def test_pictures_that_training_did_not_make_so_say_how_they_were_made(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    for text, title in (
        ("evaluation_sampling: {denoising_steps: null, guidance: null}\n", "Same prompts, same noise"),
        ("[damaged\n", "Same prompts, same noise"),
        (
            "evaluation_sampling: {denoising_steps: 40, guidance: 4.5}\nsampling: {denoising_steps: 10}\n",
            "Same prompts, same noise; denoising steps 40 (in training 10), "
            "guidance 4.5 (in training the generator's own)",
        ),
    ):
        (folder / "config.yaml").write_text(text)
        sections = {section.title: section for section in alignment_sections([read_run(folder)])}
        (block,) = sections["Before and after"].blocks
        assert isinstance(block, PictureSheets)
        assert block.title == title


@pytest.mark.parametrize(
    ("best", "labels"), [(40, ["before, step 0", "best, step 40", "after, step 60"]), (None, ["step 40"])]
)
def test_a_run_that_was_not_rolled_back_shows_its_best_or_its_middle(
    tmp_path: Path, best: int | None, labels: list[str]
) -> None:
    rows = [evaluation(step, best_step=best, action="none") for step in STEPS]
    sections = {section.title: section for section in alignment_sections([read_run(run_folder(tmp_path, rows=rows))])}
    (block,) = sections["Before and after"].blocks
    assert isinstance(block, PictureSheets)
    assert set(labels) <= {row.label for row in block.sheets[0].rows}


def test_a_picture_that_is_missing_leaves_its_place_empty(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    (folder / "samples" / "step-00000060" / "0-4.png").unlink()
    sections = {section.title: section for section in alignment_sections([read_run(folder)])}
    (block,) = sections["Before and after"].blocks
    assert isinstance(block, PictureSheets)
    assert block.sheets[0].rows[2].images[1] is None


def test_kinds_of_prompts_are_columns_with_their_mean_in_front(tmp_path: Path) -> None:
    rows = [
        evaluation(step, extra={"gold": 0.5, "kind:counting": step / 100, "kind:two_objects": 0.5}) for step in STEPS
    ]
    sections = {section.title: section for section in alignment_sections([read_run(run_folder(tmp_path, rows=rows))])}
    (table,) = sections["Kinds of prompts"].blocks
    assert isinstance(table, Table)
    assert [column.title for column in table.columns] == ["Policy", "Mean of kinds", "counting", "two objects"]
    assert table.rows == (
        ("before, step 0", 0.25, 0.0, 0.5),
        ("kept, step 40", 0.45, 0.4, 0.5),
        ("not kept, step 60", 0.55, 0.6, 0.5),
    )


def test_only_a_roll_back_keeps_another_policy_than_the_last(tmp_path: Path) -> None:
    rows = [evaluation(step, action="none", extra={"kind:counting": 0.5}) for step in STEPS]
    sections = {section.title: section for section in alignment_sections([read_run(run_folder(tmp_path, rows=rows))])}
    (table,) = sections["Kinds of prompts"].blocks
    assert isinstance(table, Table)
    labels = ["before, step 0", "best by held-out judges, step 40", "after, step 60"]
    assert [row[0] for row in table.rows] == labels


def test_figures_inside_figures_of_a_step_get_charts_of_their_own(tmp_path: Path) -> None:
    out = report_run([run_folder(tmp_path)], tmp_path / "report.html")
    assert "<h3>Clip share</h3>" in out.read_text()


def test_a_step_that_was_evaluated_again_after_a_resume_counts_once(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, rows=[evaluation(0), evaluation(20), evaluation(20, proxy=7.0)])
    stored = read_alignment(folder)
    assert [row.proxy for row in stored.evaluations] == [0.0, 7.0]


def test_values_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    row = {"optimizer_step": 0, "proxy": None, "held_out": {"micro": "high"}, "extra": None, "spread": True}
    (stored,) = read_alignment(run_folder(tmp_path, rows=[row])).evaluations
    assert (stored.proxy, stored.held_out, stored.extra, stored.spread) == (None, {}, {}, None)


def test_a_run_that_has_only_begun_can_be_reported_on(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, rows=[])
    (folder / "evaluations.jsonl").write_text('{"optimizer_step": 0, "pro')
    assert "Before and after" in report_run([folder], tmp_path / "report.html").read_text()


@pytest.mark.parametrize("line", ['{"proxy": 1}', "[1]", '{"optimizer_step": 0, "pro\n{}'])
def test_a_damaged_evaluation_file_is_named(tmp_path: Path, line: str) -> None:
    folder = run_folder(tmp_path, rows=[])
    (folder / "evaluations.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match=r"evaluations\.jsonl"):
        read_run(folder)


def test_names_of_events_stand_above_the_curves() -> None:
    line = Series("one", (Point(0, 0.0), Point(100, 1.0)))
    chart = LineChart("title", "x", "y", (line,), y_range=(0.0, 1.0), events=(Guide(30, "early"), Guide(90, "late")))
    svg = ElementTree.fromstring(draw_line_chart(chart))
    names = {text.text: float(text.attrib["y"]) for text in svg.iter() if text.text in ("early", "late")}
    top = min(float(point.split(",")[1]) for point in svg.find("{*}polyline").attrib["points"].split())
    assert names["early"] < names["late"] < top


def test_no_text_of_a_run_can_become_markup(tmp_path: Path) -> None:
    rows = [evaluation(step, held_out={HOSTILE: 0.1 * step}, reason=HOSTILE, action=HOSTILE) for step in STEPS]
    html = report_run([run_folder(tmp_path, rows=rows)], tmp_path / "report.html").read_text()
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_an_unreadable_picture_is_said_to_be_and_a_missing_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"not an image")
    sheet = PictureSheet("prompt", ("seed 0", "seed 1"), (PictureRow("before", (tmp_path / "broken.png", None)),))
    html = page_html(Page("page", (Section("section", (PictureSheets("title", (sheet,)),)),)))
    assert html.count("unreadable") == 1
    assert html.count('class="missing"') == 2


def test_of_clips_whose_frames_stand_in_a_row_one_noise_is_shown(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    for path in (folder / "samples").glob("*/*.png"):
        Image.new("RGB", (1000, 100)).save(path)
    sections = {section.title: section for section in alignment_sections([read_run(folder)])}
    (block,) = sections["Before and after"].blocks
    assert isinstance(block, PictureSheets)
    assert [sheet.columns for sheet in block.sheets] == [("noise 4",), ("noise 4",)]
    assert is_wide(folder / "samples" / "step-00000000" / "0-3.png")
    assert not is_wide(tmp_path / "nowhere.png")
