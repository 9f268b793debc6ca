"""The scoring engine: many questions answered with as little computing as their scores allow.

- Each distinct image goes through the vision tower once, and is kept for later calls.
- Questions are cut into passages (see `passages`); what they share is read once, and is kept for later calls too.
- Passages are packed without padding, so no answer depends on what else is asked.
- With gradients, only what depends on live pixels is read with a graph; `learning_states` is for weights that learn.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rewarddance.rewards.backbones import passage_attention, window_attention
from rewarddance.rewards.backbones.kept_states import KeptStates, WeightWatch
from rewarddance.rewards.backbones.layout import Layout
from rewarddance.rewards.backbones.left_padding import attention_mask_of
from rewarddance.rewards.backbones.passage_reader import PictureFeatures, read_row
from rewarddance.rewards.backbones.passage_row import States, pack
from rewarddance.rewards.backbones.passages import PassagePlan, plan_passages
from rewarddance.rewards.backbones.protocol import EncodedQuestion, Picture
from rewarddance.rewards.backbones.token_budget import token_budget

# Pixel values in one batch of the vision tower: 128 MB in float32 with the activations that follow on a CPU.
_VISION_VALUES = {"cpu": 2_500_000, "cuda": 40_000_000}


class ScoringEngine:
    """Reads questions with a model of transformers.

    Args:
        model: With a vocabulary head, such as `InternVLForConditionalGeneration`.
        image_token_id: Marks image tokens.

    Attributes:
        features: Kept features of images, by content.
        states: Kept keys and values of shared beginnings, by content.
        max_tokens: Of one packed row; None for what memory allows.
        is_repeatable: Whether an answer is the same bit for bit whatever was asked before. What is kept is then read by
            itself instead of with what it was first asked with, whose number of rows decides the rounding.
    """

    def __init__(self, model: Any, image_token_id: int) -> None:
        self._model = model
        self._image_token_id = image_token_id
        passage_attention.install(self._language_model)
        if hasattr(model.model, "visual"):  # the families whose images stand in one row of patches
            window_attention.install(model.model.visual)
        self.features: KeptStates[PictureFeatures] = KeptStates(model, lambda value: value.nbytes)
        self.states: KeptStates[States] = KeptStates(model, _bytes_of)
        self.max_tokens: int | None = None
        self.is_repeatable = False
        self._weights = WeightWatch(model)

    def keep_at_most(self, nbytes: int) -> None:
        """Bound what is kept of images, and of beginnings, to so many bytes each."""
        self.features.max_bytes = self.states.max_bytes = nbytes

    def answer_states(
        self, questions: Sequence[EncodedQuestion], layout: Layout, is_blocks: bool
    ) -> Float[Tensor, "questions width"]:
        """Hidden state at the answer position of each question, in order; with gradient if enabled.

        Args:
            questions: Any number, in any order.
            layout: Of the family, as it is now.
            is_blocks: Whether media are read apart from each other.
        """
        if self._weights.has_changed():
            self.features.clear()
            self.states.clear()
        plan = self.plan(questions, layout, is_blocks)
        if self.is_repeatable:
            plan = plan.with_exact_keys()
        try:
            return self._answered(plan, layout)
        except torch.OutOfMemoryError:
            if not (self.features.nbytes or self.states.nbytes):
                raise
        # What is kept for later must not be what the work of now lacks.
        self.features.clear()
        self.states.clear()
        torch.cuda.empty_cache()
        return self._answered(plan, layout)

    def _answered(self, plan: PassagePlan, layout: Layout) -> Float[Tensor, "questions width"]:
        features = self._picture_features(plan, layout)
        answers = self._read(plan, features)
        return torch.stack([answers[number] for number in plan.answers])

    def plan(self, questions: Sequence[EncodedQuestion], layout: Layout, is_blocks: bool) -> PassagePlan:
        """What has to be read to answer the questions; touches no weights. See `answer_states`."""
        return plan_passages(questions, lambda one: _positions(layout, one), self._image_token_id, is_blocks)

    def learning_states(self, plan: PassagePlan, layout: Layout) -> Float[Tensor, "questions width"]:
        """The same with a graph down to the weights; nothing is kept from one call to the next.

        All passages are one row, whatever memory is free: where rows are cut changes the rounding, and a run that is
        resumed has to go on bit by bit.

        Args:
            plan: Of `PassagePlan.to_learn`.
            layout: Of the family, as it is now.
        """
        features = self._picture_features(plan, layout)
        device = self._model.get_input_embeddings().weight.device
        row = pack(plan, range(len(plan.passages)), {}, (), _first_rows(features), device)
        answers = dict(zip(row.answered, read_row(self._language_model, row, features), strict=True))
        return torch.stack([answers[number] for number in plan.answers])

    @torch.no_grad()
    def picture_vectors(self, pictures: Sequence[Picture], layout: Layout) -> Float[Tensor, "pictures width"]:
        """Mean features of each image, in float32; the vision tower sees them all at once, and nothing is kept."""
        return torch.stack([one.rows.float().mean(0) for one in self._encode_pictures(pictures, layout)])

    @property
    def _language_model(self) -> Any:
        inner = self._model.model
        return inner.language_model if hasattr(inner, "language_model") else inner.text_model

    def _read(self, plan: PassagePlan, features: Sequence[PictureFeatures]) -> dict[int, Tensor]:
        """Answers by passage."""
        device = self._model.get_input_embeddings().weight.device
        first_rows = _first_rows(features)
        states = self._known_states(plan)
        pending = _needed(plan, states)
        answers: dict[int, Tensor] = {}
        batches = _batches(plan, pending, self._budget(device), self.is_repeatable)
        last_seen = {
            seen: place for place, (batch, _) in enumerate(batches) for one in batch for seen in plan.passages[one].sees
        }
        for place, (batch, is_live) in enumerate(batches):
            later = {number for number, last in last_seen.items() if last > place}
            wanted = [one for one in batch if one in later or (not is_live and plan.passages[one].key is not None)]
            row = pack(plan, batch, states, wanted, first_rows, device)
            with torch.set_grad_enabled(torch.is_grad_enabled() and is_live):
                hidden = read_row(self._language_model, row, features)
            answers |= dict(zip(row.answered, hidden, strict=True))
            self._keep(plan, row.kept, row.reading.kept, states)
            for number in set(states) - later:
                del states[number]
        return answers

    def _known_states(self, plan: PassagePlan) -> dict[int, States]:
        found = ((number, one.key) for number, one in enumerate(plan.passages) if one.key is not None)
        kept = ((number, self.states.get(key)) for number, key in found)
        return {number: state for number, state in kept if state is not None}

    def _keep(
        self, plan: PassagePlan, numbers: Sequence[int], read: Sequence[States], states: dict[int, States]
    ) -> None:
        for number, layers in zip(numbers, read, strict=True):
            key = plan.passages[number].key
            states[number] = layers
            if key is not None:
                self.states.keep(key, layers)

    def _budget(self, device: torch.device) -> int:
        if self.max_tokens is not None:
            return self.max_tokens
        return token_budget(self._model.config.get_text_config(), device, self._model.dtype)

    def _picture_features(self, plan: PassagePlan, layout: Layout) -> list[PictureFeatures]:
        """Features of all images of the plan; the vision tower sees those of like size together."""
        found: dict[int, PictureFeatures] = {}
        for number, digest in enumerate(plan.digests):
            kept = None if digest is None else self.features.get(digest)
            if kept is not None:
                found[number] = kept
        missing = [number for number in range(len(plan.pictures)) if number not in found]
        for batch in _vision_batches(plan, missing, self.is_repeatable):
            is_live = plan.digests[batch[0]] is None
            with torch.set_grad_enabled(torch.is_grad_enabled() and is_live):
                made = self._encode_pictures([plan.pictures[number] for number in batch], layout)
            for number, one in zip(batch, made, strict=True):
                found[number] = one
                digest = plan.digests[number]
                if digest is not None:
                    found[number] = _copied(one)
                    if not plan.pictures[number].is_passing:
                        self.features.keep(digest, found[number])
        return [found[number] for number in range(len(plan.pictures))]

    def _encode_pictures(self, pictures: Sequence[Picture], layout: Layout) -> list[PictureFeatures]:
        weight = self._model.get_input_embeddings().weight
        inputs = {
            name: value.to(weight.device, weight.dtype) if value.is_floating_point() else value.to(weight.device)
            for name, value in layout.picture_inputs(pictures).items()
        }
        made = layout.picture_features(self._model.model, inputs, None)
        counts = [picture.tokens for picture in pictures]
        rows = torch.split(_flat(made.pooler_output), counts)
        deep = [torch.split(_flat(layer), counts) for layer in getattr(made, "deepstack_features", None) or ()]
        return [PictureFeatures(own, tuple(layer[place] for layer in deep)) for place, own in enumerate(rows)]


def _positions(layout: Layout, question: EncodedQuestion) -> Tensor:
    positions = layout.position_ids([question], attention_mask_of([question.token_ids]))
    return positions.reshape(-1, len(question.token_ids))  # (axes, length)


def _first_rows(features: Sequence[PictureFeatures]) -> list[int]:
    """Where the features of each image begin among those of all."""
    return [0, *accumulate(len(one.rows) for one in features)]


def _needed(plan: PassagePlan, states: dict[int, States]) -> list[int]:
    """Passages that an answer depends on and that are not kept, in the plan's order."""
    needed: set[int] = set()
    pending = list(plan.answers)
    while pending:
        number = pending.pop()
        if number in needed or number in states:
            continue
        needed.add(number)
        pending += plan.passages[number].sees
    return sorted(needed)


