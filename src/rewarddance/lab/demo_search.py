"""The demo's last stage: what search at inference finds with the same reward model and the generator as it was.

Best of N spends at least as many velocities on each held-out prompt as search over paths; the pairwise model scores
against its reference images, and the scalar model, which chose nothing, watches. Gold is asked at the end.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rewarddance.core.seeding import numpy_rng
from rewarddance.data.prompts import PromptItem
from rewarddance.data.references import ReferenceStore
from rewarddance.generators.loading import load_generator
from rewarddance.lab.generator_weights import lab_generator
from rewarddance.lab.gold import judge_picture
from rewarddance.lab.prompts import parse_prompt
from rewarddance.metrics.bootstrap import bootstrap_mean
from rewarddance.reports.json_files import read_json_lines
from rewarddance.reports.sections import (
    Column,
    Estimate,
    PictureRow,
    PictureSheet,
    PictureSheets,
    Section,
    Table,
)
from rewarddance.rewards.loading import load_reward_model
from rewarddance.search.bench import Drawing
from rewarddance.search.best_of_n import BestOfNSettings, covering_candidates
from rewarddance.search.output import ROWS_NAME, SUMMARY_NAME, SearchWriter
from rewarddance.search.path_search import PathSettings, path_budget
from rewarddance.search.running import Algorithm, Search, run_searches
from rewarddance.search.verification import Verifier

_SHOWN_PROMPTS = 6
_DRAWING = Drawing(batch_size=64)
_LABELS = {
    "plain": "one picture",
    "best_of_n": "best of N",
    "paths": "search over paths",
}


@dataclass(frozen=True, slots=True)
class DemoSearch:
    """What is searched with what.

    Attributes:
        folder: Where the searches are written; what is finished there is not made again.
        prompts: Not among those that the generator was tuned on.
        references: Folder of reference images, for the verifier.
        verifier: Pairwise reward model that chooses.
        judge: Reward model that watches.
        seed: Decides all noise.
    """

    folder: Path
    prompts: tuple[PromptItem, ...]
    references: Path
    verifier: Path
    judge: Path
    seed: int


@dataclass(frozen=True, slots=True)
class Found:
    """What one way came to.

    Attributes:
        name: Of the way.
        pictures: The chosen picture of each prompt.
        gold: Its true score, a prompt each.
        velocities: Spent on each prompt.
        watch: What the held-out judge said of the verifier's choices, in a word; empty for the plain picture.
    """

    name: str
    pictures: tuple[Path, ...]
    gold: tuple[float, ...]
    velocities: float
    watch: str = ""

    @property
    def estimate(self) -> Estimate:
        """Mean gold with its 95 % bootstrap interval over prompts."""
        rng = numpy_rng(0, "demo search", self.name)
        mean = bootstrap_mean(np.array(self.gold), np.arange(len(self.gold)), rng)
        return Estimate(mean.estimate, mean.low, mean.high)


def search_in_demo(
    job: DemoSearch, stage: Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]
) -> tuple[Found, ...]:
    """Run the searches, or what is left of them: a plain picture, best of N, search over paths."""
    generator = load_generator(str(lab_generator()))
    store = ReferenceStore.open(job.references)
    references = {item.prompt: store.best(item.prompt, 1) for item in job.prompts}
    verifier, judge = Verifier(load_reward_model(job.verifier), references=references), load_reward_model(job.judge)
    paths, sigmas = PathSettings(seed=job.seed), _DRAWING.sigmas(generator)
    candidates = covering_candidates(
        path_budget(paths, sigmas, verifier), len(sigmas) - 1, verifier, measure="velocities"
    )
    ways: dict[str, Algorithm] = {"best_of_n": BestOfNSettings(candidates, job.seed), "paths": paths}
    for name, settings in ways.items():
        search = Search(generator, verifier, settings, _DRAWING, judge)
        with stage(f"searching: {_LABELS[name]}", len(job.prompts)) as show:
            writer = SearchWriter(job.folder / name, {"way": name, **asdict(settings)})
            run_searches(search, job.prompts, writer, show)
    return (_plain(job, len(sigmas) - 1), _read(job, "best_of_n"), _read(job, "paths"))


def summary_of(found: Sequence[Found]) -> dict[str, Any]:
    """Gold with its interval, by way."""
    return {
        one.name: {**_named(one.estimate), "velocities": one.velocities, **({"watch": one.watch} if one.watch else {})}
        for one in found
    }


def search_section(found: Sequence[Found], prompts: Sequence[PromptItem]) -> Section:
    """Table and pictures of the searches."""
    rows = tuple((_LABELS[one.name], one.velocities, one.estimate, one.watch or None) for one in found)
    columns = (
        Column("", is_text=True),
        Column("velocities a prompt", decimals=0),
        Column("gold", best="highest"),
        Column("held-out judge", is_text=True),
    )
    sheets = tuple(
        PictureSheet(
            item.prompt,
            tuple(_LABELS[one.name] for one in found),
            (PictureRow("chosen", tuple(one.pictures[place] for one in found)),),
        )
        for place, item in enumerate(prompts[:_SHOWN_PROMPTS])
    )
    return Section(
        "Search at inference",
        (
            Table(columns, rows, caption="Gold over the held-out prompts, 95 % bootstrap interval over prompts."),
            PictureSheets("The first prompts", sheets),
        ),
        "The generator as it was before tuning; the reward model chooses among its pictures, or among its paths. Gold "
        "chose nothing.",
    )


def _read(job: DemoSearch, name: str) -> Found:
    rows, folder = _rows(job, name), job.folder / name
    pictures = tuple(folder / row["candidates"][row["winner"]]["picture"] for row in rows)
    watch = json.loads((folder / SUMMARY_NAME).read_text(encoding="utf-8"))["watch"]["finding"]
    return _found(job, name, pictures, sum(row["spent"]["velocities"] for row in rows) / len(rows), watch)


def _plain(job: DemoSearch, denoising_steps: int) -> Found:
    """The first candidate of best of N: a picture that nobody chose."""
    rows, folder = _rows(job, "best_of_n"), job.folder / "best_of_n"
    return _found(job, "plain", tuple(folder / row["candidates"][0]["picture"] for row in rows), denoising_steps)


def _rows(job: DemoSearch, name: str) -> list[Mapping[str, Any]]:
    by_prompt = {row["prompt"]: row for row in read_json_lines(job.folder / name / ROWS_NAME)}
    return [by_prompt[item.prompt] for item in job.prompts]


def _found(job: DemoSearch, name: str, pictures: tuple[Path, ...], velocities: float, watch: str = "") -> Found:
    gold = tuple(
        judge_picture(np.asarray(Image.open(path).convert("RGB"), dtype=np.float64) / 255, parse_prompt(item.prompt))
        for path, item in zip(pictures, job.prompts, strict=True)
    )
    return Found(name, pictures, tuple(one.overall for one in gold), velocities, watch)


def _named(estimate: Estimate) -> dict[str, float | None]:
    return {"gold": estimate.value, "gold_low": estimate.low, "gold_high": estimate.high}
