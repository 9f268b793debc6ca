"""The service that `rewarddance search` and `references` may ask about MODEL instead of loading it."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewarddance.cli.model_names import LAB_PREFIX
from rewarddance.cli.service_options import parsed_fields
from rewarddance.core.errors import UsageError

if TYPE_CHECKING:
    from rewarddance.rewards.protocol import RewardKind
    from rewarddance.rewards.remote import RemoteRewardModel


def is_zero_shot(typed: bool, url: str | None, model: str) -> bool:
    """Whether the service's MODEL was never trained as a reward model: said so, or of the lab, whose bases never were.

    Args:
        typed: What `--zero-shot` says.
        url: What `--url` says; without a service the question does not arise.
        model: As it was typed.
    """
    return typed or (url is not None and model.startswith(LAB_PREFIX))


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """Options of a command that need `--url`; names and defaults are those of the options."""

    url: str | None = None
    served_model: str | None = None
    zero_shot: bool = False
    parity: Path | None = None
    parity_limit: float = 0.02
    top_logprobs: int = 20
    token_ids: bool = True
    api_key_env: str | None = None
    request_fields: str | None = None
    concurrency: int = 8
    tries: int = 5
    deadline: float = 120.0

    def check(self, model: str, adapter: str | None, revision: str | None) -> None:
        """Stop before anything is loaded.

        Args:
            model: Folder, record or hub id of MODEL.
            adapter: What `--adapter` says.
            revision: What `--revision` says.

        Raises:
            UsageError: The options do not fit each other.
        """
        given = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        if self.url is None:
            if given:
                raise UsageError(f"{_typed(given[0])} is for a service; give --url as well, or leave it out")
            return
        if self.served_model is None:
            raise UsageError("--url needs --served-model, the name under which the service knows MODEL")
        for name, value in (("adapter", adapter), ("revision", revision)):
            if value is not None:
                raise UsageError(f"--{name} is for a MODEL that is loaded here; the service decides what it serves")
        if self.zero_shot and _has_record(model):
            raise UsageError(f"{model} says how it is asked; leave --zero-shot out")

    @property
    def record(self) -> list[object] | None:
        """What decides the result, as JSON; None without a service.

        Raises:
            UsageError: `--request-fields` holds no JSON object.
        """
        if self.url is None:
            return None
        # How many tokens are listed, and by which names, decides whose answers are read at all.
        return [self.url, self.served_model, self._fields, self.top_logprobs, self.token_ids]

    @property
    def _fields(self) -> dict[str, Any]:
        return parsed_fields(self.request_fields, "--request-fields")

    @contextmanager
    def connected(self, model: str, kind: "RewardKind | None") -> Iterator["RemoteRewardModel"]:
        """MODEL behind the service, whose connections are let go of at the end.

        Args:
            model: Folder of what is served, or its record; of an untrained model, nothing is read.
            kind: What `--kind` says.

        Raises:
            ModelError: There is no record, or the service gives other scores than it should.
            UsageError: The address or the key cannot be used, or the kind is another.
            DataError: The file with known answers cannot be used.
        """
        from rewarddance.rewards.chat_endpoint import EndpointSettings
        from rewarddance.rewards.parity import check_parity
        from rewarddance.rewards.remote import connect_reward_model
        from rewarddance.rewards.served_backbone import ServedSettings

        assert self.url is not None
        assert self.served_model is not None
        endpoint = EndpointSettings(
            self.url,
            self.served_model,
            self.api_key_env,
            self.concurrency,
            self.tries,
            self.deadline,
            request_fields=self._fields,
        )
        answers = ServedSettings(self.top_logprobs, self.token_ids)
        served = connect_reward_model(endpoint, None if self.zero_shot else model, kind, answers)
        with closing(served):
            check_parity(self.url, served, self.parity, self.parity_limit, "--parity")
            yield served


def _typed(name: str) -> str:
    return "--no-token-ids" if name == "token_ids" else f"--{name.replace('_', '-')}"


def _has_record(model: str) -> bool:
    from rewarddance.rewards.folder import RECORD_NAME

    return Path(model).is_file() or (Path(model) / RECORD_NAME).is_file()
