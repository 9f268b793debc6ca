"""How the lab's generator was made: `rewarddance lab pretrain drawn`.

Flow matching on pictures of the world that are tidied (things near the middle of their quadrants) and, as in every
scraped corpus, not all right: some show something else than their prompt says, some are blurred, noisy or pale. The
generator learns those faults too, and leaves alignment something to do.

What was tried before, in equal time: the same network on patches of 4 and of 8 pixels draws the right colours in
scattered corners of shapes; on patches of 16, a quadrant each, it draws whole things within minutes.
"""

import copy
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import PixArtTransformer2DModel
from torch import Tensor

from rewarddance.core.seeding import derive_seed, numpy_rng
from rewarddance.generators.drawn import SMALLEST_SIGMA, DrawnGenerator
from rewarddance.generators.phrases import PhraseEncoder
from rewarddance.lab.pretraining_checkpoint import read_pretraining, write_pretraining
from rewarddance.lab.prompts import COLOURS, NUMBER_WORDS, PLURALS, RELATIONS, SHAPES, LabPrompt, sample_prompt
from rewarddance.lab.world import (
    CELL,
    SEEN_FAULTS,
    SIDE,
    SIZES,
    Degradation,
    Pixels,
    Scene,
    degrade,
    render,
    sample_scene,
    spoil,
)
from rewarddance.training.run_folder import replace_folder

DENOISING_STEPS = 8
GUIDANCE = 2.0

_CONTENT_FAULTS = ("wrong_colour", "wrong_shape", "missing", "extra", "wrong_relation")


@dataclass(frozen=True, slots=True)
class GeneratorRecipe:
    """The recipe that the shipped weights were made with.

    Attributes:
        pictures: Pictures seen.
        batch: Pictures an optimizer step.
        learning_rate: Peak; it falls to a twentieth over the last 40 % of the run.
        warmup_steps: Optimizer steps of linear warm-up.
        width: Of the transformer; heads are 32 wide.
        layers: Of the transformer.
        patch: Side of a patch in pixels.
        dropped_prompts: Share of pictures shown without their prompt, for classifier-free guidance.
        spoiled: Share of pictures that do not show their prompt.
        degraded: Share of pictures of poor quality.
        out_of_domain: Share of prompts from outside the domain of the comparisons.
        average_decay: Of the running average of the weights, which is what is kept.
        seed: Of weights and data.
        save_every: Optimizer steps between checkpoints.
    """

    pictures: int = 128_000
    batch: int = 64
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    width: int = 192
    layers: int = 6
    patch: int = CELL
    dropped_prompts: float = 0.1
    spoiled: float = 0.4
    degraded: float = 0.8
    out_of_domain: float = 0.15
    average_decay: float = 0.998
    seed: int = 0
    save_every: int = 100


def new_generator(recipe: GeneratorRecipe) -> DrawnGenerator:
    """The untrained generator."""
    encoder = PhraseEncoder(
        slots={
            "count": tuple((word,) for word in NUMBER_WORDS.values()),
            "colour": tuple((colour,) for colour in COLOURS),
            "shape": tuple((shape, PLURALS[shape]) for shape in SHAPES),
        },
        links=tuple(relation.split()[0] for relation in RELATIONS),
        fillers=("of", "and"),
        phrases=2,
    )
    torch.manual_seed(derive_seed(recipe.seed, "generator"))
    network: Any = PixArtTransformer2DModel
    transformer = network(
        sample_size=SIDE,
        patch_size=recipe.patch,
        in_channels=3,
        out_channels=3,
        num_layers=recipe.layers,
        num_attention_heads=recipe.width // 32,
        attention_head_dim=32,
        cross_attention_dim=recipe.width,
        caption_channels=encoder.width,
        use_additional_conditions=False,
        interpolation_scale=1,
    )
    return DrawnGenerator(transformer, encoder, {"denoising_steps": DENOISING_STEPS, "guidance": GUIDANCE})


