"""Everything that decides a run of `rewarddance align`.

The defaults are the vetted setting; a recipe states only what differs.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rewarddance.config.alignment_methods import (
    DiffusionNftConfig,
    DraftConfig,
    FlowGrpoConfig,
    MethodConfig,
    ReflConfig,
)
from rewarddance.config.alignment_rewards import JudgeConfig, RewardConfig
from rewarddance.config.guard import GuardConfig
from rewarddance.config.mirrors import Mirrors
from rewarddance.config.rewards import RewardNormalisationConfig, RewardPatienceConfig
from rewarddance.config.run_directory import RunDirectory
from rewarddance.config.sampling import EvaluationSamplingConfig, SamplingConfig
from rewarddance.config.training import Beta, Share

_STRICT = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class GeneratorLoraConfig(BaseModel):
    """Low-rank adapters on the velocity network instead of full training."""

    model_config = _STRICT

    rank: int = Field(default=16, ge=1)
    """Rank of the update of each matrix."""

    alpha: float = Field(default=32.0, gt=0)
    """Scale of the update; it is multiplied by alpha / rank."""

    target_modules: tuple[str, ...] = Field(default=("to_q", "to_k", "to_v", "to_out.0"), min_length=1)
    """Names of the linear layers of the velocity network that get an adapter."""


class GeneratorConfig(BaseModel):
    """What is tuned."""

    model_config = _STRICT

    path: str
    """Generator to start from: a diffusers folder, a hub id, or a base of the lab."""

    revision: str | None = None
    """Commit, branch or tag of a hub id; null for its default branch."""

    adapter: Path | None = None
    """Folder of adapters that an earlier run left (its `adapter/`), for another stage: they stay beside the weights as
    they are, the policy begins with them, and they belong to the reference policy; null for none."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision in which frozen weights are kept; `auto` is that of the forward pass."""

    lora: GeneratorLoraConfig | None = GeneratorLoraConfig()
    """Adapters on the velocity network; null trains every weight of it."""

    gradient_checkpointing: bool = False
    """Whether activations of network, decoder and the rewards that are climbed are computed again in the backward pass:
    less memory, about a third more time."""


class PromptsConfig(BaseModel):
    """What the generator is asked for."""

    model_config = _STRICT

    train: Path
    """Prompts to learn on: text, JSON lines or parquet."""

    held_out: Path | None = None
    """Prompts to evaluate on; null takes them from the training prompts, which then are learned on too. JSON lines and
    parquet may give each a `kind`: the report then has a table by kind."""

    @property
    def evaluated(self) -> Path:
        """The list that evaluations choose from."""
        return self.held_out or self.train


class ReferencesConfig(BaseModel):
    """Reference images that candidates are judged against."""

    model_config = _STRICT

    folder: Path | None = None
    """Folder of `rewarddance references`; null for rewards that need none."""

    combine: Literal["mean", "random", "soft_min", "together"] = "mean"
    """With several references: mean log-odds, one at random, a soft minimum, or all in one question for a reward model
    that has learned that."""

    soft_min_temperature: float = Field(default=1.0, gt=0)
    """Of `soft_min`, in log-odds: near 0 the least counts alone, far above the spread the mean returns."""

    count: int = Field(default=1, ge=1)
    """References of each prompt that are used, of those that are kept."""

    kept: Literal["top", "bottom"] = "top"
    """Which of the kept pictures: the best, or for an ablation the worst, best or worst first."""

    refresh_every: int | None = Field(default=None, ge=1)
    """Optimizer steps after which references are made anew by a running mean of the policy, of the prompts that are
    drawn until then; null keeps the first. A reward must compare with them, or `pretraining_data` be `references`. A
    service that leaves a judgement of them without an answer stops the run, and --resume asks again."""

    ema_decay: float = Field(default=0.95, ge=0, lt=1)
    """How slowly that running mean follows the policy, per optimizer step."""


class AugmentationConfig(BaseModel):
    """Small changes of pictures before a differentiable reward sees them, against textures that please it alone."""

    model_config = _STRICT

    shift: int = Field(default=0, ge=0)
    """Largest shift in pixels, in both directions; a little under half a patch of the reward model does well."""

    noise: float = Field(default=0.0, ge=0, le=1)
    """Standard deviation of Gaussian noise on pixels in [0, 1]."""


