"""Before and after: pictures of the same prompts and seeds at some moments of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from rewarddance.reports.alignment_curves import best_step, evaluations_of, kept_step
from rewarddance.reports.alignment_files import Sample
from rewarddance.reports.pictures import is_wide
from rewarddance.reports.run_files import RunFiles
from rewarddance.reports.sections import PictureRow, PictureSheet, PictureSheets, Section

_PROMPTS, _SEEDS, _WIDE_SEEDS = 6, 4, 1


def pictures_section(runs: Sequence[RunFiles]) -> Section | None:
    """A sheet for each of the first prompts of each run: noises from left to right, moments from top to bottom.

    Of clips, whose frames stand in a row, one noise is shown.
    """
    blocks = []
    for run in runs:
        sheets = _sheets(run)
        if sheets:
            title = "Same prompts, same noise" if len(runs) == 1 else run.name
            blocks.append(PictureSheets(title + _other_sampling(run), sheets))
    intro = "What the policy makes of the same noise before, during and after. Nothing was picked by hand or by score."
    return Section("Before and after", tuple(blocks), intro) if blocks else None


def _other_sampling(run: RunFiles) -> str:
    """How evaluations made pictures, where that was not how training did."""
    try:
        config: Any = yaml.safe_load(run.config)
    except yaml.YAMLError:
        return ""
    blocks = [config.get(name) if isinstance(config, dict) else None for name in ("evaluation_sampling", "sampling")]
    own, training = (block if isinstance(block, dict) else {} for block in blocks)
    words = []
    for name in ("denoising_steps", "guidance"):
        if own.get(name) is not None:
            trained = training.get(name)
            before = "the generator's own" if trained is None else trained
            words.append(f"{name.replace('_', ' ')} {own[name]} (in training {before})")
    return f"; {', '.join(words)}" if words else ""


def _sheets(run: RunFiles) -> tuple[PictureSheet, ...]:
    if run.alignment is None:
        return ()
    samples = {(sample.optimizer_step, sample.prompt, sample.seed): sample for sample in run.alignment.samples}
    moments = _moments(run, sorted({step for step, _, _ in samples}))
    sheets = []
    for prompt in sorted({prompt for _, prompt, _ in samples})[:_PROMPTS]:
        own = {seed: sample for (_, other, seed), sample in samples.items() if other == prompt}
        seeds = sorted(own)[: _WIDE_SEEDS if is_wide(next(iter(own.values())).path) else _SEEDS]
        rows = tuple(
            PictureRow(label, tuple(_path(samples.get((step, prompt, seed))) for seed in seeds))
            for step, label in moments
        )
        known = run.alignment.prompts
        text = known[prompt] if prompt < len(known) else f"prompt {prompt}"
        sheets.append(PictureSheet(text, tuple(f"noise {seed + 1}" for seed in seeds), rows))
    return tuple(sheets)


def _moments(run: RunFiles, steps: Sequence[int]) -> list[tuple[int, str]]:
    """First and last, and between them the one that the guard holds for the best, else one in the middle."""
    rows = evaluations_of(run)
    best, end = best_step(run), kept_step(run)
    kept = end if rows and end != rows[-1].optimizer_step else None
    between = [best] if best in steps[1:-1] else steps[len(steps) // 2 : -1][:1]
    shown = dict.fromkeys(step for step in (*steps[:1], *between, *steps[-1:]) if step is not None)
    return [(step, _label(step, steps, best, kept)) for step in shown]


def _label(step: int, steps: Sequence[int], best: int | None, kept: int | None) -> str:
    if step == steps[0]:
        return f"before, and kept: step {step}" if step == kept else f"before, step {step}"
    if step == kept:
        return f"kept, step {step}"
    if step == steps[-1]:
        return f"after, step {step}" if kept is None else f"not kept, step {step}"
    return f"best, step {step}" if step == best else f"step {step}"


def _path(sample: Sample | None) -> Path | None:
    return None if sample is None else sample.path
