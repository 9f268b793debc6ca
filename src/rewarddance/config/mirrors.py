"""Where the figures of a run may go beside its folder."""

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator

MirrorName: TypeAlias = Literal["tensorboard", "wandb"]


def _each_once(names: tuple[MirrorName, ...]) -> tuple[MirrorName, ...]:
    return tuple(dict.fromkeys(names))


Mirrors: TypeAlias = Annotated[tuple[MirrorName, ...], AfterValidator(_each_once)]
"""Trackers by name; none by default, for a run folder is complete without."""
