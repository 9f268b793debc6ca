"""`rewarddance serve`: a reward model behind HTTP."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rewarddance.cli.model_names import judge_location
from rewarddance.cli.options import Adapter, Device, Dtype, Kind, Model, Revision, TrustRemoteCode, finite
from rewarddance.cli.progress import hide_transformers_bars
from rewarddance.core.errors import UsageError
from rewarddance.core.fingerprints import model_fingerprint

if TYPE_CHECKING:
    from rewarddance.core.media import MediaLimits
    from rewarddance.serving.engine import ModelEngine

_SHOWN_FINGERPRINT = 16


def serve(
    model: Model,
    host: Annotated[str, typer.Option(help="Address to listen on; others than loopback need a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 for any free one.")] = 8000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST",
            help="Fetch media from this host, which is not done otherwise; repeatable, exact names only.",
            show_default=False,
        ),
    ] = None,
    queue: Annotated[int, typer.Option(min=1, help="Comparisons that may wait; more are refused.")] = 128,
    batch: Annotated[int, typer.Option(min=1, help="Comparisons that are judged together.")] = 16,
    deadline_seconds: Annotated[
        float, typer.Option(callback=finite, min=0.1, help="In which a request is answered or given up.")
    ] = 30.0,
    drain_seconds: Annotated[
        float,
        typer.Option(callback=finite, min=0.0, help="Between `not ready` and the end of listening, after SIGTERM."),
    ] = 1.0,
    max_body_mib: Annotated[int, typer.Option(min=1, help="Size of a request's body at most, in MiB.")] = 16,
    adapter: Adapter = None,
    revision: Revision = None,
    kind: Kind = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Serve a reward model over HTTP: judge, rank, and OpenAI-style chat completions with log-probabilities.

    The token of the service is read from the variable REWARDDANCE_TOKEN. SIGTERM drains and stops.
    """
    try:
        from rewarddance.serving.authentication import token_for
        from rewarddance.serving.engine_process import EngineProcess
        from rewarddance.serving.fetching import Fetcher, Origin
        from rewarddance.serving.limits import MIB, ServiceLimits
        from rewarddance.serving.server import listening_socket, run_service
        from rewarddance.serving.service import Service
    except ImportError as error:
        raise UsageError(f"`serve` needs {error.name}; install rewarddance[serve]") from error

    token = token_for(host)
    limits = ServiceLimits(
        max_body_bytes=max_body_mib * MIB,
        queue_comparisons=queue,
        batch_comparisons=batch,
        deadline_seconds=deadline_seconds,
        drain_seconds=drain_seconds,
    )
    fetcher = Fetcher(frozenset(Origin.parse(name) for name in allow_host or ()), limits.media.max_bytes)

    options = {
        "device": device,
        "dtype": dtype,
        "adapter": adapter,
        "revision": revision,
        "kind": kind,
        "trust_remote_code": trust_remote_code,
    }
    load = partial(EngineProcess.start, partial(_engine, model, limits.media, options))
    listener = listening_socket(host, port)
    shown = f"[{host}]" if ":" in host else host
    typer.echo(f"listening on http://{shown}:{listener.getsockname()[1]}", err=True)
    run_service(Service(load, limits, fetcher), listener, token)


def _engine(model: str, media: "MediaLimits", options: Mapping[str, Any]) -> "ModelEngine":
    """The model, in the process that is to judge with it."""
    from rewarddance.rewards.loading import load_reward_model
    from rewarddance.serving.engine import ModelEngine

    hide_transformers_bars()
    location = judge_location(model)
    loaded = load_reward_model(location, **options)
    fingerprint = model_fingerprint(location, options["adapter"], options["revision"], options["kind"])
    return ModelEngine.of(loaded, fingerprint[:_SHOWN_FINGERPRINT], media)