def _batches(
    plan: PassagePlan, numbers: Sequence[int], budget: int, is_repeatable: bool
) -> list[tuple[list[int], bool]]:
    """Rows of passages within the budget, and whether pixels with gradient are in them; each after what it sees."""
    batches: list[tuple[list[int], bool]] = []
    if is_repeatable:
        # What is kept sees nothing that is not, so it can stand before all else.
        batches = [([number], False) for number in numbers if plan.passages[number].key is not None]
        numbers = [number for number in numbers if plan.passages[number].key is None]
    for is_live in (False, True):
        tokens = budget
        for number in (one for one in numbers if plan.passages[one].is_live is is_live):
            size = len(plan.passages[number])
            if tokens + size > budget or not batches or batches[-1][1] is not is_live:
                batches.append(([], is_live))
                tokens = 0
            batches[-1][0].append(number)
            tokens += size
    return batches


def _vision_batches(plan: PassagePlan, numbers: Sequence[int], is_repeatable: bool) -> list[list[int]]:
    """Images of like size together, those with gradient apart, within a budget of pixels."""
    batches: list[list[int]] = []
    if is_repeatable:
        kept = {one for one in numbers if plan.digests[one] is not None and not plan.pictures[one].is_passing}
        batches = [[one] for one in numbers if one in kept]
        numbers = [one for one in numbers if one not in kept]
    held, last = 0, None
    for number in sorted(numbers, key=lambda one: (plan.digests[one] is None, plan.pictures[one].pixel_values.shape)):
        pixels = plan.pictures[number].pixel_values
        kind = (plan.digests[number] is None, pixels.shape[1:])
        budget = _VISION_VALUES.get(pixels.device.type, _VISION_VALUES["cpu"])
        if not batches or kind != last or held + pixels.numel() > budget:
            batches.append([])
            held = 0
        batches[-1].append(number)
        held += pixels.numel()
        last = kind
    return batches


def _flat(features: Any) -> Tensor:
    """One row an image token, whatever shape the family has."""
    if isinstance(features, Tensor):
        return features.flatten(0, -2)
    return torch.cat(list(features))


def _copied(features: PictureFeatures) -> PictureFeatures:
    """Without the batch that they came in, which would stay in memory."""
    return PictureFeatures(features.rows.clone(), tuple(one.clone() for one in features.deep))


def _bytes_of(states: States) -> int:
    return sum(key.nbytes + value.nbytes for key, value in states)
