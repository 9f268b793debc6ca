"""The reward models of a run of `rewarddance align`: those that it is tuned towards, and those that are held out."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rewarddance.config.service import ServiceConfig

_STRICT = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

Kind = Literal["pairwise", "pointwise", "scalar"]
ModelDtype = Literal["auto", "float32", "bfloat16"]


class RewardConfig(BaseModel):
    """One of the rewards."""

    model_config = _STRICT

    model: str
    """Reward model, or instruct vision-language model to use zero-shot: a folder, a hub id, or a model of the lab. With
    a service, its folder or `rewarddance.json` alone, which say how it is asked."""

    kind: Kind | None = None
    """How an untrained model is asked, null for pairwise; what a trained one must be."""

    adapter: str | None = None
    """LoRA adapter on top of the model: a folder or a hub id."""

    revision: str | None = None
    """Commit, branch or tag of a hub id; null for its default branch."""

    dtype: ModelDtype = "auto"
    """Precision of its weights; `auto` is bfloat16 on a GPU that has it, else float32."""

    service: ServiceConfig | None = None
    """Where the model runs, if it is asked over HTTP; null runs it here. Only for methods that need no gradient."""

    weight: float = Field(default=1.0, gt=0)
    """Weight beside the other rewards, after each was brought to the same scale."""

    instruction: str | None = None
    """Name of the criteria to judge by, or the path of a YAML file with them; null for the model's own."""

    @model_validator(mode="after")
    def _loads_or_asks(self) -> "RewardConfig":
        _refuse_to_load_what_is_served(self)
        return self


class JudgeConfig(BaseModel):
    """A reward model that the policy is not trained towards."""

    model_config = _STRICT

    model: str
    """Reward model, or instruct vision-language model to use zero-shot: a folder, a hub id, or a model of the lab. With
    a service, its folder or `rewarddance.json` alone, which say how it is asked."""

    kind: Kind | None = None
    """How an untrained model is asked, null for pairwise; what a trained one must be."""

    adapter: str | None = None
    """LoRA adapter on top of the model: a folder or a hub id."""

    revision: str | None = None
    """Commit, branch or tag of a hub id; null for its default branch."""

    dtype: ModelDtype = "auto"
    """Precision of its weights; `auto` is bfloat16 on a GPU that has it, else float32."""

    service: ServiceConfig | None = None
    """Where the judge runs, if it is asked over HTTP; null runs it here. Fit for every method, as a judge needs no
    gradient."""

    instruction: str | None = None
    """Name of the criteria to judge by, or the path of a YAML file with them; null for the model's own."""

    shift: int = Field(default=0, ge=0)
    """Pixels by which pictures are moved before this judge sees them. Textures that please reward models are locked to
    their grid of patches and rarely survive it; a little under half a patch does well."""

    @model_validator(mode="after")
    def _loads_or_asks(self) -> "JudgeConfig":
        _refuse_to_load_what_is_served(self)
        return self

    def judges_as(self, reward: RewardConfig) -> bool:
        """Whether this judge is, by its name, the very reward: it then would judge what it is pleased by."""
        own, other = (
            (Path(each.model), each.kind, each.adapter, each.revision, each.instruction) for each in (self, reward)
        )
        return own == other and not self.shift


AskedModel = RewardConfig | JudgeConfig
"""What a config says of a model that judges."""


def _refuse_to_load_what_is_served(asked: AskedModel) -> None:
    if asked.service is None:
        return
    given = [name for name in ("adapter", "revision") if getattr(asked, name) is not None]
    given += ["dtype"] if asked.dtype != "auto" else []
    if given:
        raise ValueError(f"{given[0]} is for a model that is loaded here, and the service decides what it serves")
