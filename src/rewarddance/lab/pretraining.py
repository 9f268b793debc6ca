"""How the lab's base models were made: `rewarddance lab pretrain`.

First the vision tower alone learns what stands in each cell of a picture and how spoiled the picture is. Then the
whole model learns from items: a prompt, two pictures and three or four lessons. The lessons see the pictures but not
each other (a block mask), so that the dear part, the pictures, is computed once.

Beside the answers, light heads that are thrown away afterwards teach densely: the vision lessons go on; half-way up
the language model each image token says whether its cell is what the prompt asks for; one layer higher the token that
closes a picture says how well it is aligned and how clean it is; and one layer higher still the number in a question
("image 2") says the same of the picture that it names. The place matters: with the same heads on the last layer no
layer is left that could use what they teach, and every question stays at its base rate.
"""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import InternVLForConditionalGeneration, PreTrainedTokenizerFast

from rewarddance.core.seeding import numpy_rng
from rewarddance.lab.base_models import BaseSize, new_base, new_tokenizer, save_base
from rewarddance.lab.pretraining_batches import ItemBatch, collate_items
from rewarddance.lab.pretraining_checkpoint import read_pretraining, write_pretraining
from rewarddance.lab.pretraining_questions import QUALITIES, corpus, draw_item
from rewarddance.lab.prompts import COLOURS, SHAPES
from rewarddance.training.run_folder import replace_folder


@dataclass(frozen=True, slots=True)
class PretrainingSettings:
    """The recipe.

    Attributes:
        size: Which base model.
        vision_items: Items that the vision tower sees alone, first.
        items: Items that the whole model sees; the learning rate falls to a tenth over them.
        batch_items: Items an optimizer step.
        learning_rate: Peak, after the warm-up.
        warmup_steps: Optimizer steps of linear warm-up.
        seed: Of weights and data.
        save_every: Optimizer steps between checkpoints.
    """

    size: BaseSize
    vision_items: int = 40_000
    items: int = 60_000
    batch_items: int = 48
    learning_rate: float = 1.5e-3
    warmup_steps: int = 100
    seed: int = 0
    save_every: int = 100


def recipe(size: BaseSize, seed: int = 0) -> PretrainingSettings:
    """The settings that the shipped weights were made with."""
    items, rate = {"nano": (60_000, 2e-3), "micro": (60_000, 1.5e-3), "small": (40_000, 1e-3)}[size]
    return PretrainingSettings(size=size, items=items, learning_rate=rate, seed=seed)


_WEIGHTS = {"answer": 2.0, "truth": 4.0, "named": 4.0, "faults": 2.0, "colour": 0.5, "shape": 0.5, "wanted": 0.5}


@dataclass(frozen=True, slots=True)
class Losses:
    """Losses of a batch by name, and the logits (answer tokens, vocabulary) behind the answers'."""

    by_name: dict[str, Tensor]
    logits: Tensor

    @property
    def total(self) -> Tensor:
        """What is minimised."""
        return torch.stack([value * _WEIGHTS[name] for name, value in self.by_name.items()]).sum()


