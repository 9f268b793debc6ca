"""How rewards are asked, and how several of them come to one scale."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

_STRICT = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class RewardNormalisationConfig(BaseModel):
    """How several rewards, or one with a weight, come to one scale before they are added."""

    model_config = _STRICT

    over: Literal["running", "batch"] = "running"
    """Mean and spread by which each reward is normalised: of the steps so far, or of the batch at hand alone (with
    groups, of the pictures of a rollout)."""

    decay: float = Field(default=0.99, ge=0, lt=1)
    """For `running`: share of the memory that a new batch leaves in place; 0.99 looks back some hundred batches."""

    floor: float = Field(default=0.1, gt=0)
    """Least spread that is divided by, in the reward's own units (log-odds), so that a reward that hardly varies is not
    blown up to noise."""


class RewardPatienceConfig(BaseModel):
    """How long and how often a reward or judge that runs here is asked before the run stops."""

    model_config = _STRICT

    deadline_seconds: float | None = Field(default=600.0, gt=0)
    """For one try; null waits for ever. A service has a deadline of its own (`rewards[].service`)."""

    tries: int = Field(default=3, ge=1)
    """In all, the first included."""
