"""What block mode costs in accuracy: the lab's pairwise model trained in both attention modes, seed by seed.

Both modes learn the same comparisons in the same order from the same base, and are measured against gold on the same
test comparisons, in and out of domain together. The figure is the difference of accuracy in points, blocks less
causal, with a paired interval over prompts. A run that is finished is not made again. Run it with

    python -m benchmarks.block_accuracy --out runs/block_accuracy
"""

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rewarddance.evaluation.judgement_rows import ROWS_NAME, JudgementRow, read_rows
from rewarddance.evaluation.model_comparison import compare_models
from rewarddance.lab.base_models import lab_base
from rewarddance.lab.comparisons import LabData, draw_comparisons, open_drawn
from rewarddance.lab.learning import MIN_GOLD_DIFFERENCE, LabRun, measure, training_config
from rewarddance.lab.reward_study import COUNTS
from rewarddance.rewards.backbones.protocol import AttentionMode
from rewarddance.rewards.folder import RECORD_NAME
from rewarddance.rewards.loading import load_reward_model, new_reward_model
from rewarddance.training.reward_model import train_reward_model

MODES: tuple[AttentionMode, AttentionMode] = ("causal", "blocks")


def rows_of(run: LabRun, mode: AttentionMode, data: LabData) -> list[JudgementRow]:
    """Train one model in one mode and judge the test comparisons with it."""
    finished = run.folder / "model"
    if not (finished / RECORD_NAME).is_file():
        config = training_config(run, data)
        config = config.model_copy(update={"model": config.model.model_copy(update={"attention": mode})})
        model = new_reward_model(run.base, run.kind, seed=run.seed, instruction="none", attention=mode)
        train_reward_model(config, model, resume=(run.folder / "config.yaml").is_file())
    measure(load_reward_model(finished, attention=mode), data, run.folder, f"{mode}-{run.seed}")
    return read_rows(run.folder / ROWS_NAME)


def of_seed(options: argparse.Namespace, seed: int) -> tuple[list[JudgementRow], list[JudgementRow]]:
    """Rows of both modes; ids carry the seed, because every seed draws its own comparisons."""
    folder = options.out / f"data-{seed}"
    counts = {name: max(1, round(count * options.share)) for name, count in COUNTS.items()}
    data = open_drawn(folder) or draw_comparisons(folder, counts, seed)
    both = []
    for mode in MODES:
        run = LabRun(
            lab_base(options.size), options.size, "pairwise", seed, options.out / f"{options.size}-{mode}-{seed}"
        )
        both.append([replace(row, id=f"{seed}/{row.id}") for row in rows_of(run, mode, data)])
    return both[0], both[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", default="small", choices=["nano", "micro", "small"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--share", type=float, default=1.0, help="of the lab's usual number of comparisons")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds = [of_seed(options, seed) for seed in options.seeds]
    settings: dict[str, Any] = {"against": "gold", "min_gold_difference": MIN_GOLD_DIFFERENCE}
    each = [compare_models(causal, blocks, **settings).to_json() for causal, blocks in seeds]
    whole = compare_models(
        [row for causal, _ in seeds for row in causal], [row for _, blocks in seeds for row in blocks], **settings
    ).to_json()
    lost = [100 * (one["accuracy_first"] - one["accuracy_second"]) for one in each]
    result = {
        "size": options.size,
        "seeds": options.seeds,
        "points_lost": {"mean": statistics.mean(lost), "by_seed": lost},
        "all_seeds": whole,
        "by_seed": each,
    }
    print(json.dumps(result["points_lost"], indent=2))
    print(json.dumps(whole, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