def pretrain_generator(recipe: GeneratorRecipe, folder: Path, on_progress: Callable[[int], None] | None = None) -> Path:
    """Run or resume the recipe; the finished generator is written to `folder / "model"`.

    A checkpoint is written every `save_every` optimizer steps; the data of a step depend on its number alone.

    Raises:
        CheckpointError: The disk is full or cannot be written to; what was written before is intact.
        UsageError: The folder holds a run by another recipe.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = new_generator(recipe)
    module = generator.module
    average = copy.deepcopy(module).requires_grad_(False)
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )
    done = read_pretraining(folder, {"model": module, "average": average}, optimizer, asdict(recipe))
    total = recipe.pictures // recipe.batch
    started, recent = time.perf_counter(), 1.0
    for step in range(done, total):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(step, recipe.warmup_steps, total)
        loss = _loss(generator, recipe, step)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        decay = min(recipe.average_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for kept, value in zip(average.parameters(), module.parameters(), strict=True):
                kept.lerp_(value, 1 - decay)
        recent = 0.98 * recent + 0.02 * loss.item()
        if on_progress is not None:
            on_progress((step + 1) * recipe.batch)
        if (step + 1) % 20 == 0:
            row = {"optimizer_step": step + 1, "loss": round(recent, 4)}
            row |= {"seconds": round(time.perf_counter() - started, 1)}
            with (folder / "metrics.jsonl").open("a") as log:
                log.write(json.dumps(row) + "\n")
        if (step + 1) % recipe.save_every == 0 or step + 1 == total:
            write_pretraining(folder, {"model": module, "average": average}, optimizer, step + 1, asdict(recipe))
    module.load_state_dict(average.state_dict())
    module.half()  # to ship; loading makes it float32 again
    record = json.dumps({"recipe": asdict(recipe), "loss": round(recent, 4)}, indent=1)

    def save(place: Path) -> None:
        generator.save(place)
        (place / "recipe.json").write_text(record + "\n", encoding="utf-8")

    replace_folder(folder / "model", save)
    return folder / "model"


def draw_picture(recipe: GeneratorRecipe, rng: np.random.Generator) -> tuple[LabPrompt, Pixels]:
    """One picture of the corpus with what its prompt says it is."""
    prompt = sample_prompt(rng, "out" if rng.random() < recipe.out_of_domain else "in")
    scene = tidied(sample_scene(prompt, rng, avoid_held_out=False), rng)
    if rng.random() < recipe.spoiled:
        fault = str(rng.choice(_CONTENT_FAULTS))
        scene = tidied(spoil(prompt, scene, fault, rng, avoid_held_out=False), rng)
    pixels = render(scene)
    if rng.random() < recipe.degraded:
        fault = str(rng.choice(SEEN_FAULTS))
        pixels = degrade(pixels, Degradation(fault, float(rng.uniform(0.1, 0.7))), rng)
    return prompt, pixels


def tidied(scene: Scene, rng: np.random.Generator) -> Scene:
    """The same scene with every thing within a pixel of the middle of its quadrant."""
    things = []
    for thing in scene.things:
        size = int(rng.integers(SIZES[0], SIZES[1]))
        row, column = (int(middle >= CELL) for middle in thing.centre)
        margin = (CELL - size) // 2
        top, left = (quadrant * CELL + margin + int(rng.integers(-1, 2)) for quadrant in (row, column))
        things.append(replace(thing, size=size, top=top, left=left))
    return replace(scene, things=tuple(things))


def _loss(generator: DrawnGenerator, recipe: GeneratorRecipe, step: int) -> Tensor:
    """Flow matching: squared error of the velocity, at noise levels that favour the middle."""
    rng = numpy_rng(recipe.seed, "pictures", step)
    drawn = [draw_picture(recipe, rng) for _ in range(recipe.batch)]
    conditions = generator.encode([prompt.text for prompt, _ in drawn])
    torch_rng = torch.Generator().manual_seed(derive_seed(recipe.seed, "noise", step))
    dropped = (torch.rand(recipe.batch, generator=torch_rng) < recipe.dropped_prompts)[:, None, None]
    shown = {name: value.masked_fill(dropped, 0.0) for name, value in conditions.positive.items()}
    pictures = torch.tensor(np.stack([pixels for _, pixels in drawn]), dtype=torch.float32).permute(0, 3, 1, 2) * 2 - 1
    noise = torch.randn(pictures.shape, generator=torch_rng)
    sigma = torch.sigmoid(torch.randn(recipe.batch, generator=torch_rng) + 0.3)
    level = sigma[:, None, None, None]
    latents = (1 - level) * pictures + level * noise
    velocity = generator.velocity(latents, sigma, replace(conditions, positive=shown), guidance=1.0)
    # Not `noise - pictures`: below the smallest sigma the generator's velocity is bounded, and so is its target.
    return torch.nn.functional.mse_loss(velocity, (latents - pictures) / level.clamp_min(SMALLEST_SIGMA))


def _schedule(step: int, warmup: int, total: int) -> float:
    falling = max(0.0, (step / total - 0.6) / 0.4)
    return min(1.0, (step + 1) / warmup) * (1 - 0.95 * falling)
