"""A small reward model that reads no file, for tests of the loop alone: its pictures are numbers made from the path."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rewarddance.core.seeding import derive_seed
from rewarddance.core.types import Comparison, Media
from rewarddance.rewards.backbones.protocol import QuestionBatch
from rewarddance.rewards.protocol import ComparisonLoss, LossSettings, PreparedComparisons

WIDTH = 12


class TinyVision(nn.Module):
    """A vision tower and a language model by name, a perceptron by nature; its dropout makes randomness count."""

    def __init__(self) -> None:
        super().__init__()
        self.vision_tower = nn.Linear(WIDTH, WIDTH)
        self.language_model = nn.ModuleDict({"q_proj": nn.Linear(2 * WIDTH, WIDTH), "head": nn.Linear(WIDTH, 1)})
        self.dropout = nn.Dropout(0.1)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        seen = torch.cat([torch.tanh(self.vision_tower(first)), torch.tanh(self.vision_tower(second))], dim=-1)
        hidden = self.dropout(torch.tanh(self.language_model["q_proj"](seen)))
        return self.language_model["head"](hidden)[:, 0]


class StandInModel:
    """Implements what training uses of `RewardModel`."""

    kind = "pairwise"

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.training: Mapping[str, object] | None = None
        self.module: nn.Module = TinyVision()
        self.backbone: Any = SimpleNamespace(model=self.module, set_image_limits=lambda *_: None)

    def prepare_comparisons(self, comparisons: Sequence[Comparison]) -> PreparedComparisons:
        inputs = {
            "first": torch.stack([picture(comparison.first) for comparison in comparisons]),
            "second": torch.stack([picture(comparison.second) for comparison in comparisons]),
        }
        return PreparedComparisons(
            ids=tuple(comparison.id for comparison in comparisons),
            questions=QuestionBatch(inputs),
            targets=torch.tensor([comparison.target for comparison in comparisons], dtype=torch.float32),
            weights=torch.tensor([comparison.weight for comparison in comparisons], dtype=torch.float32),
        )

    def comparison_loss(self, prepared: PreparedComparisons, settings: LossSettings) -> ComparisonLoss:
        log_odds = self.module(**prepared.questions.inputs).float()
        loss = prepared.weights * F.binary_cross_entropy_with_logits(log_odds, prepared.targets, reduction="none")
        return ComparisonLoss(loss, log_odds.detach())

    def judge(self, requests: Any, order_mode: Any = None) -> Any:
        raise NotImplementedError

    def compare(self, prompt: Any, candidate: Any, reference_image: Any, instruction: Any = None) -> Any:
        raise NotImplementedError

    def rank(self, prompt: Any, candidates: Any, instruction: Any = None) -> Any:
        raise NotImplementedError

    def reward(self, pixels: Any, prompts: Any, reference_pixels: Any = None, instruction: Any = None) -> Any:
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        safetensors.torch.save_file(self.module.state_dict(), folder / "model.safetensors")
        (folder / "rewarddance.json").write_text(json.dumps({"kind": self.kind}), encoding="utf-8")


def picture(media: Media) -> Tensor:
    """Numbers of a medium; the first decides how good it is."""
    rng = torch.Generator().manual_seed(derive_seed(0, str(media.path)))
    return torch.randn(WIDTH, generator=rng)


def stand_in_comparisons(count: int, start: int = 0) -> list[Comparison]:
    """Judged comparisons whose truth is the first number of each picture."""
    return [_comparison(number) for number in range(start, start + count)]


def _comparison(number: int) -> Comparison:
    first, second = Media(Path(f"/media/{number}-first.png")), Media(Path(f"/media/{number}-second.png"))
    choice = "second" if picture(second)[0] > picture(first)[0] else "first"
    return Comparison(id=f"comparison-{number}", prompt=f"prompt {number}", first=first, second=second, choice=choice)
