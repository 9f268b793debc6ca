"""Reward models and held-out judges as a config names them: loaded, connected with, or told apart without either."""

from collections.abc import Sequence
from pathlib import Path

import torch

from rewarddance.config.alignment_rewards import AskedModel, JudgeConfig, RewardConfig
from rewarddance.core.errors import ModelError, UsageError
from rewarddance.core.fingerprints import is_same_model
from rewarddance.rewards.backbones.kept_states import bytes_beside_training
from rewarddance.rewards.backbones.vision_language import VisionLanguageBackbone
from rewarddance.rewards.folder import RECORD_NAME
from rewarddance.rewards.loading import load_reward_model
from rewarddance.rewards.protocol import RewardModel
from rewarddance.rewards.remote import RemoteRewardModel
from rewarddance.training.served_reward import connected_model
from rewarddance.training.weight_headers import FolderFiles, read_settings, stored_files

JudgingModel = RewardModel | RemoteRewardModel
"""In process, or behind a service."""

_ADAPTER_CONFIG = "adapter_config.json"


def judging_models(asked: Sequence[AskedModel]) -> list[JudgingModel]:
    """Models in the order in which they are named; what is named twice is loaded once, and is the same object.

    Criteria, weight and shift belong to each use. What is set in the model serves every use: its answers do not depend
    on what else it was asked, and where a reward is climbed with checkpointed layers, a judge has no gradient.

    Raises:
        ModelError: One cannot be loaded, or its service gives other scores than it should.
        UsageError: What is said of one does not fit it.
    """
    distinct = {_identity(one): one for one in asked}
    # A service is asked first: that is quick, and its refusal saves loading the others.
    found: dict[object, JudgingModel] = {
        key: connected_model(one, one.service) for key, one in distinct.items() if one.service is not None
    }
    found |= {key: _loaded(one) for key, one in distinct.items() if one.service is None}
    return [found[_identity(one)] for one in asked]


def place_of(location: str) -> str:
    """A folder under one name, however it is written; a hub id as it is."""
    path = Path(location).expanduser()
    return str(path.resolve()) if path.exists() else location


def _identity(asked: AskedModel) -> object:
    service = None if asked.service is None else asked.service.model_dump_json()
    adapter = None if asked.adapter is None else place_of(asked.adapter)
    return place_of(asked.model), asked.kind, adapter, asked.revision, asked.dtype, service


def _loaded(asked: AskedModel) -> RewardModel:
    """A model that judges beside a generator that learns: it leaves it room on the GPU, and a resumed run its bits."""
    model = load_reward_model(
        asked.model, dtype=asked.dtype, adapter=asked.adapter, revision=asked.revision, kind=asked.kind
    )
    device = next(model.module.parameters()).device
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
    if isinstance(model.backbone, VisionLanguageBackbone):
        model.backbone.engine.keep_at_most(bytes_beside_training(memory))
        model.backbone.engine.is_repeatable = True
    return model


def is_the_reward(judge: JudgeConfig, reward: RewardConfig) -> bool:
    """Whether a judge is a reward under another name and would judge what it is pleased by.

    By other criteria, as another kind, or looking at moved pictures, a model may judge itself. Two kinds or two
    revisions of a model are known to be two where both are given: what is left out may be the other's.
    """
    if judge.instruction != reward.instruction or judge.shift or _are_two(judge.kind, reward.kind):
        return False
    if judge.service is not None and reward.service is not None:
        own, other = ((each.url, each.served_model) for each in (judge.service, reward.service))
        if own == other:
            return True
    if _are_two(judge.revision, reward.revision) or not _is_same_adapter(judge.adapter, reward.adapter):
        return False
    return is_same_model(judge.model, reward.model)


def stored_kind(asked: AskedModel) -> str:
    """How a model will be asked, by its record, of which a served model may have no more here.

    Raises:
        ModelError: What is stored of it cannot be read.
        UsageError: It is of another kind than the config says.
    """
    if asked.service is not None and asked.service.zero_shot:
        return asked.kind or "pairwise"
    path = Path(asked.model).expanduser()
    files = FolderFiles(path.parent) if path.is_file() else stored_files(asked.model, asked.revision)
    found = read_settings(files, path.name if path.is_file() else RECORD_NAME).get("kind")
    if found is not None and asked.kind not in (None, found):
        raise UsageError(f"{asked.model} is a {found} model, not a {asked.kind} one; leave the kind out")
    return str(found or asked.kind or "pairwise")


def require_adapter(asked: AskedModel) -> None:
    """Stop where an adapter is named and there is none.

    Raises:
        ModelError: There is none.
    """
    if asked.adapter is not None and not read_settings(stored_files(asked.adapter), _ADAPTER_CONFIG):
        raise ModelError(
            f"{asked.adapter} holds no adapter: there is no {_ADAPTER_CONFIG}; give the folder that has it"
        )


def _are_two(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and one != other


def _is_same_adapter(one: str | None, other: str | None) -> bool:
    if one is None or other is None:
        return one is other
    return is_same_model(one, other)
