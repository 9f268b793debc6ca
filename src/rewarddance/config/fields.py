"""A schema as a list of fields: for `config show`, for the documentation, and to find what a typo meant."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo


@dataclass(frozen=True, slots=True)
class FieldDescription:
    """One key of a config.

    Attributes:
        path: Dotted path, such as `optimizer.learning_rate`.
        type: What may stand there, in words of YAML.
        default: The default in words of YAML; None where a value is required.
        meaning: One or two sentences.
    """

    path: str
    type: str
    default: str | None
    meaning: str


def describe_fields(model_cls: type[BaseModel]) -> tuple[FieldDescription, ...]:
    """Every key of a config in the order of the schema, the keys of its blocks included."""
    return tuple(_walk(model_cls, ""))


def closest_path(model_cls: type[BaseModel], dotted: str) -> str | None:
    """The key that a misspelt or misplaced one probably meant, as a dotted path; None when nothing is near."""
    paths = [field.path for field in describe_fields(model_cls)]
    block, _, name = dotted.rpartition(".")
    last_words = {path: path.rpartition(".")[2] for path in paths}
    siblings = {word: path for path, word in last_words.items() if path == f"{block}.{word}".lstrip(".")}
    everywhere = {word: path for path, word in reversed(last_words.items())}
    for candidates in (siblings, everywhere):
        matches = get_close_matches(name, candidates, n=1, cutoff=0.7)
        if matches:
            return candidates[matches[0]]
    # The misspelt word may be that of a block: `optimiser.learning_rate`.
    return next(iter(get_close_matches(dotted, paths, n=1, cutoff=0.7)), None)


def path_of(model_cls: type[BaseModel], location: Sequence[str | int]) -> str:
    """Dotted path of a place that pydantic names, without the words with which it says which kind of value it tried."""
    words: list[str] = []
    block: type[BaseModel] | None = model_cls
    rest = list(location)
    while rest:
        part = rest.pop(0)
        words.append(str(part))
        info = None if block is None else block.model_fields.get(str(part))
        if info is None:
            continue
        options = _blocks(info.annotation)
        if info.discriminator is not None and rest:
            tag = rest.pop(0)
            options = tuple(option for option in options if tag in _kinds(option, str(info.discriminator)))
        block = options[0] if options else None
        if block is None and get_origin(info.annotation) is not dict:
            rest = [part for part in rest if isinstance(part, int)]
    return ".".join(words)


@dataclass(frozen=True, slots=True)
class KeyOfOtherKinds:
    """A key that stands in a block of one kind and belongs to others.

    Attributes:
        block: Dotted path of the block, such as `method`.
        chooses: Key of the block that names its kind.
        kind: Which it names.
        owners: Kinds that have the key.
    """

    block: str
    chooses: str
    kind: str
    owners: tuple[str, ...]


def key_of_other_kinds(model_cls: type[BaseModel], location: Sequence[str | int]) -> KeyOfOtherKinds | None:
    """What an unknown key is where the block comes in several kinds; None if no kind has it.

    Args:
        model_cls: The config.
        location: As pydantic names the place: keys, and of such a block its kind.
    """
    name, kind, key = location if len(location) == 3 else ("", "", "")
    info = model_cls.model_fields.get(str(name))
    if info is None or info.discriminator is None:
        return None
    chooses = str(info.discriminator)
    blocks = [block for block in _blocks(info.annotation) if key in block.model_fields]
    owners = tuple(owner for block in blocks for owner in _kinds(block, chooses))
    return KeyOfOtherKinds(str(name), chooses, str(kind), owners) if owners else None


def _walk(model_cls: type[BaseModel], prefix: str) -> Iterator[FieldDescription]:
    for name, info in model_cls.model_fields.items():
        path = f"{prefix}{name}"
        blocks = _blocks(info.annotation)
        is_list = get_origin(info.annotation) is tuple
        if not blocks or _is_optional(info.annotation):
            kind = "block or null" if blocks else _type_in_words(info.annotation)
            default = _default_in_words(info)
            if blocks and default != "null" and default is not None:
                default = "block"
            yield FieldDescription(path, kind, default, _one_line(info))
        if len(blocks) > 1:
            yield from _walk_kinds(blocks, str(info.discriminator), info.get_default(), f"{path}.")
        elif blocks:
            yield from _walk(blocks[0], f"{path}[]." if is_list else f"{path}.")


def _walk_kinds(
    blocks: Sequence[type[BaseModel]], discriminator: str, default: object, prefix: str
) -> Iterator[FieldDescription]:
    """Keys of a block that comes in several kinds, each key with the kinds that have it."""
    names = [name for block in blocks for name in _kinds(block, discriminator)]
    chosen = str(getattr(default, discriminator))
    meaning = " ".join(
        f"`{name}`: {_one_line(b.model_fields[discriminator])}" for name, b in zip(names, blocks, strict=True)
    )
    yield FieldDescription(f"{prefix}{discriminator}", " or ".join(f"`{name}`" for name in names), chosen, meaning)
    owners: dict[FieldDescription, list[str]] = {}
    for name, block in zip(names, blocks, strict=True):
        for field in _walk(block, prefix):
            if field.path != f"{prefix}{discriminator}":
                owners.setdefault(field, []).append(name)
    for field, kinds in owners.items():
        yield replace(field, meaning=f"For {', '.join(f'`{kind}`' for kind in kinds)}: {field.meaning}")


def _kinds(block: type[BaseModel], discriminator: str) -> tuple[str, ...]:
    return tuple(str(value) for value in get_args(block.model_fields[discriminator].annotation))


def _one_line(info: FieldInfo) -> str:
    return " ".join((info.description or "").split())


def _blocks(annotation: object) -> tuple[type[BaseModel], ...]:
    options = (annotation, *get_args(annotation))
    return tuple(kind for kind in options if isinstance(kind, type) and issubclass(kind, BaseModel))


def _is_optional(annotation: object) -> bool:
    return NoneType in get_args(annotation)


def _type_in_words(annotation: object) -> str:
    origin, options = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_in_words(options[0])
    if origin is Literal:
        return " or ".join(f"`{option}`" for option in options)
    if origin in (Union, UnionType):
        return " or ".join(_type_in_words(option) for option in options)
    if origin is tuple:
        return "list of " + _type_in_words(options[0])
    if origin is dict:
        return "keys and values"
    words = {int: "integer", float: "number", str: "text", bool: "true or false", Path: "path", NoneType: "null"}
    return words[annotation] if isinstance(annotation, type) else str(annotation)


def _default_in_words(info: FieldInfo) -> str | None:
    if info.is_required():
        return None
    return _value_in_words(info.get_default(call_default_factory=False))


def _value_in_words(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple):
        return "[" + ", ".join(_value_in_words(part) for part in value) + "]"
    return str(value)
