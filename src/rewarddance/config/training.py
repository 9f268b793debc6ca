"""Everything that decides a run of `rewarddance train`.

The defaults are the vetted setting; a recipe states only what differs.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rewarddance.config.mirrors import Mirrors
from rewarddance.config.reasoning import DistillationConfig, RationaleConfig
from rewarddance.config.run_directory import RunDirectory

Share = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]

_STRICT = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class LoraConfig(BaseModel):
    """Low-rank adapters on the language model instead of full training."""

    model_config = _STRICT

    rank: int = Field(default=16, ge=1)
    """Rank of the update of each matrix."""

    alpha: float = Field(default=32.0, gt=0)
    """Scale of the update; it is multiplied by alpha / rank."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the adapter's inputs that are dropped in training."""

    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Names of the linear layers of the language model that get an adapter."""


class ModelConfig(BaseModel):
    """What is trained."""

    model_config = _STRICT

    base: str
    """Vision-language model to start from: a local folder or a hub id."""

    revision: str | None = None
    """Commit, branch or tag of a hub id; null for its default branch."""

    kind: Literal["pairwise", "pointwise", "scalar"] = "pairwise"
    """Paradigm: pairwise generative, pointwise generative, or a regression head."""

    instruction: str = "overall"
    """Name of the criteria that the model is given, or the path of a YAML file with them."""

    freeze_vision: bool = False
    """Whether the vision tower keeps its weights."""

    lora: LoraConfig | None = None
    """Adapters on the language model; null trains every weight."""

    min_pixels: int | None = Field(default=None, ge=1)
    """Smaller images are enlarged to about this many pixels; null for the family's own bound."""

    max_pixels: int | None = Field(default=None, ge=1)
    """Larger images are reduced to about this many pixels; null for the family's own bound."""

    attention: Literal["causal", "blocks"] = "causal"
    """What an image reads: everything before it, or (blocks) the criteria and prompt alone, so that what was read of
    one image serves against any other. Tournaments are several times faster; the model stays in this mode for good."""

    gradient_checkpointing: bool = False
    """Whether activations are computed again in the backward pass: less memory, about a third more time."""

    @model_validator(mode="after")
    def _pixel_bounds_are_ordered(self) -> "ModelConfig":
        if self.min_pixels is not None and self.max_pixels is not None and self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels ({self.min_pixels}) is above max_pixels ({self.max_pixels})")
        return self


class DataConfig(BaseModel):
    """What is learned from, and what is held out."""

    model_config = _STRICT

    train: Path
    """Folder of comparisons to learn from, as `rewarddance import` writes it."""

    evaluation: Path | None = None
    """Folder of held-out comparisons; null takes them from the training folder."""

    train_split: str | None = "train"
    """Split to learn from; null for all."""

    evaluation_split: str | None = None
    """Split that is held out; null for all of a separate `evaluation` folder, or else for `held_out_share`."""

    held_out_share: Share = 0.05
    """Share of the training prompts that is held out to choose the best checkpoint by, if neither `evaluation` nor
    `evaluation_split` is given; the split to be reported is not for that."""

    @property
    def holds_out_prompts(self) -> bool:
        """Whether the held-out comparisons are a share of the training prompts."""
        return self.evaluation is None and self.evaluation_split is None and self.held_out_share > 0

    dimension: str | None = None
    """Learn the choice of one dimension, such as `structure`; null for the overall choice."""

    max_comparisons: int | None = Field(default=None, ge=1)
    """Learn from the first this many comparisons of a seeded shuffle; null for all."""

    reference_sets: tuple[Annotated[int, Field(ge=2)], ...] = ()
    """Learn also from questions with this many reference images in one, made from media that were compared with
    several others of their prompt, as in rankings; empty for none. Such a model shows references together."""

    workers: int = Field(default=0, ge=0)
    """Processes that decode and preprocess images; 0 does it in the main process."""