class RegulariserConfig(BaseModel):
    """What keeps the policy near the generator that it came from."""

    model_config = _STRICT

    velocity_weight: float = Field(default=0.0, ge=0)
    """Weight of the mean squared distance between the velocities of policy and reference policy."""

    pretraining_weight: float = Field(default=0.0, ge=0)
    """Weight of the flow-matching loss on pictures that are not the policy's own."""

    pretraining_data: Path | Literal["references"] | None = None
    """JSON lines with `prompt` and `image` for that loss; or `references`, and the run's reference images, made anew or
    not, draw the policy towards them; null lets the reference policy make the pictures. Real or chosen pictures are
    learned without guidance, as in pre-training: if they were made with guidance, sampling adds to it. The reference
    policy's are made without guidance, and so hold the policy where it was. FLUX, which is told its guidance, has the
    run's throughout."""

    pretraining_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps after which that loss is left out; null keeps it to the end."""


class PolicyOptimizerConfig(BaseModel):
    """AdamW with a linear warm-up."""

    model_config = _STRICT

    learning_rate: float = Field(default=1e-4, gt=0)
    """Learning rate at the end of the warm-up; for full training a tenth of the default is a good start."""

    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay of matrices; biases and norms have none."""

    warmup_share: Share = 0.02
    """Share of all optimizer steps in which the learning rate rises from 0."""

    decay: Literal["constant", "cosine"] = "constant"
    """How the learning rate goes on after the warm-up: as it is, or along half a cosine to 0."""

    max_gradient_norm: float | None = Field(default=1.0, gt=0)
    """Longer gradients are scaled down to this norm; null for no limit."""

    betas: tuple[Beta, Beta] = (0.9, 0.99)
    """Decay of the running mean and of the running square of the gradient."""


