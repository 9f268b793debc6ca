"""SmolVLM: tiles marked by row and column, then a global view of the whole image.

An image's longer side is brought to a fixed length, both sides to multiples of the tile, and the result is cut; the
global view follows. An image that fits one tile is the global view alone. Tiles are always full, so the pixel mask of
the transformers model, which marks padding inside a tile, is all ones and is left out.

Source: SmolVLM, arXiv:2504.05299, section 2; Idefics3, arXiv:2408.12637, section 2.2.
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
from transformers.modeling_outputs import BaseModelOutputWithPooling

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

IMAGE_TOKEN = "<image>"
TILE_TOKEN = "<fake_token_around_image>"
GLOBAL_TOKEN = "<global-img>"
SPECIAL_TOKENS = ("<|im_start|>", "<end_of_utterance>", TILE_TOKEN, IMAGE_TOKEN, GLOBAL_TOKEN)
MAX_SIDE = 4096

CHAT_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""The family's format, for a folder whose tokenizer has the tokens but no template."""

PREPROCESSOR_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "image_processor_type": "SmolVLMImageProcessor",
        "size": {"longest_edge": 4 * 364},
        "max_image_size": {"longest_edge": 364},
        "resample": 1,
        "image_mean": (0.5, 0.5, 0.5),
        "image_std": (0.5, 0.5, 0.5),
        "do_image_splitting": True,
    }
)
"""What `SmolVLMImageProcessorPil` assumes for absent keys."""


def longest_side_size(height: int, width: int, longest: int) -> tuple[int, int]:
    """The size whose longer side is `longest` (at most 4096); the shorter side is rounded up to an even number."""
    ratio = width / height
    if width >= height:
        height, width = _even(int(longest / ratio)), longest
    else:
        height, width = longest, _even(int(longest * ratio))
    height, width = max(height, 1), max(width, 1)
    ratio = width / height
    if width >= height and width > MAX_SIDE:
        height, width = int(MAX_SIDE / ratio), MAX_SIDE
    elif height > width and height > MAX_SIDE:
        height, width = MAX_SIDE, int(MAX_SIDE * ratio)
    return max(height, 1), max(width, 1)


