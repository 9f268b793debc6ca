"""Gold of what a generator makes: the true preference, which no trainer and no guard ever sees."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from rewarddance.core.seeding import derive_seed
from rewarddance.generators.protocol import Generator
from rewarddance.generators.sampling import generate
from rewarddance.lab.gold import judge_picture
from rewarddance.lab.prompts import KINDS, parse_prompt
from rewarddance.metrics.diversity import colour_grid_features, within_prompt_distance

_BATCH = 48


@dataclass(frozen=True, slots=True)
class GoldTable:
    """Gold of pictures, prompt by prompt.

    Attributes:
        prompts: Each once.
        overall: What preferences are drawn from, in [0, 1].
        alignment: How much of the prompt is shown, in [0, 1].
        quality: Sharpness, cleanness and contrast together, in [0, 1].
        diversity: Mean distance between two pictures of a prompt; see `metrics.diversity`.
    """

    prompts: tuple[str, ...]
    overall: Float[np.ndarray, "prompts samples"]
    alignment: Float[np.ndarray, "prompts samples"]
    quality: Float[np.ndarray, "prompts samples"]
    diversity: float

    def by_kind(self) -> dict[str, float]:
        """Mean alignment by kind of prompt, for the kinds that there are."""
        kinds = np.array([parse_prompt(prompt).kind for prompt in self.prompts])
        return {kind: float(self.alignment[kinds == kind].mean()) for kind in KINDS if (kinds == kind).any()}


def gold_table(generator: Generator, prompts: Sequence[str], samples: int, seed: int) -> GoldTable:
    """Make `samples` pictures of each prompt, always from the same noise, and judge them.

    Args:
        generator: Whose pictures.
        prompts: Of the lab's grammar, each once.
        samples: Pictures a prompt.
        seed: Decides the noise.
    """
    asked = [prompt for prompt in prompts for _ in range(samples)]
    seeds = [derive_seed(seed, "gold", place) for place in range(len(asked))]
    pixels = generate(generator, asked, seeds, batch_size=_BATCH).permute(0, 2, 3, 1).double().numpy()
    judged = [judge_picture(picture, parse_prompt(prompt)) for picture, prompt in zip(pixels, asked, strict=True)]
    parts = [(gold.overall, gold.alignment, gold.quality) for gold in judged]
    table = np.array(parts).reshape(len(prompts), samples, 3)
    rows = np.repeat(np.arange(len(prompts)), samples)
    features = colour_grid_features(pixels.transpose(0, 3, 1, 2))
    diversity = float(within_prompt_distance(features, rows).mean()) if samples > 1 else 0.0
    return GoldTable(tuple(prompts), table[..., 0], table[..., 1], table[..., 2], diversity)


def gold_curves(prompts: Sequence[str], samples: int, seed: int) -> Callable[[Generator, int], dict[str, float]]:
    """What a trainer calls at every evaluation for the gold curves; the numbers are shown and never acted on."""

    def measured(generator: Generator, optimizer_step: int) -> dict[str, float]:
        table = gold_table(generator, prompts, samples, seed)
        kinds = {f"kind:{kind}": value for kind, value in table.by_kind().items()}
        means = {"gold": table.overall, "gold_alignment": table.alignment, "gold_quality": table.quality}
        return {**{name: float(values.mean()) for name, values in means.items()}, **kinds}

    return measured
