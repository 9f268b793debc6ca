import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rewarddance.core.errors import UsageError
from rewarddance.lab.demo import REPORT_NAME, SUMMARY_NAME, DemoSettings, run_demo


@contextmanager
def silent(_: str, __: int | None) -> Iterator[Callable[[int], None]]:
    yield lambda done: None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = DemoSettings(
        tmp_path_factory.mktemp("demo"), train=64, test=20, epochs=1, alignment_steps=10, searched_prompts=3
    )
    run_demo(settings, silent)
    return settings.folder


def test_the_demo_ends_with_a_page_and_a_summary_of_both_models(folder: Path) -> None:
    page = (folder / REPORT_NAME).read_text()
    summary = json.loads((folder / SUMMARY_NAME).read_text())
    assert page.count("data:image/png;base64") > 10
    assert set(summary["models"]) == {"pairwise", "scalar"}
    assert set(summary["models"]["pairwise"]) == {"in domain", "out of domain"}


def test_the_demo_aligns_the_generator_and_says_what_became_of_gold(folder: Path) -> None:
    alignment = json.loads((folder / SUMMARY_NAME).read_text())["alignment"]
    assert alignment["optimizer_steps"] == 10
    assert 0.4 < alignment["gold_before"] < 0.7
    assert (folder / "aligned" / "generator" / "model_index.json").is_file()


def test_the_demo_searches_and_says_what_the_winners_are_worth(folder: Path) -> None:
    search = json.loads((folder / SUMMARY_NAME).read_text())["search"]
    assert search["best_of_n"]["velocities"] >= search["plain"]["velocities"]
    assert search["paths"]["velocities"] == pytest.approx(search["best_of_n"]["velocities"], rel=0.1)
    assert all(0 <= search[way]["gold"] <= 1 for way in ("plain", "best_of_n", "paths"))
    assert (folder / "search" / "paths" / "contact_sheet.png").is_file()
    assert "Search at inference" in (folder / REPORT_NAME).read_text()


def test_a_finished_demo_is_not_made_again(folder: Path) -> None:
    weights = folder / "pairwise" / "model" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    run_demo(DemoSettings(folder, train=64, test=20, epochs=1, alignment_steps=10, searched_prompts=3), silent)
    assert weights.stat().st_mtime_ns == before


def test_a_folder_with_another_demo_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="other settings"):
        run_demo(DemoSettings(folder, train=65, test=20, epochs=1), silent)
