"""What the Qwen-VL families share: native resolution, flat patches, 3-D positions.

An image keeps its aspect ratio; both sides become multiples of patch times merge, and its area is bounded. Patches
are flattened in the order in which the vision tower merges them, squares of `merge` by `merge` patches together, and
repeated along time, as a still image is a clip of equal frames.

Source: Qwen2-VL, arXiv:2409.12191, section 2.1 (naive dynamic resolution, multimodal rotary positions).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Int
from PIL.Image import Image
from torch import Tensor

from rewarddance.core.errors import MediaError, ModelError
from rewarddance.rewards.backbones.pixels import (
    PixelSettings,
    normalise_image,
    normalise_pixels,
    resize_image,
    resize_pixels,
)
from rewarddance.rewards.backbones.protocol import EncodedQuestion, Picture
from rewarddance.rewards.backbones.qwen_positions import multimodal_positions

IMAGE_TOKEN = "<|image_pad|>"
SPECIAL_TOKENS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", IMAGE_TOKEN)
MAX_ASPECT_RATIO = 200

PREPROCESSOR_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "image_processor_type": "Qwen2VLImageProcessor",
        "size": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280},
        "resample": 3,
        "image_mean": (0.48145466, 0.4578275, 0.40821073),
        "image_std": (0.26862954, 0.26130258, 0.27577711),
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
    }
)
"""What `Qwen2VLImageProcessorPil` assumes for absent keys."""


def bounded_size(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Multiples of `factor` nearest to the size, with an area between the bounds and nearly the same aspect ratio.

    Raises:
        MediaError: One side is more than 200 times the other.
    """
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise MediaError(
            f"an image of {width}x{height} is too narrow; one side may be {MAX_ASPECT_RATIO} times the other"
        )
    rounded = (round(height / factor) * factor, round(width / factor) * factor)
    area = rounded[0] * rounded[1]
    if area > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        return (
            max(factor, math.floor(height / shrink / factor) * factor),
            max(factor, math.floor(width / shrink / factor) * factor),
        )
    if area < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        return math.ceil(height * grow / factor) * factor, math.ceil(width * grow / factor) * factor
    return rounded


def cut_patches(
    pixels: Float[Tensor, "3 height width"], patch: int, merge: int, frames: int
) -> Float[Tensor, "patches features"]:
    """Flat patches in the order of the vision tower's merging, each `(channel, frame, row, column)`."""
    channels, height, width = pixels.shape
    rows, columns = height // (patch * merge), width // (patch * merge)
    blocks = pixels.reshape(channels, rows, merge, patch, columns, merge, patch)
    blocks = blocks.permute(1, 4, 2, 5, 0, 3, 6)  # (rows, columns, merge, merge, channel, patch, patch)
    repeated = blocks.unsqueeze(5).expand(*blocks.shape[:5], frames, *blocks.shape[5:])
    return repeated.reshape(rows * columns * merge * merge, channels * frames * patch * patch)