class TeachingHeads(nn.Module):
    """The light heads of the dense lessons; not part of the base model."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.colour = nn.Linear(width, len(COLOURS) + 1)
        self.shape = nn.Linear(width, len(SHAPES) + 1)
        self.faults = nn.Linear(width, len(QUALITIES))
        self.wanted = nn.Linear(width, 3)
        self.truth = nn.Linear(width, 4)
        self.named = nn.Linear(width, 4)


def vision_losses(features: Tensor, heads: TeachingHeads, batch: ItemBatch) -> dict[str, Tensor]:
    """Dense lessons on the vision tokens (2 items, cells, width): colour and shape of cells, faults of pictures."""
    faults = heads.faults(features).mean(dim=1)
    return {
        "colour": functional.cross_entropy(heads.colour(features).flatten(0, 1), batch.colours.flatten()),
        "shape": functional.cross_entropy(heads.shape(features).flatten(0, 1), batch.shapes.flatten()),
        "faults": functional.mse_loss(faults, batch.truths[:, 1:]),
    }


def picture_features(model: InternVLForConditionalGeneration, batch: ItemBatch) -> Tensor:
    """Vision tokens as the language model gets them, shape (2 items, cells, width)."""
    features: Tensor = model.model.get_image_features(
        batch.pixels, vision_feature_layer=-1, vision_feature_select_strategy="default"
    ).pooler_output
    return features


def pretraining_losses(model: InternVLForConditionalGeneration, heads: TeachingHeads, batch: ItemBatch) -> Losses:
    """Mean loss of the answers and of each dense lesson."""
    language = model.model.language_model
    features = picture_features(model, batch)
    is_image = batch.token_ids == model.config.image_token_id
    embedded = language.embed_tokens(batch.token_ids).masked_scatter(is_image[..., None], features)
    output = language(
        inputs_embeds=embedded,
        attention_mask=_block_mask(batch.blocks),
        position_ids=batch.positions,
        use_cache=False,
        output_hidden_states=True,
    )
    half = len(language.layers) // 2
    # the token after the last image token of a picture is the one that closes it
    closes = is_image.roll(1, dims=1) & ~is_image
    at_cells = output.hidden_states[half][is_image].view_as(features)
    at_close = output.hidden_states[half + 1][closes]  # (2 items, width)
    learned = batch.next_ids != -100
    logits = model.lm_head(output.last_hidden_state[learned])
    losses = vision_losses(features, heads, batch)
    losses["wanted"] = functional.cross_entropy(heads.wanted(at_cells).flatten(0, 1), batch.wanted.flatten())
    losses["truth"] = functional.mse_loss(heads.truth(at_close), batch.truths)
    named = output.hidden_states[half + 2][batch.named >= 0]  # (numbers in questions, width)
    pictures = batch.named + 2 * torch.arange(len(batch.named))[:, None]
    losses["named"] = functional.mse_loss(heads.named(named), batch.truths[pictures[batch.named >= 0]])
    losses["answer"] = functional.cross_entropy(logits, batch.next_ids[learned])
    return Losses(losses, logits)


def _block_mask(blocks: Tensor) -> Tensor:
    """Who sees whom, shape (items, 1, tokens, tokens): each lesson itself and the prefix, causally."""
    sees = (blocks[:, None, :] == blocks[:, :, None]) | (blocks[:, None, :] == 0)
    sees &= torch.ones_like(sees[0]).tril() & (blocks[:, None, :] >= 0)
    sees |= torch.eye(sees.shape[-1], dtype=torch.bool)  # padding must see something, or its softmax is empty
    return sees[:, None]


@torch.no_grad()
def examine(
    model: InternVLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, items: int = 480, seed: int = 1
) -> dict[str, float]:
    """Share of yes/no questions answered right, by topic, on items that were not in the lessons."""
    asked, right = Counter[str](), Counter[str]()
    heads = TeachingHeads(model.model.language_model.config.hidden_size)
    for start in range(0, items, 48):
        rng = numpy_rng(seed, "exam", start)
        drawn = [draw_item(rng) for _ in range(min(48, items - start))]
        batch = collate_items(drawn, tokenizer)
        logits = pretraining_losses(model, heads, batch).logits  # (answer tokens, vocabulary)
        answers = batch.next_ids[batch.next_ids != -100]
        said = logits.argmax(dim=-1) == answers
        place = 0
        for lesson in (lesson for item in drawn for lesson in item.lessons):
            length = len(tokenizer.encode(lesson.answer)) + 1
            if lesson.topic != "caption":
                asked[lesson.topic] += 1
                right[lesson.topic] += bool(said[place])
            place += length
    return {topic: round(right[topic] / asked[topic], 4) for topic in sorted(asked)}


@dataclass(frozen=True, slots=True)
class Course:
    """What learns, for how long, and by which settings.

    Attributes:
        model: The base model.
        tokenizer: Its tokenizer.
        heads: Thrown away at the end.
        optimizer: Of the parameters of both.
        steps: Optimizer steps from the first to the last.
        batch_items: Items an optimizer step.
        save_every: Optimizer steps between checkpoints.
        settings: What a checkpoint must agree with to be continued.
    """

    model: InternVLForConditionalGeneration
    tokenizer: PreTrainedTokenizerFast
    heads: TeachingHeads
    optimizer: torch.optim.Optimizer
    steps: int
    batch_items: int
    save_every: int
    settings: Mapping[str, Any]

    @property
    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint holds."""
        return {"model": self.model, "heads": self.heads}


