"""What a reward model needs from a vision-language model, whatever its family.

A question is a list of parts: text and images in reading order. A backbone turns it into token ids
(`encode`), questions into one padded batch (`collate`), and a batch into the hidden state at the answer
position (`answer_hidden`). Two routes lead from an image to the vision tower's input: the PIL route, bit-equal
to the family's own image processor, and the tensor route, differentiable down to the pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor, nn

if TYPE_CHECKING:
    from rewarddance.rewards.backbones.continuation import Continuation
    from rewarddance.rewards.backbones.kept_pictures import KeptPictures
    from rewarddance.rewards.backbones.passages import PassagePlan


AttentionMode = Literal["causal", "blocks"]
"""What an image reads: all that stands before it, or (block mode, to be trained for) the question's head alone."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One image, ready for the vision tower.

    Attributes:
        pixel_values: Normalised tiles `(tiles, 3, height, width)` or flat patches `(patches, features)`, as the family
            has it.
        tokens: How many image tokens it takes in the question.
        grid: `(frames, rows, columns)` of patches for families with such a grid; the `(rows, columns)` of tiles
            otherwise.
        is_passing: Whether it will not be asked about again, as what a policy has just made; nothing of it is kept.
    """

    pixel_values: Tensor
    tokens: int
    grid: tuple[int, ...]
    is_passing: bool = False


Part = str | Picture
"""A piece of a question: text, or an image at that place."""


@dataclass(frozen=True, slots=True)
class EncodedQuestion:
    """A question in the family's chat format, up to and including the generation prompt.

    Attributes:
        token_ids: The whole sequence; the next token is the answer.
        pictures: The images, in the order in which they stand in the sequence.
    """

    token_ids: tuple[int, ...]
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class QuestionBatch:
    """Questions padded on the left, so that the answer position is the last one of every row.

    Attributes:
        inputs: Keyword arguments of the transformers model: `input_ids`, `attention_mask`, `position_ids`,
            `pixel_values`, ...; and for `answer_hidden` alone `feature_index`, when an image is shown more than once,
            and `question_index`, when a question is asked more than once.
        plan: What questions to learn from have in common, to be read once, in place of `inputs`; None where they are
            padded. For `answer_hidden` alone.
    """

    inputs: dict[str, Tensor]
    plan: "PassagePlan | None" = None

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> "QuestionBatch":
        """The batch on a device; floating-point inputs in `dtype` when it is given."""
        return QuestionBatch(
            {
                name: value.to(device, dtype) if dtype is not None and value.is_floating_point() else value.to(device)
                for name, value in self.inputs.items()
            },
            self.plan,
        )


@runtime_checkable
class Backbone(Protocol):
    """A vision-language model of one family, with its token layout and its preprocessing."""

    family: str
    model: nn.Module
    tokenizer: Any
    kept_pictures: "KeptPictures"
    attention: AttentionMode

    @property
    def max_tokens(self) -> int:
        """Longest question, in tokens, that the model's positions allow."""

    def picture_from_image(self, image: Image) -> Picture:
        """PIL route: bit-equal to the family's own PIL image processor. The image is RGB already."""

    def pictures_from_pixels(self, pixels: Float[Tensor, "pictures 3 height width"]) -> list[Picture]:
        """Tensor route: float RGB in [0, 1], differentiable down to `pixels`; one picture a row."""

    def encode(self, parts: Sequence[Part]) -> EncodedQuestion:
        """One user turn in the family's chat format, followed by the generation prompt."""

    def collate(self, questions: Sequence[EncodedQuestion]) -> QuestionBatch:
        """Left-padded batch on the CPU; safe to call in a data-loader worker."""

    def collate_to_learn(self, questions: Sequence[EncodedQuestion]) -> QuestionBatch:
        """The same for `answer_hidden` with gradients of the weights: what the questions share may be read once."""

    def answer_hidden(self, batch: QuestionBatch) -> Float[Tensor, "batch width"]:
        """Last hidden state (after the final norm) at the answer position, with gradient if enabled."""

    def answer_states(self, questions: Sequence[EncodedQuestion]) -> Float[Tensor, "batch width"]:
        """The same for questions as they are, on the model's device; what they share is computed once."""

    def last_hidden(self, batch: QuestionBatch, positions: int) -> Float[Tensor, "batch positions width"]:
        """The same at the last positions of every row, to learn what follows the question."""

    def begin(self, batch: QuestionBatch) -> "Continuation":
        """Read questions, each once, to be continued token by token from their key/value cache."""

    def picture_vectors(self, pictures: Sequence[Picture]) -> Float[Tensor, "pictures width"]:
        """What the vision tower makes of each image, averaged over it; similar images have near vectors."""

    def label_rows(self, token_ids: Sequence[int]) -> Float[Tensor, "labels width"]:
        """Rows of the language-model head for these tokens."""

    def set_image_limits(self, min_pixels: int | None, max_pixels: int | None) -> None:
        """Bound the resolution (Qwen-VL) or the number of tiles' pixels (tiling families) of every image."""

    def save(self, folder: Any) -> None:
        """Write model, config, tokenizer and preprocessor files in Hugging Face layout (safetensors only)."""