class AlignConfig(BaseModel):
    """A run of `rewarddance align`."""

    model_config = _STRICT

    generator: GeneratorConfig
    """What is tuned."""

    rewards: tuple[RewardConfig, ...] = Field(min_length=1)
    """What it is tuned towards: one reward model or several."""

    reward_normalisation: RewardNormalisationConfig = RewardNormalisationConfig()
    """How several rewards, or one with a weight, come to one scale before they are added."""

    reward_patience: RewardPatienceConfig = RewardPatienceConfig()
    """How long and how often a reward or judge that runs here is asked before the run stops."""

    prompts: PromptsConfig
    """What the generator is asked for."""

    references: ReferencesConfig = ReferencesConfig()
    """Reference images that candidates are judged against."""

    sampling: SamplingConfig = SamplingConfig()
    """How pictures are made, in training and in evaluations."""

    evaluation_sampling: EvaluationSamplingConfig = EvaluationSamplingConfig()
    """What is different in evaluations: the figures, the guard and `samples/` then show what people will get."""

    method: MethodConfig = ReflConfig()
    """How the reward changes the generator."""

    augmentation: AugmentationConfig = AugmentationConfig()
    """Small changes of pictures before a differentiable reward sees them."""

    regulariser: RegulariserConfig = RegulariserConfig()
    """What keeps the policy near the generator that it came from."""

    optimizer: PolicyOptimizerConfig = PolicyOptimizerConfig()
    """AdamW with a linear warm-up."""

    judges: tuple[JudgeConfig, ...] = ()
    """Held-out judges: reward models that see evaluations only, and by which the guard knows hacking."""

    diversity_features: Literal["auto", "pixels"] = "auto"
    """What the diversity of a prompt's pictures is measured by: `auto` is the vision tower of the first held-out judge
    that runs here, which sees what they show; without one, and for `pixels`, a grid of colours and edges."""

    guard: GuardConfig | None = None
    """The watch for reward hacking, by the `judges` and at least two prompts; null trains without one."""

    batch_size: int = Field(default=8, ge=1)
    """Pictures in one forward pass."""

    gradient_accumulation: int = Field(default=1, ge=1)
    """Forward passes before one optimizer step."""

    optimizer_steps: int = Field(default=200, ge=1)
    """Updates of the whole run."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the forward pass; `auto` is bfloat16 where the device has it. What learns stays in float32."""

    seed: int = Field(default=0, ge=0)
    """Decides prompts, noise, denoising steps and new adapters."""

    save_every: int = Field(default=50, ge=1)
    """Optimizer steps between checkpoints."""

    evaluate_every: int = Field(default=20, ge=1)
    """Optimizer steps between evaluations on fixed prompts and fixed noise."""

    evaluation_prompts: int = Field(default=16, ge=1)
    """Prompts of an evaluation, a seeded choice."""

    evaluation_samples: int = Field(default=4, ge=1)
    """Pictures of each prompt in an evaluation; at least 2 show the spread and the diversity within a prompt, and a
    guard that watches for a collapse needs them."""

    evaluation_batch_size: int | None = Field(default=None, ge=1)
    """Pictures that an evaluation makes and judges at once; null for `batch_size`. There is no gradient, so that more
    fit than in an update."""

    samples_every: int = Field(default=20, ge=1)
    """Optimizer steps between pictures kept for people; a multiple of `evaluate_every`."""

    sample_prompts: int = Field(default=4, ge=0)
    """Prompts of the evaluation whose pictures are kept."""

    keep_checkpoints: int = Field(default=2, ge=1)
    """Newest checkpoints that stay on disk beside the best one."""

    out: RunDirectory = Path("runs/align")
    """Run directory."""

    mirrors: Mirrors = ()
    """Trackers that get the figures too: `tensorboard` (files in the run directory), `wandb` (project from the variable
    WANDB_PROJECT). They come with the extra `track`."""

    @model_validator(mode="after")
    def _settings_fit_together(self) -> "AlignConfig":
        if self.samples_every % self.evaluate_every:
            raise ValueError(
                f"samples_every ({self.samples_every}) is no multiple of evaluate_every ({self.evaluate_every}); "
                "pictures are kept from evaluations"
            )
        if isinstance(self.method, FlowGrpoConfig | DiffusionNftConfig):
            if self.optimizer_steps % self.method.updates_per_rollout:
                raise ValueError(
                    f"optimizer_steps ({self.optimizer_steps}) are no whole number of rollouts of "
                    f"method.updates_per_rollout ({self.method.updates_per_rollout}); change one of them"
                )
            pictures = self.batch_size * self.gradient_accumulation * self.method.updates_per_rollout
            if pictures % self.method.group_size:
                raise ValueError(
                    f"a rollout makes {pictures} pictures (batch_size * gradient_accumulation * "
                    f"method.updates_per_rollout), which are no whole groups of method.group_size "
                    f"({self.method.group_size}); change one of these"
                )
        if isinstance(self.method, ReflConfig | DraftConfig) and any(reward.service for reward in self.rewards):
            raise ValueError(
                f"method {self.method.name} climbs the gradient of the reward, and none comes back from a service; "
                "use flow_grpo or diffusion_nft, or run the reward model here"
            )
        if self.references.kept == "bottom":
            self._require_use_of_the_worst()
        if self.guard is not None:
            self._require_what_it_needs(self.guard)
        for judge in self.judges:
            if any(judge.judges_as(reward) for reward in self.rewards):
                raise ValueError(
                    f"judges names {judge.model}, which is a reward as well and would judge what it is pleased by; "
                    "name a reward model of other comparisons, or set its `shift` if there is none"
                )
        if self.regulariser.pretraining_data is not None and not self.regulariser.pretraining_weight:
            raise ValueError("regulariser.pretraining_data is given but regulariser.pretraining_weight is 0; set both")
        return self

    @property
    def for_evaluation(self) -> "AlignConfig":
        """The same, with `sampling` as evaluations have it."""
        changes = self.evaluation_sampling.model_dump(exclude_none=True)
        return self.model_copy(update={"sampling": self.sampling.model_copy(update=changes)})

    @property
    def makes_references(self) -> bool:
        """Whether the run may make reference images of its own, because it is told to or the guard is."""
        asked_by_guard = self.guard is not None and self.guard.action == "refresh_references"
        return self.references.refresh_every is not None or asked_by_guard

    def _require_what_it_needs(self, guard: GuardConfig) -> None:
        if guard.action == "raise_kl" and not any(self._pulling_weights()):
            raise ValueError(
                "guard.action raise_kl has no weight to raise to the end of the run; "
                "give regulariser.velocity_weight or method.kl_weight"
            )
        if not self.judges:
            raise ValueError("guard needs a held-out judge; name in judges a reward model that is none of the rewards")
        if self.evaluation_prompts < 2:
            raise ValueError("guard compares prompts, and evaluation_prompts is 1; give it 2 or more, better 30 to 80")
        if guard.collapse_share is not None and self.evaluation_samples < 2:
            raise ValueError(
                "guard sees no collapse, spread or diversity in one picture of a prompt, and evaluation_samples is 1; "
                "give it 2 or more, or set guard.collapse_share null to watch the judges alone"
            )

    def _require_use_of_the_worst(self) -> None:
        if self.regulariser.pretraining_data == "references":
            raise ValueError(
                "regulariser.pretraining_data is `references`, and references.kept is bottom: the policy would learn "
                "the worst pictures; change one of them"
            )
        if self.makes_references:
            raise ValueError(
                "new reference images are the best that the policy makes; references.kept: bottom needs those of the "
                "folder, without references.refresh_every and guard.action refresh_references"
            )

    def _pulling_weights(self) -> tuple[float, ...]:
        """Of what draws the policy towards the reference policy as long as the run goes on."""
        own = self.regulariser
        is_lasting = own.pretraining_data is None and own.pretraining_steps is None
        return (
            own.velocity_weight,
            own.pretraining_weight if is_lasting else 0.0,
            self.method.kl_weight if isinstance(self.method, FlowGrpoConfig) else 0.0,
        )