def make_base(
    course: Course,
    folder: Path,
    losses_of: Callable[[int], Losses],
    set_rates: Callable[[int], None],
    on_progress: Callable[[int], None] | None,
) -> Path:
    """Run or resume a course, with a log and checkpoints in `folder`; the model goes to `folder / "model"`.

    Args:
        course: What learns.
        folder: Exists.
        losses_of: The losses of an optimizer step; they depend on its number alone.
        set_rates: Called with the number of a step before it is made.
        on_progress: Called with the number of items seen.

    Raises:
        CheckpointError: The disk is full or cannot be written to; what was written before is intact.
        UsageError: The folder holds a run by another recipe.
    """
    losses = _learn(course, folder, losses_of, set_rates, on_progress)
    record = {"settings": course.settings, "losses": losses, "exam": examine(course.model, course.tokenizer)}
    replace_folder(folder / "model", partial(save_base, course.model, course.tokenizer, recipe=record))
    return folder / "model"


def _learn(
    course: Course,
    folder: Path,
    losses_of: Callable[[int], Losses],
    set_rates: Callable[[int], None],
    on_progress: Callable[[int], None] | None,
) -> dict[str, float]:
    """Running means of the losses."""
    done = read_pretraining(folder, course.modules, course.optimizer, course.settings)
    parameters = [parameter for module in course.modules.values() for parameter in module.parameters()]
    started, recent = time.perf_counter(), dict[str, float]()
    for step in range(done, course.steps):
        set_rates(step)
        losses = losses_of(step)
        course.optimizer.zero_grad()
        losses.total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        course.optimizer.step()
        if on_progress is not None:
            on_progress((step + 1) * course.batch_items)
        for name, value in losses.by_name.items():
            recent[name] = 0.95 * recent.get(name, value.item()) + 0.05 * value.item()
        if (step + 1) % 20 == 0:
            row: dict[str, float] = {"optimizer_step": step + 1, "items": (step + 1) * course.batch_items}
            row |= {name: round(value, 4) for name, value in recent.items()}
            row |= {"seconds": round(time.perf_counter() - started, 1)}
            with (folder / "metrics.jsonl").open("a") as log:
                log.write(json.dumps(row) + "\n")
        if (step + 1) % course.save_every == 0 or step + 1 == course.steps:
            write_pretraining(folder, course.modules, course.optimizer, step + 1, course.settings)
    return recent


def pretrain(settings: PretrainingSettings, folder: Path, on_progress: Callable[[int], None] | None = None) -> Path:
    """Run or resume the recipe; the finished base model is written to `folder / "model"`.

    A checkpoint is written every `save_every` optimizer steps; the data of a step depend on its number alone.

    Raises:
        CheckpointError: The disk is full or cannot be written to; what was written before is intact.
        UsageError: The folder holds a run by another recipe.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = new_tokenizer(corpus(numpy_rng(settings.seed, "corpus")))
    model = new_base(settings.size, tokenizer, settings.seed)
    heads = TeachingHeads(model.model.language_model.config.hidden_size)
    parameters = [*model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=0.02, betas=(0.9, 0.98))
    alone = settings.vision_items // settings.batch_items
    total = alone + settings.items // settings.batch_items

    def losses_of(step: int) -> Losses:
        rng = numpy_rng(settings.seed, "items", step)
        batch = collate_items([draw_item(rng) for _ in range(settings.batch_items)], tokenizer)
        if step < alone:
            return Losses(vision_losses(picture_features(model, batch), heads, batch), torch.empty(0))
        return pretraining_losses(model, heads, batch)

    def set_rates(step: int) -> None:
        phase, of = (step, alone) if step < alone else (step - alone, total - alone)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * learning_rate_share(phase, settings.warmup_steps, of)

    course = Course(
        model, tokenizer, heads, optimizer, total, settings.batch_items, settings.save_every, asdict(settings)
    )
    return make_base(course, folder, losses_of, set_rates, on_progress)


def learning_rate_share(step: int, warmup: int, total: int) -> float:
    """Share of the peak rate: linear warm-up, then a cosine that ends at a tenth."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
