"""InternVL (the paper's family): square tiles of the vision tower's size, 1-D positions.

An image is one tile, or (tiling) the grid of tiles whose aspect ratio is nearest to the image's, followed by a
thumbnail of the whole. Each tile takes a fixed number of tokens.

Differs: transformers' `InternVLProcessor` tiles by default whatever the preprocessor config says; here the config
decides, and `set_image_limits(max_pixels=...)` turns tiling on.

Source: InternVL 1.5, arXiv:2404.16821, section 3.3 (dynamic high resolution).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Int
from PIL.Image import Image
from torch import Tensor

from rewarddance.core.errors import ModelError
from rewarddance.rewards.backbones.left_padding import text_positions
from rewarddance.rewards.backbones.pixels import (
    PixelSettings,
    normalise_image,
    normalise_pixels,
    resize_image,
    resize_pixels,
)
from rewarddance.rewards.backbones.protocol import EncodedQuestion, Picture
from rewarddance.rewards.backbones.tiles import cut_tiles, tile_index

IMAGE_TOKEN = "<IMG_CONTEXT>"
IMAGE_START_TOKEN = "<img>"
IMAGE_END_TOKEN = "</img>"
SPECIAL_TOKENS = ("<|im_start|>", "<|im_end|>", IMAGE_START_TOKEN, IMAGE_END_TOKEN, IMAGE_TOKEN)

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The family's format, for a folder whose tokenizer has the tokens but no template."""

PREPROCESSOR_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "image_processor_type": "GotOcr2ImageProcessor",
        "size": {"height": 384, "width": 384},
        "resample": 3,
        "image_mean": (0.48145466, 0.4578275, 0.40821073),
        "image_std": (0.26862954, 0.26130258, 0.27577711),
        "crop_to_patches": False,
        "min_patches": 1,
        "max_patches": 12,
    }
)
"""What `GotOcr2ImageProcessorPil` assumes for absent keys."""


def tile_grid(height: int, width: int, side: int, min_tiles: int, max_tiles: int) -> tuple[int, int]:
    """Rows and columns of tiles whose aspect ratio is nearest to the image's.

    Of equally near grids the larger is taken while the image covers more than half of it.
    """
    grids = sorted(
        (
            (rows, columns)
            for columns in range(1, max_tiles + 1)
            for rows in range(1, max_tiles + 1)
            if min_tiles <= rows * columns <= max_tiles
        ),
        key=lambda grid: grid[0] * grid[1],
    )
    best, best_difference = (1, 1), float("inf")
    for rows, columns in grids:
        difference = abs(width / height - columns / rows)
        covers_half = height * width > 0.5 * side * side * rows * columns
        if difference < best_difference or (difference == best_difference and covers_half):
            best, best_difference = (rows, columns), difference
    return best


