"""A reward model that is asked over HTTP, from its config: connected, checked, and made a reward."""

from pathlib import Path

from rewarddance.config.alignment_rewards import AskedModel
from rewarddance.config.service import ServiceConfig
from rewarddance.core.errors import UsageError
from rewarddance.rewards.chat_endpoint import EndpointSettings
from rewarddance.rewards.folder import RECORD_NAME
from rewarddance.rewards.parity import check_parity
from rewarddance.rewards.remote import RemoteRewardModel, connect_reward_model
from rewarddance.rewards.served_backbone import ServedSettings
from rewarddance.training.reward_scorers import JudgeReward


def connected_model(asked: AskedModel, service: ServiceConfig) -> RemoteRewardModel:
    """A reward model behind a service, after it gave the scores that are known.

    Args:
        asked: Names the folder of the model, or its `rewarddance.json`, which says how it is asked; of an untrained
            one, its kind does.
        service: Where it runs.

    Raises:
        ModelError: The record cannot be read, or the service gives other scores than it should, or none.
        UsageError: The address or the key cannot be used, or what is said of the model does not fit it.
        DataError: The file with known answers cannot be used.
    """
    if service.zero_shot and _has_record(Path(asked.model).expanduser()):
        raise UsageError(f"{asked.model} says how it is asked; leave service.zero_shot out")
    model = connect_reward_model(
        EndpointSettings(
            url=service.url,
            model=service.served_model,
            api_key_env=service.api_key_env,
            concurrency=service.concurrency,
            tries=service.tries,
            deadline_seconds=service.deadline_seconds,
            request_fields=service.request_fields,
        ),
        None if service.zero_shot else asked.model,
        asked.kind,
        ServedSettings(service.top_log_probabilities, service.names_tokens),
    )
    check_parity(service.url, model, service.parity, service.parity_limit, "service.parity")
    return model


def served_reward(
    model: RemoteRewardModel, name: str, weight: float = 1.0, instruction: str | Path | None = None
) -> JudgeReward:
    """A served model as a black-box reward; only a pairwise one is shown reference images."""
    needs_references = model.kind == "pairwise"
    return JudgeReward(name, model.judge, weight, instruction, needs_references, keeps_time=True)


def _has_record(path: Path) -> bool:
    return path.is_file() or (path / RECORD_NAME).is_file()
