"""Forward and backward pass of learning from a batch: what the questions share read once, beside padded questions.

The same weights and questions, and a random direction in the place of a loss; answers and gradients of both routes
must agree before anything is measured. The two take turns in one process, and the figure is the ratio of the medians,
because other programs may share the machine. Rows differ in the criteria of the question: none, one sentence, or those
of text-to-image; the last is what `rewarddance train` asks by. Run it with

    python -m benchmarks.learning_step --json docs/results/learning_step.json
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.engine_models import SMALL, build
from rewarddance.lab.base_models import lab_base
from rewarddance.rewards.backbones.loading import load_backbone
from rewarddance.rewards.backbones.protocol import EncodedQuestion, QuestionBatch
from rewarddance.rewards.backbones.vision_language import VisionLanguageBackbone
from rewarddance.rewards.instructions import stored_instruction

MODELS = {"lab:small": (32, 32), "8b": (4, 224)}
"""Comparisons in a batch, and pixels of a side; `8b` has 119 M parameters in the proportions of a model of 8 B."""

INSTRUCTIONS = ("none", "generic", "overall")
PROMPT = "a red circle left of a blue square, number {number}"


def questions(backbone: VisionLanguageBackbone, instruction: str, batch: int, side: int) -> list[EncodedQuestion]:
    """Comparisons of pictures that are all different, as `prepare_comparisons` would ask them."""
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2 * batch, side, side, 3), generator=rng, dtype=torch.uint8).numpy()
    shown = [backbone.picture_from_image(Image.fromarray(one)) for one in pixels]
    criteria = stored_instruction(instruction).text
    opening = f"{criteria}\nPrompt: {PROMPT}\n" if criteria else f"Prompt: {PROMPT}\n"
    asked = "\nIs image 2 better than image 1? Answer yes or no."
    return [
        backbone.encode(
            [
                opening.format(number=number) + "Image 1: ",
                shown[2 * number],
                "\nImage 2: ",
                shown[2 * number + 1],
                asked,
            ]
        )
        for number in range(batch)
    ]


def gradient(backbone: VisionLanguageBackbone, batch: QuestionBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Answers, and the gradient of all weights in one row."""
    backbone.model.zero_grad()
    hidden = backbone.answer_hidden(batch)
    (hidden * torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    slopes = [one.grad.flatten() for one in backbone.model.parameters() if one.grad is not None]
    return hidden.detach(), torch.cat(slopes)


def measured(backbone: VisionLanguageBackbone, asked: Sequence[EncodedQuestion], turns: int) -> dict[str, Any]:
    """Seconds of both routes in turns, and how far their answers and gradients are apart."""
    plan = backbone.engine.plan(asked, backbone.layout, is_blocks=False)
    routes = {"padded": backbone.collate(asked), "shared": QuestionBatch({}, plan.to_learn())}
    (padded, padded_slope), (shared, shared_slope) = (gradient(backbone, batch) for batch in routes.values())
    difference = float((shared_slope - padded_slope).norm() / padded_slope.norm())
    if difference > 1e-4 or float((shared - padded).abs().max()) > 1e-3:
        raise RuntimeError(f"the routes do not agree: gradients differ by {difference:.1e}")
    seconds: dict[str, list[float]] = {name: [] for name in routes}
    for _ in range(turns):
        for name, batch in routes.items():
            start = time.perf_counter()
            gradient(backbone, batch)
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "padded_tokens": sum(len(asked[0].token_ids) for _ in asked),
        "shared_tokens": plan.tokens,
        "seconds": medians,
        "speedup": medians["padded"] / medians["shared"],
        "taken": "shared" if backbone.collate_to_learn(asked).plan is not None else "padded",
        "gradient_difference": difference,
    }


def loaded(name: str, side: int, folder: Path) -> VisionLanguageBackbone:
    """A model all of whose weights learn."""
    if name == "lab:small":
        return load_backbone(lab_base("small"))
    backbone = build("internvl", SMALL["internvl"]["8b"], side, folder, "cpu", torch.float32)
    backbone.model.requires_grad_(True)
    return backbone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--model", choices=MODELS, nargs="*", default=list(MODELS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for name in options.model:
        batch, side = MODELS[name]
        with tempfile.TemporaryDirectory() as folder:
            backbone = loaded(name, side, Path(folder))
            for instruction in INSTRUCTIONS:
                figures = measured(backbone, questions(backbone, instruction, batch, side), options.turns)
                rows.append({"model": name, "batch": batch, "side": side, "instruction": instruction, **figures})
                print(json.dumps(rows[-1]), flush=True)
    if options.json is not None:
        versions = {name: version(name) for name in ("torch", "transformers")}
        content = {"command": "python -m benchmarks.learning_step", "versions": versions, "rows": rows}
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
