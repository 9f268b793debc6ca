"""A family's chat format: from text and images in reading order to token ids.

The folder's own chat template is rendered once for each pattern of parts, with marks where the user's text goes.
What the template wrote is cut at special tokens; what the user wrote never is, so that a prompt cannot close its own
turn or claim an image. Text of both kinds that stands side by side is tokenised together, exactly as in the rendered
whole.
"""

import re
from collections.abc import Sequence
from functools import cache, cached_property, lru_cache
from typing import Any

from jinja2 import TemplateError

from rewarddance.core.errors import ModelError

_MARK = "\ue000{}\ue001"  # private-use characters: no template writes them
_MARK_PATTERN = re.compile("\ue000\\d+\ue001")
_TEXTS_KEPT, _LONGEST_KEPT = 8_192, 1_000  # texts and characters: some tens of megabytes at most


class ChatFormat:
    """One user turn followed by the generation prompt.

    Args:
        tokenizer: The folder's tokenizer.
        template: Jinja chat template that writes `placeholder` once for each image.
        placeholder: The family's image token.

    Raises:
        ModelError: The template ignores images or cannot be rendered.
    """

    def __init__(self, tokenizer: Any, template: str, placeholder: str) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._placeholder = placeholder
        self._chunks = cache(self._render)
        self._pieces = cache(self._cut)
        # Every question of a prompt begins alike, and every epoch asks about the same prompts.
        self._known_ids = lru_cache(_TEXTS_KEPT)(self._tokenised)
        if "".join(self._chunks((False, True))).count(placeholder) != 1:
            raise ModelError(
                f"the model's chat template writes no {placeholder} for an image; use an instruct model of this family"
            )

    def encode(self, parts: Sequence[str | None], image_texts: Sequence[str]) -> tuple[int, ...]:
        """Token ids of the whole sequence, up to and including the generation prompt.

        Args:
            parts: The user's text; None where an image stands.
            image_texts: What replaces the placeholder of each image, in order.
        """
        images = iter(image_texts)
        chunks = self._chunks(tuple(part is None for part in parts))
        texts = [part for part in parts if part is not None]
        ids: list[int] = []
        plain = ""
        for number, chunk in enumerate(chunks):
            for piece in self._pieces(chunk):
                expansion = self._pieces(next(images)) if piece == self._placeholder_id else (piece,)
                for item in expansion:
                    if isinstance(item, str):
                        plain += item
                    else:
                        if plain:
                            ids += self._plain_ids(plain)
                            plain = ""
                        ids.append(item)
            if number < len(texts):
                plain += texts[number]
        return (*ids, *self._plain_ids(plain))

    @cached_property
    def _added_tokens(self) -> dict[str, int]:
        return {token.content: number for number, token in self._tokenizer.added_tokens_decoder.items()}

    @cached_property
    def _placeholder_id(self) -> int:
        return self._added_tokens[self._placeholder]

    def _plain_ids(self, text: str) -> tuple[int, ...]:
        if not text:
            return ()
        return self._known_ids(text) if len(text) <= _LONGEST_KEPT else self._tokenised(text)

    def _tokenised(self, text: str) -> tuple[int, ...]:
        encoded = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        return tuple(encoded["input_ids"])

    def _cut(self, text: str) -> tuple[int | str, ...]:
        """Special tokens as ids, what stands between them as text."""
        longest_first = sorted(self._added_tokens, key=len, reverse=True)
        found = re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text)
        return tuple(self._added_tokens.get(piece, piece) for piece in found if piece)

    def _render(self, is_image: tuple[bool, ...]) -> tuple[str, ...]:
        """What the template writes before, between and after the user's texts."""
        content = [
            {"type": "image"} if image else {"type": "text", "text": _MARK.format(number)}
            for number, image in enumerate(is_image)
        ]
        try:
            rendered = self._tokenizer.apply_chat_template(
                [{"role": "user", "content": content}],
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=True,
            )
        except TemplateError as error:
            reason = str(error).partition("\n")[0]
            raise ModelError(
                f"the model's chat template cannot be rendered ({reason}); use an instruct model"
            ) from error
        chunks = tuple(_MARK_PATTERN.split(rendered))
        if len(chunks) != is_image.count(False) + 1:
            raise ModelError("the model's chat template drops or repeats the user's text; use an instruct model")
        return chunks
