"""Items of the pretraining as tensors: token ids with their blocks, pixels, and the targets of the dense lessons."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from rewarddance.lab.base_models import IMAGE_TOKENS
from rewarddance.lab.candidates import LabCandidate
from rewarddance.lab.pretraining_questions import QUALITIES, Item
from rewarddance.lab.prompts import COLOURS, SHAPES, LabPrompt
from rewarddance.lab.world import SIDE, to_uint8

CELL = SIDE // 4  # pixels a side of what one image token sees
HEAD = "Prompt: "


@dataclass(frozen=True, slots=True)
class ItemBatch:
    """Items as tensors: one row is prefix, then lessons side by side.

    Shapes: `token_ids`, `positions` and `next_ids` (items, tokens), -100 in `next_ids` where nothing is learned;
    `named` (items, tokens): at the number of a picture in a question, the picture's index; -1 elsewhere;
    `blocks` (items, tokens): 0 for the prefix, the lesson's number otherwise, -1 for padding;
    `pixels` (2 items, 3, side, side); `colours`, `shapes`, `wanted` (2 items, cells); `truths` (2 items, 4).
    """

    token_ids: Tensor
    positions: Tensor
    blocks: Tensor
    next_ids: Tensor
    named: Tensor
    pixels: Tensor
    colours: Tensor
    shapes: Tensor
    wanted: Tensor
    truths: Tensor


def collate_items(items: list[Item], tokenizer: PreTrainedTokenizerFast) -> ItemBatch:
    """Lay items out as one padded batch."""
    rows = [_lay_out(item, tokenizer) for item in items]
    longest = max(len(row[0]) for row in rows)
    pads = (tokenizer.pad_token_id, 0, -1, -100)
    token_ids, positions, blocks, next_ids = (
        torch.tensor([[*row[part], *[pad] * (longest - len(row[part]))] for row in rows])
        for part, pad in enumerate(pads)
    )
    pictures = [candidate for item in items for candidate in item.candidates]
    cells = [_cells(item.prompt, candidate) for item in items for candidate in item.candidates]
    pixels = np.stack([to_uint8(candidate.pixels) for candidate in pictures]).astype(np.float32) / 127.5 - 1
    truths = [
        [candidate.alignment, *(1 - candidate.severity(fault) for _, _, fault in QUALITIES)] for candidate in pictures
    ]
    return ItemBatch(
        token_ids=token_ids,
        positions=positions,
        blocks=blocks,
        next_ids=next_ids,
        named=_named(token_ids, blocks, tokenizer),
        pixels=torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(),
        colours=torch.tensor([cell[0] for cell in cells]),
        shapes=torch.tensor([cell[1] for cell in cells]),
        wanted=torch.tensor([cell[2] for cell in cells]),
        truths=torch.tensor(truths, dtype=torch.float32),
    )


def _named(token_ids: Tensor, blocks: Tensor, tokenizer: PreTrainedTokenizerFast) -> Tensor:
    named = torch.full_like(token_ids, -1)
    for index, number in enumerate((" 1", " 2")):
        (token_id,) = tokenizer.encode(number)
        named[(token_ids == token_id) & (blocks > 0)] = index
    return named


def _lay_out(item: Item, tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int], list[int], list[int]]:
    """Token ids, positions, blocks and next ids of one item."""
    picture = "<img>" + "<IMG_CONTEXT>" * IMAGE_TOKENS + "</img>"
    prefix = f"<|im_start|>user\n{HEAD}{item.prompt.text}\nImage 1: {picture}\nImage 2: {picture}"
    ids = tokenizer.encode(prefix)
    start = len(ids)
    positions, blocks, following = list(range(start)), [0] * start, [-100] * start
    for number, lesson in enumerate(item.lessons, start=1):
        asked = tokenizer.encode(f"\n{lesson.question}<|im_end|>\n<|im_start|>assistant\n")
        answer = [*tokenizer.encode(lesson.answer), tokenizer.eos_token_id]
        branch = asked + answer[:-1]
        ids += branch
        positions += range(start, start + len(branch))
        blocks += [number] * len(branch)
        following += [-100] * (len(asked) - 1) + answer
    return ids, positions, blocks, following


def _cells(prompt: LabPrompt, candidate: LabCandidate) -> tuple[list[int], list[int], list[int]]:
    """Colour, shape and wantedness of what covers most of each cell: 0 for the ground."""
    colours, shapes, wanted = ([0] * IMAGE_TOKENS for _ in range(3))
    covered = [CELL * CELL * 0.2] * IMAGE_TOKENS
    for thing in candidate.scene.things:
        is_wanted = any(shape == thing.shape and colour in (None, thing.colour) for colour, shape in prompt.things)
        for cell in range(IMAGE_TOKENS):
            top, left = cell // 4 * CELL, cell % 4 * CELL
            rows = min(top + CELL, thing.top + thing.size) - max(top, thing.top)
            columns = min(left + CELL, thing.left + thing.size) - max(left, thing.left)
            if min(rows, columns) > 0 and rows * columns > covered[cell]:
                covered[cell] = rows * columns
                colours[cell] = 1 + COLOURS.index(thing.colour)
                shapes[cell] = 1 + SHAPES.index(thing.shape)
                wanted[cell] = 2 if is_wanted else 1
    return colours, shapes, wanted
