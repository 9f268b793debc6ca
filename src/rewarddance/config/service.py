"""A model that is asked over HTTP."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, JsonValue


class ServiceConfig(BaseModel):
    """A service that speaks OpenAI's chat completions, such as vLLM, with the reward model in it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    url: str
    """Base address, such as http://127.0.0.1:8000/v1."""

    served_model: str
    """Name under which the service knows the model."""

    zero_shot: bool = False
    """Whether the model was never trained as a reward model: it is then asked as `kind` says, and `model` is but a name
    for it."""

    api_key_env: str | None = None
    """Environment variable that holds the service's key; null for a service without one."""

    parity: Path | None = None
    """File of `rewarddance parity --out`: the run does not start with a service that scores otherwise; null trusts
    it, and says so in one line."""

    parity_limit: float = Field(default=0.02, ge=0, le=1)
    """Largest difference of scores from those in that file; four times as much, and 2 % of themselves, for
    log-odds."""

    concurrency: int = Field(default=16, ge=1)
    """Questions that the service gets at a time."""

    tries: int = Field(default=5, ge=1)
    """Of each question, the first included."""

    deadline_seconds: float = Field(default=120.0, gt=0)
    """For one try, from connecting to the last byte."""

    top_log_probabilities: int = Field(default=20, ge=1)
    """Likely tokens that are asked for; services allow 20 unless told otherwise."""

    names_tokens: bool = True
    """Whether the answers' token ids are sent along, so that exactly they are listed (vLLM); vendors may refuse it."""

    request_fields: dict[str, JsonValue] = Field(default={})
    """Fields of every request's JSON that are added or replaced, or left out where they are null: `{max_tokens: null,
    max_completion_tokens: 1}`."""
