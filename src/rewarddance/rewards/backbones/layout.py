"""What differs between families: preprocessing of images, their tokens, and the extra inputs of the model."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from PIL.Image import Image
from torch import Tensor

from rewarddance.rewards.backbones.protocol import EncodedQuestion, Picture


@runtime_checkable
class Layout(Protocol):
    """A family's image preprocessing and token layout; a frozen value that knows no weights.

    Attributes:
        placeholder: Token that a chat template writes for an image, and that the model replaces by image features.
    """

    @property
    def placeholder(self) -> str:
        """The image token."""

    def picture_from_image(self, image: Image) -> Picture:
        """PIL route: bit-equal to the family's own PIL image processor."""

    def pictures_from_pixels(self, pixels: Float[Tensor, "pictures 3 height width"]) -> list[Picture]:
        """Tensor route: float RGB in [0, 1], with gradient; one picture a row, resized together."""

    def image_text(self, picture: Picture) -> str:
        """What the family writes in place of one placeholder."""

    def position_ids(
        self, questions: Sequence[EncodedQuestion], attention_mask: Int[Tensor, "batch length"]
    ) -> Int[Tensor, "..."]:
        """Positions of left-padded questions, as the language model wants them."""

    def picture_inputs(self, pictures: Sequence[Picture]) -> dict[str, Tensor]:
        """Vision inputs of the transformers model for these images in order."""

    def feature_index(self, pictures: Sequence[Picture], order: Sequence[int]) -> Int[Tensor, " features"]:
        """Which rows of the vision output stand at each image of the batch, when an image is shown more than once.

        Args:
            pictures: The distinct images, as given to `picture_inputs`.
            order: For each image of the batch in reading order, its number in `pictures`.
        """

    def picture_features(self, model: Any, inputs: Mapping[str, Tensor], feature_index: Tensor | None) -> Any:
        """Vision output of the inner model, with `pooler_output` in the order of the image tokens.

        Args:
            model: The inner transformers model, without the vocabulary head.
            inputs: What `picture_inputs` made.
            feature_index: What `feature_index` made; None when every image is shown once.
        """

    def with_image_limits(self, min_pixels: int | None, max_pixels: int | None) -> "Layout":
        """The same layout with the resolution or the number of tiles bounded."""

    def preprocessor(self) -> dict[str, Any]:
        """Content of `preprocessor_config.json`, limits included."""

    def processor(self) -> dict[str, Any]:
        """Content of `processor_config.json`."""