def tiled_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Multiples of the tile that hold the image, the longer side first."""
    ratio = width / height
    if width >= height:
        width = math.ceil(width / side) * side
        height = math.ceil(int(width / ratio) / side) * side
    else:
        height = math.ceil(height / side) * side
        width = math.ceil(int(height * ratio) / side) * side
    return height, width


@dataclass(frozen=True)
class SmolVLMLayout:
    """SmolVLM's tiles and tokens.

    Attributes:
        pixels: Resize filter and normalisation.
        side: Height and width of a tile in pixels.
        longest: Longer side of an image before it is cut.
        tokens_per_tile: Image tokens of one tile.
        is_split: Whether images are cut; else the global view stands alone.
        settings: The preprocessor config as loaded.
    """

    pixels: PixelSettings
    side: int
    longest: int
    tokens_per_tile: int
    is_split: bool
    settings: Mapping[str, Any]

    @property
    def placeholder(self) -> str:
        """The image token."""
        return IMAGE_TOKEN

    def picture_from_image(self, image: Image) -> Picture:
        """PIL route: bit-equal to `SmolVLMImageProcessorPil`."""
        whole = image
        for height, width in self._sizes(image.height, image.width):
            whole = resize_image(whole, height, width, self.pixels)
        views = [cut_tiles(normalise_image(whole, self.pixels), self.side)]
        if len(views[0]) > 1:
            views.append(normalise_image(resize_image(whole, self.side, self.side, self.pixels), self.pixels)[None])
        return self._picture(views, whole.height, whole.width)

    def pictures_from_pixels(self, pixels: Float[Tensor, "pictures 3 height width"]) -> list[Picture]:
        """Tensor route: float RGB in [0, 1], with gradient."""
        whole = pixels
        for height, width in self._sizes(pixels.shape[-2], pixels.shape[-1]):
            whole = resize_pixels(whole, height, width, self.pixels)
        views = [[cut_tiles(one, self.side)] for one in normalise_pixels(whole, self.pixels)]
        if len(views[0][0]) > 1:
            global_views = normalise_pixels(resize_pixels(whole, self.side, self.side, self.pixels), self.pixels)
            for own, view in zip(views, global_views, strict=True):
                own.append(view[None])
        return [self._picture(own, whole.shape[-2], whole.shape[-1]) for own in views]

    def image_text(self, picture: Picture) -> str:
        """Rows of marked tiles, an empty line, the global view."""
        rows, columns = picture.grid
        tile = IMAGE_TOKEN * self.tokens_per_tile
        view = TILE_TOKEN + GLOBAL_TOKEN + tile + TILE_TOKEN
        if rows * columns == 1:
            return view
        lines = (
            "".join(f"{TILE_TOKEN}<row_{row}_col_{column}>{tile}" for column in range(1, columns + 1)) + "\n"
            for row in range(1, rows + 1)
        )
        return "".join(lines) + "\n" + view

    def position_ids(
        self, questions: Sequence[EncodedQuestion], attention_mask: Int[Tensor, "batch length"]
    ) -> Int[Tensor, "batch length"]:
        """Positions count tokens."""
        return text_positions(attention_mask)

    def picture_inputs(self, pictures: Sequence[Picture]) -> dict[str, Tensor]:
        """All tiles of the batch, in one row: the model would otherwise need rows padded with empty tiles."""
        return {"pixel_values": torch.cat([picture.pixel_values for picture in pictures])[None]}

    def feature_index(self, pictures: Sequence[Picture], order: Sequence[int]) -> Int[Tensor, " tiles"]:
        """Rows of tiles."""
        return tile_index(pictures, order)

    def picture_features(self, model: Any, inputs: Mapping[str, Tensor], feature_index: Tensor | None) -> Any:
        """Projected tiles.

        The model's own `get_image_features` takes a tile of zeros for padding and drops it; even grey is such a tile.
        """
        tiles = inputs["pixel_values"][0].to(model.dtype)
        features = model.connector(model.vision_model(pixel_values=tiles, return_dict=True).last_hidden_state)
        if feature_index is not None:
            features = features[feature_index]
        return BaseModelOutputWithPooling(pooler_output=features.flatten(0, 1))

    def with_image_limits(self, min_pixels: int | None, max_pixels: int | None) -> "SmolVLMLayout":
        """Bound the area of a square image before it is cut, in whole tiles."""
        longest = self.longest
        if min_pixels is not None:
            longest = max(longest, math.ceil(math.sqrt(min_pixels) / self.side) * self.side)
        if max_pixels is not None:
            longest = min(longest, max(1, math.isqrt(max_pixels) // self.side) * self.side)
        return replace(self, longest=longest)

    def preprocessor(self) -> dict[str, Any]:
        """Content of `preprocessor_config.json`."""
        return {**PREPROCESSOR_DEFAULTS, **self.settings, "size": {"longest_edge": self.longest}}

    def processor(self) -> dict[str, Any]:
        """Content of `processor_config.json`."""
        return {"processor_class": "SmolVLMProcessor", "image_seq_len": self.tokens_per_tile}

    def _sizes(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        first = longest_side_size(height, width, self.longest)
        return first, tiled_size(*first, self.side) if self.is_split else (self.side, self.side)

    def _picture(self, views: list[Tensor], height: int, width: int) -> Picture:
        tiles = torch.cat(views)
        grid = (height // self.side, width // self.side)
        return Picture(pixel_values=tiles, tokens=len(tiles) * self.tokens_per_tile, grid=grid)


def smolvlm_layout(config: Any, settings: Mapping[str, Any]) -> SmolVLMLayout:
    """Read the layout from a model config and a preprocessor config.

    Raises:
        ModelError: The image processor's config does not fit the family.
    """
    values = {**PREPROCESSOR_DEFAULTS, **{name: value for name, value in settings.items() if value is not None}}
    if "longest_edge" not in values["size"]:
        raise ModelError(f"SmolVLM's image processor needs size.longest_edge, not {values['size']}")
    side = int(values["max_image_size"]["longest_edge"])
    patches = side // config.vision_config.patch_size
    return SmolVLMLayout(
        pixels=PixelSettings.from_preprocessor(settings, PREPROCESSOR_DEFAULTS),
        side=side,
        longest=int(values["size"]["longest_edge"]),
        tokens_per_tile=patches**2 // config.scale_factor**2,
        is_split=bool(values["do_image_splitting"]),
        settings=dict(settings),
    )


def _even(length: int) -> int:
    return length + length % 2
