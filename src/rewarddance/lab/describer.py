"""Lessons in describing alone: a lab base model that can say what is wrong with a picture, and never compared two.

The bases that ship have answered which of two pictures shows the prompt better, or is sharper, tens of thousands of
times: most of what a preference asks is in them before the first choice is learned. A model that judges outside the
lab comes from captions and documents instead. This recipe makes such a base: the eyes of the one that ships, a new
language model, and lessons each of which is about one picture.

First come pictures with the faults that the bases know, with all heads of the pretraining. Then every fault of the
world occurs, as in pictures that a model of the wild has met; the heads that tell faults apart know but three of them,
and are left out from there on. What is wrong is said in the words of the gold judge's eyes, which name a fault by what
it takes from the picture: stripes are noise, a colour cast takes contrast.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import InternVLForConditionalGeneration, PreTrainedTokenizerFast

from rewarddance.core.seeding import numpy_rng
from rewarddance.lab.base_models import BaseSize, lab_base, new_base
from rewarddance.lab.candidates import draw_candidate
from rewarddance.lab.describing import QUESTION
from rewarddance.lab.faults import report_on
from rewarddance.lab.pretraining import (
    Course,
    Losses,
    TeachingHeads,
    learning_rate_share,
    make_base,
    pretraining_losses,
)
from rewarddance.lab.pretraining_batches import collate_items
from rewarddance.lab.pretraining_questions import Item, Lesson, lessons_on_one
from rewarddance.lab.prompts import sample_prompt
from rewarddance.lab.teacher import describe_both, describe_picture
from rewarddance.lab.world import SEEN_FAULTS, UNSEEN_FAULTS, to_uint8

_LESSONS_OF_CELLS = ("answer", "colour", "shape", "wanted")


@dataclass(frozen=True, slots=True)
class DescriberSettings:
    """The recipe.

    Attributes:
        size: The base model that ships, whose vision tower and projector it begins with.
        items: Items that are seen; the learning rate falls to a tenth over them.
        known_items: The first of them, with the faults that the bases know.
        batch_items: Items an optimizer step.
        learning_rate: Peak, after the warm-up.
        warmup_steps: Optimizer steps of linear warm-up.
        seed: Of the new weights and of the items; 7 is what the recorded study was made with.
        save_every: Optimizer steps between checkpoints.
    """

    size: BaseSize = "small"
    items: int = 680 * 48
    known_items: int = 200 * 48
    batch_items: int = 48
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    seed: int = 7
    save_every: int = 40


def draw_item_to_describe(rng: np.random.Generator, faults: tuple[str, ...]) -> Item:
    """An item whose lessons are about one picture each, or say of both in turn what is wrong with it."""
    prompt = sample_prompt(rng, "in" if rng.random() < 0.8 else "out")
    first, second = (draw_candidate(prompt, rng, avoid_held_out=False, faults=faults) for _ in range(2))
    reports = [report_on(to_uint8(candidate.pixels) / 255, prompt) for candidate in (first, second)]
    index = int(rng.integers(2))
    asked = f"What is wrong with image {index + 1} for the prompt?"
    described = (
        Lesson("description", asked, describe_picture(reports[index])),
        Lesson("description", QUESTION, describe_both(*reports)),
    )
    return Item(prompt, (first, second), (*lessons_on_one((first, second), rng), *described))


def make_describer(settings: DescriberSettings, folder: Path, on_progress: Callable[[int], None] | None = None) -> Path:
    """Run or resume the recipe; the finished base model is written to `folder / "model"`.

    Args:
        settings: The recipe.
        folder: Made when missing.
        on_progress: Called with the number of items seen.

    Raises:
        CheckpointError: The disk is full or cannot be written to; what was written before is intact.
        UsageError: The folder holds a run by another recipe.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model, tokenizer = _with_known_eyes(settings)
    heads = TeachingHeads(model.model.language_model.config.hidden_size)
    parameters = [*model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=0.02, betas=(0.9, 0.98))
    total, known = settings.items // settings.batch_items, settings.known_items // settings.batch_items

    def losses_of(step: int) -> Losses:
        faults = SEEN_FAULTS if step < known else SEEN_FAULTS + UNSEEN_FAULTS
        rng = numpy_rng(settings.seed, "items to describe", step)
        items = [draw_item_to_describe(rng, faults) for _ in range(settings.batch_items)]
        losses = pretraining_losses(model, heads, collate_items(items, tokenizer))
        if step < known:
            return losses
        return replace(losses, by_name={name: losses.by_name[name] for name in _LESSONS_OF_CELLS})

    def set_rates(step: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * learning_rate_share(step, settings.warmup_steps, total)

    course = Course(
        model, tokenizer, heads, optimizer, total, settings.batch_items, settings.save_every, asdict(settings)
    )
    return make_base(course, folder, losses_of, set_rates, on_progress)


def _with_known_eyes(settings: DescriberSettings) -> tuple[InternVLForConditionalGeneration, PreTrainedTokenizerFast]:
    """A new model of the size with the vision tower and projector of the base that ships, and its tokenizer."""
    base = lab_base(settings.size)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    model = new_base(settings.size, tokenizer, settings.seed)
    shipped = InternVLForConditionalGeneration.from_pretrained(base).model
    model.model.vision_tower.load_state_dict(shipped.vision_tower.state_dict())
    model.model.multi_modal_projector.load_state_dict(shipped.multi_modal_projector.state_dict())
    return model, tokenizer
