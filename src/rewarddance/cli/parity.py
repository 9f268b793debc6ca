"""`rewarddance parity`: does a service give the scores that the same model gives in process?"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rewarddance.cli.model_names import model_location
from rewarddance.cli.options import (
    Adapter,
    AsJson,
    Device,
    Dtype,
    Kind,
    Model,
    Revision,
    TrustRemoteCode,
    finite,
    place_option,
)
from rewarddance.cli.output import number_in_words, print_json, print_table
from rewarddance.cli.progress import hide_transformers_bars
from rewarddance.cli.service_options import (
    PANEL,
    ApiKeyEnv,
    Concurrency,
    Deadline,
    RequestFields,
    TokenIds,
    TopLogProbabilities,
    Tries,
    parsed_fields,
)

if TYPE_CHECKING:
    from rewarddance.rewards.parity import ParityReport


def parity(
    model: Model,
    url: Annotated[
        str, typer.Argument(metavar="URL", help="Service, such as http://127.0.0.1:8000/v1.", show_default=False)
    ],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder of comparisons to ask about.")],
    limit: Annotated[
        float, typer.Option(callback=finite, min=0, help="Largest difference of scores that passes.")
    ] = 0.02,
    count: Annotated[int, typer.Option(min=1, help="Comparisons that are asked about, spread over the data.")] = 8,
    served_model: Annotated[
        str | None,
        typer.Option(
            help="The service's name for the model; MODEL if left out.", show_default=False, rich_help_panel=PANEL
        ),
    ] = None,
    out: Annotated[
        Path | None, place_option("File for questions and answers, for `parity` of an align config.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only this split.", show_default=False)] = None,
    top_logprobs: TopLogProbabilities = 20,
    token_ids: TokenIds = True,
    api_key_env: ApiKeyEnv = None,
    request_fields: RequestFields = None,
    concurrency: Concurrency = 8,
    tries: Tries = 5,
    deadline: Deadline = 120.0,
    adapter: Adapter = None,
    revision: Revision = None,
    kind: Kind = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
    json: AsJson = False,
) -> None:
    """Compare served with local scores on a few comparisons; exit with 1 if they differ by more than the limit."""
    from rewarddance.core.output_files import output_file
    from rewarddance.data.comparisons import ComparisonSet
    from rewarddance.rewards.chat_endpoint import ChatEndpoint, EndpointSettings
    from rewarddance.rewards.loading import load_reward_model
    from rewarddance.rewards.parity import PARITY_BEGINS, known_answers, served_parity, write_parity
    from rewarddance.rewards.remote import RemoteRewardModel, record_of
    from rewarddance.rewards.served_backbone import ServedSettings

    place = None if out is None else output_file(out, PARITY_BEGINS)
    fields = parsed_fields(request_fields, "--request-fields")
    settings = EndpointSettings(
        url, served_model or model, api_key_env, concurrency, tries, deadline, request_fields=fields
    )
    comparisons = ComparisonSet.open(data).select(split=split)
    chosen = sorted({number * len(comparisons) // count for number in range(count)})
    hide_transformers_bars()
    with ChatEndpoint(settings) as endpoint:
        local = load_reward_model(
            model_location(model),
            device=device,
            dtype=dtype,
            adapter=adapter,
            revision=revision,
            kind=kind,
            trust_remote_code=trust_remote_code,
        )
        served = RemoteRewardModel(endpoint, record_of(local), ServedSettings(top_logprobs, token_ids))
        questions = known_answers(local, [comparisons[index] for index in chosen], is_pairwise=local.kind == "pairwise")
        report = served_parity(served, questions, limit)
    if place is not None:
        write_parity(place, questions)
    if json:
        print_json(_as_json(report))
    else:
        _print_report(report)
    raise typer.Exit(0 if report.is_passed else 1)


def _as_json(report: "ParityReport") -> dict[str, object]:
    both = zip(report.questions, report.answers, strict=True)
    return {
        "is_passed": report.is_passed,
        "limit": report.limit,
        "largest_score_difference": report.largest_score_difference,
        "largest_log_odds_difference": report.largest_log_odds_difference,
        "failed": len(report.failures),
        "questions": [asdict(question) | {"served": asdict(answer)} for question, answer in both],
    }


def _print_report(report: "ParityReport") -> None:
    rows = [
        (question.prompt[:40], f"{question.log_odds:+.5f}", number_in_words(answer.log_odds, "+.5f"))
        for question, answer in zip(report.questions, report.answers, strict=True)
    ]
    print_table(("prompt", "local log-odds", "served"), rows)
    print(
        f"largest difference: {number_in_words(report.largest_score_difference, '.2g')} of scores, "
        f"{number_in_words(report.largest_log_odds_difference, '.2g')} of log-odds; "
        f"{'passed' if report.is_passed else 'not passed'} at a limit of {report.limit:g}"
    )
    for message in sorted(set(report.failures)):
        typer.echo(f"failed: {message}", err=True)