@dataclass(frozen=True)
class QwenLayout:
    """Patches and tokens of a Qwen-VL family.

    Attributes:
        pixels: Resize filter and normalisation.
        patch: Side of a patch in pixels.
        merge: Patches merged into one token along each axis.
        frames: Equal frames that a still image is repeated to.
        min_pixels: Smallest area of a resized image.
        max_pixels: Largest area of a resized image.
        image_token_id: The image token of the model config.
        processor_class: Name of the transformers processor.
        settings: The preprocessor config as loaded.
    """

    pixels: PixelSettings
    patch: int
    merge: int
    frames: int
    min_pixels: int
    max_pixels: int
    image_token_id: int
    processor_class: str
    settings: Mapping[str, Any]

    @property
    def placeholder(self) -> str:
        """The image token."""
        return IMAGE_TOKEN

    def picture_from_image(self, image: Image) -> Picture:
        """PIL route: bit-equal to `Qwen2VLImageProcessorPil`."""
        height, width = self._size(image.height, image.width)
        return self._picture(normalise_image(resize_image(image, height, width, self.pixels), self.pixels))

    def pictures_from_pixels(self, pixels: Float[Tensor, "pictures 3 height width"]) -> list[Picture]:
        """Tensor route: float RGB in [0, 1], with gradient."""
        height, width = self._size(pixels.shape[-2], pixels.shape[-1])
        whole = normalise_pixels(resize_pixels(pixels, height, width, self.pixels), self.pixels)
        return [self._picture(one) for one in whole]

    def image_text(self, picture: Picture) -> str:
        """One image token for each square of merged patches; the template writes the start and end around it."""
        return IMAGE_TOKEN * picture.tokens

    def position_ids(
        self, questions: Sequence[EncodedQuestion], attention_mask: Int[Tensor, "batch length"]
    ) -> Int[Tensor, "3 batch length"]:
        """Frame, row and column of every token."""
        positions = attention_mask.new_zeros(3, *attention_mask.shape)
        for row, question in enumerate(questions):
            grids = [picture.grid for picture in question.pictures]
            own = multimodal_positions(question.token_ids, grids, self.image_token_id, self.merge)
            positions[:, row, attention_mask.shape[1] - own.shape[1] :] = own
        return positions

    def picture_inputs(self, pictures: Sequence[Picture]) -> dict[str, Tensor]:
        """All patches of the batch, and the grid of each image."""
        return {
            "pixel_values": torch.cat([picture.pixel_values for picture in pictures]),
            "image_grid_thw": torch.tensor([picture.grid for picture in pictures], dtype=torch.long),
        }

    def feature_index(self, pictures: Sequence[Picture], order: Sequence[int]) -> Int[Tensor, " pictures"]:
        """Numbers of images."""
        return torch.tensor(order, dtype=torch.long)

    def picture_features(self, model: Any, inputs: Mapping[str, Tensor], feature_index: Tensor | None) -> Any:
        """Merged patches of each image, and the deep-stack features where the family has them."""
        features = model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True)
        if feature_index is not None:
            order = feature_index.tolist()
            features.pooler_output = [features.pooler_output[number] for number in order]
            if getattr(features, "deepstack_features", None) is not None:
                features.deepstack_features = [
                    [layer[number] for number in order] for layer in features.deepstack_features
                ]
        return features

    def with_image_limits(self, min_pixels: int | None, max_pixels: int | None) -> "QwenLayout":
        """Bound the area of every image after resizing."""
        largest = self.max_pixels if max_pixels is None else max_pixels
        smallest = self.min_pixels if min_pixels is None else min_pixels
        return replace(self, min_pixels=min(smallest, largest), max_pixels=largest)

    def preprocessor(self) -> dict[str, Any]:
        """Content of `preprocessor_config.json`."""
        stale = {"min_pixels", "max_pixels"}  # older repositories bound the area by these instead of `size`
        kept = {name: value for name, value in self.settings.items() if name not in stale}
        size = {"shortest_edge": self.min_pixels, "longest_edge": self.max_pixels}
        return {**PREPROCESSOR_DEFAULTS, **kept, "size": size}

    def processor(self) -> dict[str, Any]:
        """Content of `processor_config.json`."""
        return {"processor_class": self.processor_class}

    def _size(self, height: int, width: int) -> tuple[int, int]:
        return bounded_size(height, width, self.patch * self.merge, self.min_pixels, self.max_pixels)

    def _picture(self, pixels: Tensor) -> Picture:
        rows, columns = pixels.shape[-2] // self.patch, pixels.shape[-1] // self.patch
        return Picture(
            pixel_values=cut_patches(pixels, self.patch, self.merge, self.frames),
            tokens=rows * columns // self.merge**2,
            grid=(1, rows, columns),
        )


def qwen_layout(config: Any, settings: Mapping[str, Any], processor_class: str) -> QwenLayout:
    """Read the layout from a model config and a preprocessor config.

    Raises:
        ModelError: The two disagree on the patches, or the image processor's config does not fit the family.
    """
    values = {**PREPROCESSOR_DEFAULTS, **{name: value for name, value in settings.items() if value is not None}}
    size = {**PREPROCESSOR_DEFAULTS["size"], **values["size"]}
    vision = config.vision_config
    stated = (values["patch_size"], values["merge_size"], values["temporal_patch_size"])
    needed = (vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size)
    if stated != needed:
        raise ModelError(f"the image processor config has patch, merge and frames {stated}, the model needs {needed}")
    return QwenLayout(
        pixels=PixelSettings.from_preprocessor(settings, PREPROCESSOR_DEFAULTS),
        patch=int(values["patch_size"]),
        merge=int(values["merge_size"]),
        frames=int(values["temporal_patch_size"]),
        min_pixels=int(values.get("min_pixels", size["shortest_edge"])),
        max_pixels=int(values.get("max_pixels", size["longest_edge"])),
        image_token_id=int(config.image_token_id),
        processor_class=processor_class,
        settings=dict(settings),
    )
