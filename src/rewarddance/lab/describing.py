"""Lessons in describing: a base model that ships with the lab learns to write what is wrong with two pictures.

The bases have captioned pictures and answered yes or no; a rationale is new to them, and what it costs to learn to
write is taken from learning to judge. Models that judge outside the lab have written all their lives. This stage gives
the lab's base that skill before any preference is learned: the lessons of its pretraining go on, and beside them
stands what the gold judge's eyes see in the two pictures of an item. Which of them is better is not said, and the
faults of `UNSEEN_FAULTS` do not occur.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import InternVLForConditionalGeneration, PreTrainedTokenizerFast

from rewarddance.core.seeding import numpy_rng
from rewarddance.lab.base_models import BaseSize, lab_base
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
from rewarddance.lab.pretraining_questions import Item, Lesson, draw_item
from rewarddance.lab.teacher import describe_pair
from rewarddance.lab.world import to_uint8

QUESTION = "What is wrong with the images for the prompt?"


@dataclass(frozen=True, slots=True)
class DescribingSettings:
    """The recipe.

    Attributes:
        size: The base model that ships, which it begins with.
        items: Items that are seen; the learning rate falls to a tenth over them.
        batch_items: Items an optimizer step.
        learning_rate: Peak of the model, after the warm-up.
        heads_learning_rate: Of the heads while they learn alone, from fresh weights.
        heads_steps: Optimizer steps that the heads learn alone.
        warmup_steps: Optimizer steps of linear warm-up after them.
        seed: Of the items; 5 is what the recorded study was made with.
        save_every: Optimizer steps between checkpoints.
    """

    size: BaseSize = "small"
    items: int = 520 * 48
    batch_items: int = 48
    learning_rate: float = 6e-4
    heads_learning_rate: float = 2e-3
    heads_steps: int = 30
    warmup_steps: int = 60
    seed: int = 5
    save_every: int = 40


def draw_described_item(rng: np.random.Generator) -> Item:
    """An item of the pretraining with one lesson more: what is wrong with its two pictures."""
    item = draw_item(rng)
    first, second = (report_on(to_uint8(candidate.pixels) / 255, item.prompt) for candidate in item.candidates)
    return replace(item, lessons=(*item.lessons, Lesson("description", QUESTION, describe_pair(first, second))))


def learn_to_describe(
    settings: DescribingSettings, folder: Path, on_progress: Callable[[int], None] | None = None
) -> Path:
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
    base = lab_base(settings.size)
    torch.manual_seed(0)  # the heads' first weights, of which nothing is kept
    model = InternVLForConditionalGeneration.from_pretrained(base)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    heads = TeachingHeads(model.model.language_model.config.hidden_size)
    groups = [{"params": list(module.parameters())} for module in (model, heads)]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=0.02, betas=(0.9, 0.98))
    total, alone = settings.items // settings.batch_items, settings.heads_steps

    def losses_of(step: int) -> Losses:
        rng = numpy_rng(settings.seed, "writing items", step)
        batch = collate_items([draw_described_item(rng) for _ in range(settings.batch_items)], tokenizer)
        return pretraining_losses(model, heads, batch)

    def set_rates(step: int) -> None:
        model.requires_grad_(step >= alone)
        rate = settings.learning_rate * learning_rate_share(step - alone, settings.warmup_steps, total - alone)
        of_model, of_heads = optimizer.param_groups
        of_model["lr"] = rate
        of_heads["lr"] = settings.heads_learning_rate if step < alone else rate

    course = Course(
        model, tokenizer, heads, optimizer, total, settings.batch_items, settings.save_every, asdict(settings)
    )
    return make_base(course, folder, losses_of, set_rates, on_progress)
