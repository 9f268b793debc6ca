"""How an alignment run makes pictures."""

from pydantic import BaseModel, ConfigDict, Field, model_validator

_STRICT = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class SamplingConfig(BaseModel):
    """How pictures are made, in training and, but for `evaluation_sampling`, in evaluations."""

    model_config = _STRICT

    height: int | None = Field(default=None, ge=1)
    """Height in pixels; null for the generator's own."""

    width: int | None = Field(default=None, ge=1)
    """Width in pixels; null for the generator's own."""

    frames: int | None = Field(default=None, ge=1)
    """Frames of a clip, for a generator that makes clips (Wan: one more than a multiple of 4); null for the generator's
    own."""

    denoising_steps: int | None = Field(default=None, ge=2)
    """Steps from noise to picture; null for the generator's own."""

    guidance: float | None = Field(default=None, ge=0)
    """Strength of guidance; null for the generator's own."""

    @model_validator(mode="after")
    def _size_is_whole(self) -> "SamplingConfig":
        if (self.height is None) != (self.width is None):
            raise ValueError("height and width belong together; give both or neither")
        return self


class EvaluationSamplingConfig(BaseModel):
    """What evaluations do differently.

    Training needs few steps, and DiffusionNFT no guidance; what people will get is made with more of both.
    """

    model_config = _STRICT

    denoising_steps: int | None = Field(default=None, ge=2)
    """Steps from noise to picture in evaluations; null for those of `sampling`."""

    guidance: float | None = Field(default=None, ge=0)
    """Strength of guidance in evaluations; null for that of `sampling`."""
