"""What a reward model learns beside the choices: rationales, and the answers of a teacher that reasons."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

_STRICT = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class RationaleConfig(BaseModel):
    """Learn the rationales that the comparisons carry; a pairwise model only."""

    model_config = _STRICT

    answer_weight: float = Field(default=0.1, gt=0, le=1)
    """Share of the answer's loss; the rest is the mean over the tokens of the rationale."""

    reason_first_share: float = Field(default=0.5, ge=0, lt=1)
    """Share of the comparisons that are asked for their rationale before the answer, drawn anew every time; the others
    give the answer first. Below 1, because the best checkpoint is chosen by the answer alone."""

    when_swapped: Literal["answer_alone", "exchanged"] = "answer_alone"
    """What is learned of a comparison with a rationale where it is shown in the other order than it is stored in: the
    answer alone, or (exchanged) the rationale too, with the numbers of its media exchanged. A text that spoke of image
    1 first then speaks of image 2 first, which nothing in the question foretells."""


class DistillationConfig(BaseModel):
    """Learn the answers of another reward model, which may give reasons first.

    Comparisons without a choice, which are left out elsewhere, are learned from its answers alone.
    """

    model_config = _STRICT

    teacher: str
    """Reward model to learn from, or instruct vision-language model to use zero-shot: a folder or a hub id."""

    teacher_kind: Literal["pairwise", "pointwise", "scalar"] | None = None
    """How an untrained teacher is asked, null for pairwise; what a trained one must be."""

    teacher_revision: str | None = None
    """Commit, branch or tag of a hub id; null for its default branch."""

    format: Literal["reason_first", "answer_first"] = "reason_first"
    """Whether the teacher answers after its rationales, or at once."""

    samples: int = Field(default=4, ge=1)
    """Rationales of each comparison in each order, whose probabilities are averaged; of no use with `answer_first`."""

    sampling_temperature: float = Field(default=1.0, ge=0)
    """Temperature at which the teacher writes; 0 writes the one most probable rationale, for which `samples` is 1."""

    max_tokens: int = Field(default=256, ge=1)
    """Longest rationale of the teacher; a longer one is counted and left out."""

    temperature: float = Field(default=1.0, gt=0)
    """What the log-odds of teacher and student are divided by before they are compared."""

    weight: float = Field(default=0.5, gt=0, le=1)
    """Share of the teacher's answer in the loss; the rest is people's choice, if there is one."""

    @model_validator(mode="after")
    def _several_samples_differ(self) -> "DistillationConfig":
        if self.format == "reason_first" and self.samples > 1 and self.sampling_temperature == 0:
            raise ValueError("sampling_temperature 0 writes the same rationale every time; set samples to 1")
        return self
