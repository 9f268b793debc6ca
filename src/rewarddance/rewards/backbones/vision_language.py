"""A vision-language model of any family: the shared half of every backbone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor

from rewarddance.core.errors import ModelError, UsageError
from rewarddance.rewards.backbones.blocks import block_mask, block_spans
from rewarddance.rewards.backbones.chat import ChatFormat
from rewarddance.rewards.backbones.continuation import Continuation, begin
from rewarddance.rewards.backbones.kept_pictures import KeptPictures
from rewarddance.rewards.backbones.layout import Layout
from rewarddance.rewards.backbones.left_padding import attention_mask_of, pad_left
from rewarddance.rewards.backbones.protocol import AttentionMode, EncodedQuestion, Part, Picture, QuestionBatch
from rewarddance.rewards.backbones.scoring_engine import ScoringEngine

_LANGUAGE_INPUTS = ("input_ids", "attention_mask", "position_ids")
_FEATURE_INDEX, _QUESTION_INDEX = "feature_index", "question_index"
_LEAST_SAVING = (
    1.25  # padded over shared tokens below which padded questions learn faster: measured, docs/performance.md
)


class VisionLanguageBackbone:
    """Implements `Backbone` with a family's layout and its transformers model.

    Args:
        family: The config's `model_type`.
        model: A transformers model with a vocabulary head, such as `InternVLForConditionalGeneration`.
        tokenizer: The folder's tokenizer; its `chat_template` is the family's chat format.
        layout: The family's preprocessing and token layout.

    Raises:
        ModelError: The vocabulary head has a bias, which label rows cannot carry, or there is no usable chat format.
    """

    def __init__(self, family: str, model: Any, tokenizer: Any, layout: Layout) -> None:
        self.family = family
        self.model = model
        self.tokenizer = tokenizer
        self.layout = layout
        self._loaded_layout = layout
        self.kept_pictures = KeptPictures()
        self.attention: AttentionMode = "causal"
        self._chat = ChatFormat(tokenizer, tokenizer.chat_template, layout.placeholder)
        self._image_token_id = int(tokenizer.convert_tokens_to_ids(layout.placeholder))
        self.engine = ScoringEngine(model, self._image_token_id)
        if getattr(self.model.get_output_embeddings(), "bias", None) is not None:
            raise ModelError("the model's vocabulary head has a bias; such a head is not supported")

    @property
    def max_tokens(self) -> int:
        """Longest question that the model's positions allow."""
        return int(self.model.config.get_text_config().max_position_embeddings)

    def picture_from_image(self, image: Image) -> Picture:
        """PIL route: bit-equal to the family's own PIL image processor. The image is RGB already."""
        return self.layout.picture_from_image(image)

    def pictures_from_pixels(self, pixels: Float[Tensor, "pictures 3 height width"]) -> list[Picture]:
        """Tensor route: float RGB in [0, 1], differentiable down to `pixels`; one picture a row."""
        return self.layout.pictures_from_pixels(pixels)

    def encode(self, parts: Sequence[Part]) -> EncodedQuestion:
        """One user turn in the family's chat format, followed by the generation prompt.

        Raises:
            ModelError: The text holds the image token itself, and the tokenizer does not protect it as special.
        """
        pictures = tuple(part for part in parts if isinstance(part, Picture))
        texts = [part if isinstance(part, str) else None for part in parts]
        token_ids = self._chat.encode(texts, [self.layout.image_text(picture) for picture in pictures])
        expected = sum(picture.tokens for picture in pictures)
        if token_ids.count(self._image_token_id) != expected:
            raise ModelError(f"the text of a question holds the image token {self.layout.placeholder}; remove it")
        return EncodedQuestion(token_ids=token_ids, pictures=pictures)

    def collate(self, questions: Sequence[EncodedQuestion]) -> QuestionBatch:
        """Left-padded batch; what stands in it several times, a question or an image object, is computed once."""
        asked = list({id(question): question for question in questions}.values())
        rows = [question.token_ids for question in asked]
        padding = self.tokenizer.pad_token_id
        attention_mask = attention_mask_of(rows)
        inputs = {
            "input_ids": pad_left(rows, 0 if padding is None else padding),
            "attention_mask": attention_mask,
            "position_ids": self.layout.position_ids(asked, attention_mask),
        }
        if self.attention == "blocks":
            inputs |= self._block_inputs(asked, inputs["position_ids"])
        if len(asked) < len(questions):
            places = {id(question): place for place, question in enumerate(asked)}
            inputs[_QUESTION_INDEX] = torch.tensor([places[id(question)] for question in questions])
        shown = [picture for question in asked for picture in question.pictures]
        distinct = list({id(picture): picture for picture in shown}.values())
        if distinct:
            inputs |= self.layout.picture_inputs(distinct)
        if len(distinct) < len(shown):
            numbers = {id(picture): number for number, picture in enumerate(distinct)}
            inputs[_FEATURE_INDEX] = self.layout.feature_index(distinct, [numbers[id(picture)] for picture in shown])
        return QuestionBatch(inputs)

    def collate_to_learn(self, questions: Sequence[EncodedQuestion]) -> QuestionBatch:
        """What the questions share is read once where that saves enough tokens, as with criteria; else `collate`."""
        plan = self.engine.plan(questions, self.layout, is_blocks=self.attention == "blocks")
        asked = {id(question): len(question.token_ids) for question in questions}
        if plan.tokens * _LEAST_SAVING > len(asked) * max(asked.values()):
            return self.collate(questions)
        return QuestionBatch({}, plan.to_learn())

    def answer_hidden(self, batch: QuestionBatch) -> Float[Tensor, "batch width"]:
        """Last hidden state (after the final norm) at the answer position, with gradient if enabled."""
        if batch.plan is not None:
            return self.engine.learning_states(batch.plan, self.layout)
        return self.last_hidden(batch, 1)[:, 0]

    def answer_states(self, questions: Sequence[EncodedQuestion]) -> Float[Tensor, "batch width"]:
        """The same for questions as they are; see `ScoringEngine`."""
        return self.engine.answer_states(questions, self.layout, is_blocks=self.attention == "blocks")

    def picture_vectors(self, pictures: Sequence[Picture]) -> Float[Tensor, "pictures width"]:
        """What the vision tower makes of each image, averaged over its tokens; without gradient."""
        return self.engine.picture_vectors(pictures, self.layout)

    def last_hidden(self, batch: QuestionBatch, positions: int) -> Float[Tensor, "batch positions width"]:
        """Last hidden states (after the final norm) at the last positions, with gradient if enabled."""
        hidden: Tensor = self.model.model(**self._language_inputs(batch), use_cache=False).last_hidden_state
        last = hidden[:, -positions:]
        return last if _QUESTION_INDEX not in batch.inputs else last[batch.inputs[_QUESTION_INDEX]]

    def begin(self, batch: QuestionBatch) -> Continuation:
        """Read questions, of which none may stand in the batch twice, to be continued token by token."""
        if self.attention == "blocks":
            raise UsageError("a model in block mode answers at once and cannot give its reasons first")
        if _QUESTION_INDEX in batch.inputs:
            raise ValueError("a question stands in the batch twice; ask it once and repeat the continuation")
        return begin(self.model.model, self._language_inputs(batch))

    def _block_inputs(self, questions: Sequence[EncodedQuestion], positions: Tensor) -> dict[str, Tensor]:
        """Masks of four axes, which transformers takes as they are, and positions of block mode."""
        longest = positions.shape[-1]
        mask = torch.zeros(len(questions), 1, longest, longest, dtype=torch.bool)
        # Padding reads itself: a row that reads nothing would be not a number.
        mask[:] = torch.eye(longest, dtype=torch.bool)
        moved = positions.clone()
        for row, question in enumerate(questions):
            start = longest - len(question.token_ids)
            own = positions[..., row, start:].reshape(-1, len(question.token_ids))  # (axes, length)
            spans = block_spans(question, own, self._image_token_id)
            mask[row, 0, start:, start:] = block_mask(spans)
            moved[..., row, start:] = torch.cat([span.positions for span in spans], dim=1).reshape(
                moved[..., row, start:].shape
            )
        return {"attention_mask": mask, "position_ids": moved}

    def _language_inputs(self, batch: QuestionBatch) -> dict[str, Any]:
        """Keyword arguments of the inner model, images as features."""
        language: dict[str, Any] = {name: batch.inputs[name] for name in _LANGUAGE_INPUTS}
        if "pixel_values" in batch.inputs:
            features = self.layout.picture_features(self.model.model, batch.inputs, batch.inputs.get(_FEATURE_INDEX))
            language["mm_encoder_outputs"] = {"image": features}
        return language

    def label_rows(self, token_ids: Sequence[int]) -> Float[Tensor, "labels width"]:
        """Rows of the language-model head for these tokens."""
        weight: Tensor = self.model.get_output_embeddings().weight
        return weight[torch.as_tensor(token_ids, device=weight.device)]

    def set_image_limits(self, min_pixels: int | None, max_pixels: int | None) -> None:
        """Bound the resolution or the tiles' pixels of every image; None keeps the loaded config's bound."""
        self.layout = self._loaded_layout.with_image_limits(min_pixels, max_pixels)
        self.kept_pictures = KeptPictures()

    def save(self, folder: str | Path) -> None:
        """Write model, config, tokenizer and preprocessor files in Hugging Face layout (safetensors only)."""
        target = Path(folder)
        self.model.save_pretrained(target)
        self.tokenizer.save_pretrained(target)
        _write_json(target / "preprocessor_config.json", self.layout.preprocessor())
        _write_json(target / "processor_config.json", self.layout.processor())


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