class OptimizerConfig(BaseModel):
    """AdamW with a linear warm-up and a cosine decay to zero."""

    model_config = _STRICT

    learning_rate: float = Field(default=1e-5, gt=0)
    """Highest learning rate, at the end of the warm-up."""

    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay of matrices; biases and norms have none."""

    warmup_share: Share = 0.05
    """Share of all optimizer steps in which the learning rate rises from 0."""

    max_gradient_norm: float | None = Field(default=1.0, gt=0)
    """Longer gradients are scaled down to this norm; null for no limit."""

    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """Decay of the running mean and of the running square of the gradient."""


class LossConfig(BaseModel):
    """How a comparison becomes a loss."""

    model_config = _STRICT

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share by which hard choices are drawn towards one half."""

    answer_weight: float = Field(default=0.1, ge=0)
    """Pointwise only: weight of the yes/no cross-entropy beside the Bradley-Terry loss."""

    ties: Literal["soft", "drop"] = "soft"
    """Learn a tie as the target one half, or leave ties out."""


class TrainConfig(BaseModel):
    """A run of `rewarddance train`."""

    model_config = _STRICT

    model: ModelConfig
    """What is trained."""

    data: DataConfig
    """What is learned from, and what is held out."""

    optimizer: OptimizerConfig = OptimizerConfig()
    """AdamW with a linear warm-up and a cosine decay to zero."""

    loss: LossConfig = LossConfig()
    """How a comparison becomes a loss."""

    rationale: RationaleConfig | None = None
    """Learn the rationales that the comparisons carry; null leaves them out."""

    distillation: DistillationConfig | None = None
    """Learn the answers of another reward model as well; null for people's choices alone."""

    batch_size: int = Field(default=8, ge=1)
    """Comparisons in one forward pass of one process."""

    gradient_accumulation: int = Field(default=1, ge=1)
    """Forward passes before one optimizer step."""

    epochs: int = Field(default=1, ge=1)
    """How often every comparison is seen (in both orders, if `orders` is `both`). The last optimizer step is as large
    as the others, and may show some once more."""

    orders: Literal["both", "random", "as_stored"] = "both"
    """Show each comparison in both orders, in one order at random per epoch, or as it is stored."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the forward pass; `auto` is bfloat16 where the device has it. Weights stay in float32."""

    seed: int = Field(default=0, ge=0)
    """Decides the order of the data, the order of the media, new weights and dropout."""

    save_every: int | None = Field(default=None, ge=1)
    """Optimizer steps between checkpoints; null for one at the end of every epoch."""

    evaluate_every: int | None = Field(default=None, ge=1)
    """Optimizer steps between evaluations; null for one at the end of every epoch."""

    evaluation_comparisons: int | None = Field(default=500, ge=1)
    """Held-out comparisons of an evaluation during training, a seeded choice; null for all."""

    keep_checkpoints: int = Field(default=2, ge=1)
    """Newest checkpoints that stay on disk beside the best model."""

    out: RunDirectory = Path("runs/train")
    """Run directory."""

    mirrors: Mirrors = ()
    """Trackers that get the figures too: `tensorboard` (files in the run directory), `wandb` (project from the variable
    WANDB_PROJECT). They come with the extra `track`."""

    @model_validator(mode="after")
    def _evaluation_is_held_out(self) -> "TrainConfig":
        split = self.data.evaluation_split
        if self.data.evaluation is None and split is not None and self.data.train_split == split:
            raise ValueError(
                f"data.train_split and data.evaluation_split are both {self.data.train_split!r} of the same folder; "
                "name another split or an evaluation folder"
            )
        return self

    @model_validator(mode="after")
    def _only_a_pairwise_model_sees_several_references(self) -> "TrainConfig":
        if self.data.reference_sets and self.model.kind != "pairwise":
            raise ValueError(f"data.reference_sets are for a pairwise model; a {self.model.kind} one sees one medium")
        return self

    @model_validator(mode="after")
    def _only_a_pairwise_model_learns_rationales(self) -> "TrainConfig":
        if self.rationale is not None and self.model.kind != "pairwise":
            raise ValueError(f"rationale is for a pairwise model; a {self.model.kind} one sees one medium at a time")
        return self
