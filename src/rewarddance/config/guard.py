"""What counts as reward hacking, and what to do about it."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

_STRICT = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

Share = Annotated[float, Field(ge=0, le=1)]
ErrorRate = Annotated[float, Field(gt=0, lt=1)]
Action = Literal["none", "stop", "roll_back", "raise_kl", "refresh_references"]


class GuardConfig(BaseModel):
    """When a run is healthy, suspicious or hacking its reward, judged at every evaluation."""

    model_config = _STRICT

    action: Action = "roll_back"
    """What a run does when it hacks: nothing, stop, stop at the best checkpoint, pull three times as hard towards the
    reference policy (three times at most, 27 times as hard; then `roll_back`), or make new reference images. After one
    of the last two, the judges are compared with their best since then, and a run that ends hacking or surely below the
    best of the whole run leaves that one behind."""

    cooldown: int = Field(default=3, ge=1)
    """Evaluations from one action to the next."""

    fall_share: Share = 0.08
    """Fall of the held-out judges from their best that counts, as a share of their rise until then."""

    minimum_fall: float = Field(default=0.03, ge=0)
    """Smallest fall that counts, in standard deviations of the judges over the prompts at the base policy; decides
    where the held-out judges never rose."""

    error_rate: ErrorRate = 0.05
    """Highest probability that a run whose held-out judges never fall is ever called hacking for a fall, over all of
    its evaluations."""

    lone_error_rate: ErrorRate = 0.01
    """The same for a fall that no other signal supports; at most `error_rate`."""

    looks: int = Field(default=20, ge=1)
    """Evaluations over which half of the error rate is spread; there may be more."""

    smoothing: int = Field(default=2, ge=1)
    """Evaluations that are averaged before the best and the latest are compared."""

    corroboration: int = Field(default=1, ge=0)
    """Other signals that must support a fall for `error_rate` to hold instead of `lone_error_rate`."""

    agreeing_share: Share = 0.5
    """Share of the held-out judges that must each have fallen."""

    patience: int = Field(default=3, ge=1)
    """Evaluations in a row below the best after which the fall's persistence is a signal, and without a new best after
    which the held-out judges have stalled."""

    persistent_level: ErrorRate | None = 0.02
    """A fall is also believed when each of the last `patience` evaluations shows it at this level by itself; not
    bounded by `error_rate`. Null for none."""

    roll_back_errors: float = Field(default=1.5, ge=0)
    """Standard errors over the prompts by which an evaluation may lie below the best and still count as good as it: of
    those in a row after the best, the last is rolled back to. 0 for the best itself."""

    diversity_share: Share = 0.7
    """Within-prompt diversity, as a share of the base policy's, below which its loss is a signal."""

    collapse_share: Share | None = 0.25
    """Diversity, as a share of the base policy's, below which a run is hacking whatever the judges say; null for
    none."""

    spread_share: Share = 0.5
    """Within-prompt spread of the proxy reward, as a share of the base policy's, below which its loss is a signal."""

    saturation_share: Share = 0.9
    """Share of saturated scores from which saturation is a signal, unless it was that high at the base policy."""

    saturation_score: float = Field(default=0.95, gt=0.5, lt=1)
    """Score from which a picture counts as saturated."""

    statistics_drift: float = Field(default=2.0, gt=0)
    """Shift of an image statistic that is a signal, in standard deviations of the base policy's pictures."""

    maximum_distance: float | None = Field(default=None, gt=0)
    """Distance to the reference policy that is a signal, in the run's own unit; null for none."""

    @model_validator(mode="after")
    def _lone_falls_need_more_evidence(self) -> "GuardConfig":
        if self.lone_error_rate > self.error_rate:
            raise ValueError(f"lone_error_rate ({self.lone_error_rate}) is above error_rate ({self.error_rate})")
        return self


class SpreadConfig(BaseModel):
    """The paper's signal alone: reward variance that vanishes."""

    model_config = _STRICT

    share: Share = 0.5
    """Variance, as a share of the first evaluation's, below which a run is called hacking."""

    window: int = Field(default=3, ge=1)
    """Evaluations over which the variance is averaged."""

    of: Literal["score", "reward"] = "score"
    """Variance of the scores, as in the paper, or of the log-odds."""

    among: Literal["prompt", "all"] = "prompt"
    """Variance within each prompt, or over all pictures of the window, as in the paper."""

    action: Action = "roll_back"
    """What a run does when it hacks."""
