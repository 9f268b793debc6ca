"""`rewarddance overoptimization`: follow a reward model through best of n, beside a second judge."""

import hashlib
from json import dumps as json_of
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rewarddance.cli.model_names import judge_location
from rewarddance.cli.options import (
    Adapter,
    AsJson,
    Device,
    Dtype,
    Instruction,
    Kind,
    MaxFailedShare,
    Model,
    Revision,
    TrustRemoteCode,
    criteria,
    place_option,
)
from rewarddance.cli.output import number_in_words, print_json, print_table
from rewarddance.cli.progress import hide_transformers_bars
from rewarddance.cli.search_settings import best_references
from rewarddance.core.errors import UsageError
from rewarddance.core.fingerprints import model_fingerprint

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from rewarddance.core.types import Media
    from rewarddance.evaluation.overoptimization import BestOfNCurve
    from rewarddance.rewards.protocol import RewardModel
    from rewarddance.search.candidate_table import CandidateTable

MANIFEST_NAME, JUDGEMENTS_NAME = "manifest.jsonl", "judgements.jsonl"
CURVE_NAME, REPORT_NAME = "curve.json", "report.html"


def overoptimization(
    search: Annotated[
        Path,
        typer.Argument(metavar="SEARCH", exists=True, file_okay=False, help="Folder of a best-of-n search by scores."),
    ],
    model: Model,
    out: Annotated[Path | None, place_option("Folder of the curve; `overoptimization` in SEARCH if left out.")] = None,
    references: Annotated[
        Path | None,
        typer.Option(help="Folder of `rewarddance references`, for a pairwise MODEL.", show_default=False),
    ] = None,
    instruction: Instruction = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures that are judged together.")] = 16,
    max_failed_share: MaxFailedShare = 0.0,
    adapter: Adapter = None,
    revision: Revision = None,
    kind: Kind = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
    json: AsJson = False,
) -> None:
    """Have a second reward MODEL judge every candidate of a search, and see where it parts from the first.

    The reward model that the search followed is the proxy; MODEL stands where in the lab gold would. Judgements are
    kept, and the same command continues.
    """
    from rewarddance.cli.manifest import judge_manifest
    from rewarddance.evaluation.overoptimization import best_of_n_curve, write_curves
    from rewarddance.reports.html_page import write_page
    from rewarddance.reports.overoptimization_page import overoptimization_page
    from rewarddance.rewards.instructions import load_instruction
    from rewarddance.search.candidate_table import read_candidates
    from rewarddance.serving.manifest import Manifest

    table, location = read_candidates(search), judge_location(model)
    named = criteria(instruction)
    folder = out or search / "overoptimization"
    shown = {} if references is None else best_references(references, table.prompts, 1)
    _write_manifest(folder / MANIFEST_NAME, table, shown)
    judged_by = model_fingerprint(location, adapter, revision, kind)
    same_criteria = (None if named is None else load_instruction(named).sha256) == table.settings.get("instruction")
    if judged_by == table.settings.get("model") and same_criteria:
        raise UsageError(f"{model} is the reward model that the search followed; a second judge has to be another one")
    # Pictures of another search may have the same names: its settings are part of what was judged.
    made_by = hashlib.sha256(json_of(table.settings, sort_keys=True).encode()).hexdigest()
    manifest = Manifest.open(folder / MANIFEST_NAME, named, f"{judged_by} {made_by}")

    def load() -> "RewardModel":
        from rewarddance.rewards.loading import load_reward_model

        hide_transformers_bars()
        judge = load_reward_model(
            location,
            device=device,
            dtype=dtype,
            adapter=adapter,
            revision=revision,
            kind=kind,
            trust_remote_code=trust_remote_code,
        )
        if judge.kind == "pairwise" and not shown:
            raise UsageError("a pairwise MODEL judges against reference images; give --references, or another MODEL")
        return judge

    summary = judge_manifest(lambda: load().judge, manifest, folder / JUDGEMENTS_NAME, batch_size)
    judged = _judged(folder / JUDGEMENTS_NAME, table)
    curve = best_of_n_curve(search.name, table.rewards, judged, measured_by="second judge")
    command = f"rewarddance overoptimization {search} {model}"
    write_curves(folder / CURVE_NAME, [curve], {"command": command, "search": str(search), "judge": model})
    facts = (("search", str(search)), ("second judge", model), ("command", command))
    write_page(overoptimization_page([curve], facts), folder / REPORT_NAME)
    _print_curve(curve, folder, as_json=json)
    raise typer.Exit(0 if summary.failed <= max_failed_share * summary.rows else 1)


def _write_manifest(path: Path, table: "CandidateTable", references: "Mapping[str, tuple[Media, ...]]") -> None:
    """One row a picture, in the order of the table."""
    from rewarddance.core.files import write_text_atomic

    path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for prompt, pictures in zip(table.prompts, table.pictures, strict=True):
        beside = {"reference_image": str(references[prompt][0].path.resolve())} if references else {}
        rows += [{"prompt": prompt, "candidate": str(picture), **beside} for picture in pictures if picture is not None]
    write_text_atomic(path, "".join(json_of(row) + "\n" for row in rows))


def _judged(path: Path, table: "CandidateTable") -> "NDArray[np.float64]":
    """Log-odds in the shape of the table; NaN where there is no judgement."""
    from json import loads

    import numpy as np

    rewards = np.full(table.rewards.shape, np.nan)
    lines = iter(path.read_text(encoding="utf-8").split("\n"))
    for row, pictures in enumerate(table.pictures):
        for column, picture in enumerate(pictures):
            if picture is not None:
                reward = loads(next(lines))["reward"]
                rewards[row, column] = np.nan if reward is None else reward
    return rewards


def _print_curve(curve: "BestOfNCurve", folder: Path, as_json: bool) -> None:
    if as_json:
        from rewarddance.evaluation.overoptimization import curve_to_json

        print_json(curve_to_json(curve))
        return
    rows = [
        (
            str(point.n),
            f"{point.kl:.3f}",
            *(
                f"{gain.estimate:+.3f} [{number_in_words(gain.low, '+.3f')}, {number_in_words(gain.high, '+.3f')}]"
                for gain in (point.proxy_gain, point.gold_gain)
            ),
        )
        for point in curve.points
    ]
    print_table(("n", "KL", "proxy, gain", f"{curve.measured_by}, gain"), rows)
    print(f"{curve.n_prompts} prompts, {curve.n_left_out} left out; {folder / REPORT_NAME}")