@dataclass(frozen=True)
class InternVLLayout:
    """InternVL's tiles and tokens.

    Attributes:
        pixels: Resize filter and normalisation.
        side: Height and width of a tile in pixels.
        tokens_per_tile: Image tokens of one tile.
        min_tiles: Fewest tiles of a tiled image, without the thumbnail.
        max_tiles: Most tiles, without the thumbnail; 1 means no tiling.
        settings: The preprocessor config as loaded.
    """

    pixels: PixelSettings
    side: int
    tokens_per_tile: int
    min_tiles: int
    max_tiles: int
    settings: Mapping[str, Any]

    @property
    def placeholder(self) -> str:
        """The image token."""
        return IMAGE_TOKEN

    def picture_from_image(self, image: Image) -> Picture:
        """PIL route: bit-equal to `GotOcr2ImageProcessorPil`."""
        rows, columns = self._grid(image.height, image.width)
        whole = resize_image(image, rows * self.side, columns * self.side, self.pixels)
        views = [cut_tiles(normalise_image(whole, self.pixels), self.side)]
        if rows * columns > 1:
            views.append(normalise_image(resize_image(image, self.side, self.side, self.pixels), self.pixels)[None])
        return self._picture(views, (rows, columns))

    def pictures_from_pixels(self, pixels: Float[Tensor, "pictures 3 height width"]) -> list[Picture]:
        """Tensor route: float RGB in [0, 1], with gradient."""
        rows, columns = self._grid(pixels.shape[-2], pixels.shape[-1])
        whole = resize_pixels(pixels, rows * self.side, columns * self.side, self.pixels)
        views = [[cut_tiles(one, self.side)] for one in normalise_pixels(whole, self.pixels)]
        if rows * columns > 1:
            thumbnails = normalise_pixels(resize_pixels(pixels, self.side, self.side, self.pixels), self.pixels)
            for own, thumbnail in zip(views, thumbnails, strict=True):
                own.append(thumbnail[None])
        return [self._picture(own, (rows, columns)) for own in views]

    def image_text(self, picture: Picture) -> str:
        """The image tokens between their start and end."""
        return IMAGE_START_TOKEN + IMAGE_TOKEN * picture.tokens + IMAGE_END_TOKEN

    def position_ids(
        self, questions: Sequence[EncodedQuestion], attention_mask: Int[Tensor, "batch length"]
    ) -> Int[Tensor, "batch length"]:
        """Positions count tokens."""
        return text_positions(attention_mask)

    def picture_inputs(self, pictures: Sequence[Picture]) -> dict[str, Tensor]:
        """All tiles of the batch."""
        return {"pixel_values": torch.cat([picture.pixel_values for picture in pictures])}

    def feature_index(self, pictures: Sequence[Picture], order: Sequence[int]) -> Int[Tensor, " tiles"]:
        """Rows of tiles."""
        return tile_index(pictures, order)

    def picture_features(self, model: Any, inputs: Mapping[str, Tensor], feature_index: Tensor | None) -> Any:
        """Projected tiles."""
        features = model.get_image_features(pixel_values=inputs["pixel_values"], return_dict=True)
        if feature_index is not None:
            features.pooler_output = features.pooler_output[feature_index]
        return features

    def with_image_limits(self, min_pixels: int | None, max_pixels: int | None) -> "InternVLLayout":
        """Bound the number of tiles by their pixels; less than two tiles means no tiling."""
        tile = self.side * self.side
        max_tiles = self.max_tiles if max_pixels is None else max(1, max_pixels // tile)
        min_tiles = self.min_tiles if min_pixels is None else max(1, -(-min_pixels // tile))
        return replace(self, max_tiles=max_tiles, min_tiles=min(min_tiles, max_tiles))

    def preprocessor(self) -> dict[str, Any]:
        """Content of `preprocessor_config.json`."""
        tiling = {"crop_to_patches": self.max_tiles > 1, "min_patches": self.min_tiles, "max_patches": self.max_tiles}
        return {**PREPROCESSOR_DEFAULTS, **self.settings, **tiling}

    def processor(self) -> dict[str, Any]:
        """Content of `processor_config.json`."""
        return {"processor_class": "InternVLProcessor", "image_seq_length": self.tokens_per_tile}

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        return (1, 1) if self.max_tiles == 1 else tile_grid(height, width, self.side, self.min_tiles, self.max_tiles)

    def _picture(self, views: list[Tensor], grid: tuple[int, int]) -> Picture:
        tiles = torch.cat(views)
        return Picture(pixel_values=tiles, tokens=len(tiles) * self.tokens_per_tile, grid=grid)


def internvl_layout(config: Any, settings: Mapping[str, Any]) -> InternVLLayout:
    """Read the layout from a model config and a preprocessor config.

    Raises:
        ModelError: The tiles are not square, or the image processor's config does not fit the family.
    """
    values = {**PREPROCESSOR_DEFAULTS, **{name: value for name, value in settings.items() if value is not None}}
    side, width = int(values["size"]["height"]), int(values["size"]["width"])
    patch = config.vision_config.patch_size[0]
    if side != width or side % patch:
        raise ModelError(f"InternVL tiles must be square multiples of {patch} pixels, not {side}x{width}")
    is_tiled = bool(values["crop_to_patches"])
    return InternVLLayout(
        pixels=PixelSettings.from_preprocessor(settings, PREPROCESSOR_DEFAULTS),
        side=side,
        tokens_per_tile=round((side // patch * config.downsample_ratio) ** 2),
        min_tiles=int(values["min_patches"]) if is_tiled else 1,
        max_tiles=int(values["max_patches"]) if is_tiled else 1,
        settings=dict(settings),
    )
