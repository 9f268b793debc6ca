"""The ways to improve a generator with a reward, one block each; `method.name` chooses."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]

_STRICT = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class ReflConfig(BaseModel):
    """ReFL: gradient of the reward of a picture that one random late denoising step predicts."""

    model_config = _STRICT

    name: Literal["refl"] = "refl"
    """Reward feedback learning, as in the paper."""

    window: tuple[Share, Share] = (0.75, 1.0)
    """Part of the trajectory in which the step with gradient lies, from 0 (noise) to 1 (picture); the default is
    ReFL's steps 30 to 39 of 40."""

    ceiling: float | None = None
    """Log-odds above which a picture is good enough and gives no gradient; with several rewards, their mean by weight.
    Null always pushes on."""

    @model_validator(mode="after")
    def _window_is_not_empty(self) -> "ReflConfig":
        if self.window[0] >= self.window[1]:
            raise ValueError(f"window {list(self.window)} is empty; give a start below its end, such as [0.75, 1.0]")
        return self


class DraftConfig(BaseModel):
    """DRaFT-K: gradient of the final picture's reward through the last denoising steps."""

    model_config = _STRICT

    name: Literal["draft"] = "draft"
    """Direct reward fine-tuning through the last steps; with `detach_inputs`, DRTune."""

    last_steps: int = Field(default=1, ge=1)
    """Denoising steps with gradient, K; each keeps the activations of the whole network."""

    detach_inputs: bool = False
    """Whether the gradient stops at the network's inputs, so that no product of many steps' derivatives forms."""

    ceiling: float | None = None
    """Log-odds above which a picture is good enough and gives no gradient; with several rewards, their mean by weight.
    Null always pushes on."""


class FlowGrpoConfig(BaseModel):
    """Flow-GRPO: policy gradients on stochastic denoising steps; the reward may be any program."""

    model_config = _STRICT

    name: Literal["flow_grpo"] = "flow_grpo"
    """Group-relative policy gradients on stochastic denoising steps."""

    group_size: int = Field(default=8, ge=2)
    """Pictures of one prompt that are compared with each other."""

    updates_per_rollout: int = Field(default=1, ge=1)
    """Optimizer steps on one set of pictures, each on its own part of them."""

    initial_noise: Literal["group", "own"] = "group"
    """What pictures of a group begin with: the same noise, so that their rewards differ by the stochastic steps alone,
    or noise of their own each."""

    noise: Literal["flow", "dance", "cps"] = "flow"
    """How much noise a stochastic step adds: as in Flow-GRPO, the same at all steps (DanceGRPO), or keeping the
    schedule's total (CPS)."""

    noise_level: float = Field(default=0.7, gt=0)
    """Strength of that noise; at most 1 for `cps`."""

    stochastic_steps: int | None = Field(default=None, ge=1)
    """Length of the window of stochastic steps, which starts at a random step; null for all. Steps that would leave
    noise in the picture are never stochastic: the last, and with `flow` and `dance` others that step far down."""

    clip_range: float = Field(default=1e-4, gt=0, lt=1)
    """How far the importance ratio, of mean log-probabilities over latent elements, may leave 1."""

    kl_weight: float = Field(default=0.0, ge=0)
    """Weight of the exact divergence from the reference policy at each stochastic step, per latent element."""

    spread: Literal["group", "global"] = "group"
    """Divide advantages by the spread of their own group or of all groups."""

    spread_floor: float = Field(default=0.05, gt=0)
    """Smallest spread to divide by, in units of the combined reward: equal pictures are not pushed apart by noise."""

    advantage_clip: float = Field(default=5.0, gt=0)
    """Largest advantage."""

    @model_validator(mode="after")
    def _noise_is_possible(self) -> "FlowGrpoConfig":
        if self.noise == "cps" and self.noise_level > 1:
            raise ValueError(f"noise_level ({self.noise_level:g}) is above 1, more noise than cps has; 0.8 is usual")
        return self


class DiffusionNftConfig(BaseModel):
    """DiffusionNFT: contrast good and bad pictures on the forward process; no trajectories, any reward."""

    model_config = _STRICT

    name: Literal["diffusion_nft"] = "diffusion_nft"
    """Negative-aware fine-tuning on the forward process."""

    group_size: int = Field(default=8, ge=2)
    """Pictures of one prompt that are compared with each other."""

    updates_per_rollout: int = Field(default=1, ge=1)
    """Optimizer steps on one set of pictures, each on its own part of them."""

    noise_levels: int = Field(default=2, ge=1)
    """Noise levels at which each picture is learned from in one optimizer step."""

    beta: float = Field(default=1.0, gt=0)
    """How far the implicit positive and negative policies stand from the old one; smaller is stronger."""

    old_policy: Literal["none", "rising", "late"] = "rising"
    """How slowly the policy that makes the pictures follows: not at all behind (`none`), keeping a share that rises
    to 0.5 in 500 steps, or one that rises to 0.999 between steps 75 and 209."""

    spread: Literal["group", "global"] = "group"
    """Divide advantages by the spread of their own group or of all groups."""

    spread_floor: float = Field(default=0.05, gt=0)
    """Smallest spread to divide by, in units of the combined reward: equal pictures are not pushed apart by noise."""

    advantage_clip: float = Field(default=5.0, gt=0)
    """Advantage at which a picture counts as wholly good, and its negative as wholly bad."""


MethodConfig = Annotated[
    ReflConfig | DraftConfig | FlowGrpoConfig | DiffusionNftConfig,
    Field(discriminator="name"),
]
