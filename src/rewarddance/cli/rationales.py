"""`rewarddance rationales`: a teacher gives reasons for known choices, and a reader keeps those that convince."""

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rewarddance.cli.options import AsJson, MaxFailedShare, finite, place_option
from rewarddance.cli.output import number_in_words, print_json, print_table
from rewarddance.cli.progress import progress
from rewarddance.cli.service_options import (
    PANEL,
    ApiKeyEnv,
    Concurrency,
    Deadline,
    RequestFields,
    Tries,
    parsed_fields,
)
from rewarddance.core.errors import UsageError

if TYPE_CHECKING:
    from rewarddance.rewards.chat_endpoint import ChatEndpoint
    from rewarddance.training.rationale_run import RationaleSummary

LAB_NAME = "lab:gold"


def rationales(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder of comparisons with known choices.")],
    out: Annotated[Path, place_option("Folder for exchanges, comparisons and summary; continued if it exists.")],
    teacher: Annotated[str, typer.Option(help="Service that writes rationales, or `lab:gold` for the lab's own.")],
    teacher_model: Annotated[
        str | None, typer.Option(help="The service's name for the teacher.", show_default=False)
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="Service that reads them; the teacher's if left out.", show_default=False)
    ] = None,
    judge_model: Annotated[
        str | None, typer.Option(help="Its name for the judge; the teacher's if left out.", show_default=False)
    ] = None,
    rationale_order: Annotated[
        Literal["answer_first", "reason_first", "mixed"],
        typer.Option(help="Reasons from the choice back, towards it, or half of the time each."),
    ] = "mixed",
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest rationale; a longer one is left out.")] = 400,
    temperature: Annotated[
        float, typer.Option(callback=finite, min=0, help="Of the teacher; 0 for the likeliest text.")
    ] = 0.7,
    judge_max_tokens: Annotated[
        int, typer.Option(min=1, help="Longest reply of the judge; raise it for one that thinks before it answers.")
    ] = 6,
    seed: Annotated[int, typer.Option(min=0, help="Decides the order of each comparison; sent to the service.")] = 0,
    wrong_share: Annotated[
        float,
        typer.Option(callback=finite, min=0, max=1, help="Share of wrong rationales that the lab's teacher plants."),
    ] = 0.0,
    split: Annotated[str | None, typer.Option(help="Only this split.", show_default=False)] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first comparisons.", show_default=False)] = None,
    only_with_rationale: Annotated[
        bool, typer.Option("--only-with-rationale", help="Leave comparisons without a kept rationale out.")
    ] = False,
    api_key_env: ApiKeyEnv = None,
    judge_api_key_env: Annotated[
        str | None, typer.Option(help="The same for the judge's service.", show_default=False, rich_help_panel=PANEL)
    ] = None,
    request_fields: RequestFields = None,
    judge_request_fields: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help="The same for the judge; the teacher's if left out and both are one service.",
            show_default=False,
            rich_help_panel=PANEL,
        ),
    ] = None,
    concurrency: Concurrency = 8,
    tries: Tries = 5,
    deadline: Deadline = 120.0,
    max_failed_share: MaxFailedShare = 0.0,
    json: AsJson = False,
) -> None:
    """Let a teacher write reasons for known choices; keep those from which a reader tells the choice."""
    from rewarddance.data.comparisons import ComparisonSet
    from rewarddance.rewards.chat_endpoint import ChatEndpoint, EndpointSettings
    from rewarddance.training.rationale_run import NamedJudge, NamedTeacher, make_rationales
    from rewarddance.training.served_rationales import (
        TeacherSettings,
        judge_name,
        served_judge,
        served_teacher,
        teacher_name,
    )

    if wrong_share and teacher != LAB_NAME:
        raise UsageError(f"--wrong-share is for the lab's teacher; leave it out, or take --teacher {LAB_NAME}")
    reader = judge or teacher
    same = judge is None
    fields = parsed_fields(request_fields, "--request-fields")
    judge_fields = parsed_fields(judge_request_fields, "--judge-request-fields")
    comparisons = ComparisonSet.open(data).select(split=split)
    if limit is not None:
        comparisons = comparisons.where([place < limit for place in range(len(comparisons))])

    def connected(url: str, model: str | None, what: str, key: str | None, fields: dict[str, Any]) -> "ChatEndpoint":
        if model is None:
            raise UsageError(f"--{what}-model is missing: the name under which the service knows the {what}")
        settings = EndpointSettings(url, model, key, concurrency, tries, deadline, request_fields=fields)
        return open_clients.enter_context(ChatEndpoint(settings))

    with ExitStack() as open_clients, progress("asking", None) as show:
        if teacher == LAB_NAME:
            from rewarddance.lab.teacher import LabTeacher

            lab_teacher = LabTeacher(wrong_share, seed)
            writer = NamedTeacher(lab_teacher.name, lab_teacher, lab_teacher.is_wrong if wrong_share else None)
        else:
            asked = TeacherSettings(rationale_order, max_tokens, temperature, seed)
            endpoint = connected(teacher, teacher_model, "teacher", api_key_env, fields)
            writer = NamedTeacher(teacher_name(endpoint.settings, asked), served_teacher(endpoint, asked))
        if reader == LAB_NAME:
            from rewarddance.lab.teacher import lab_judge

            reads = NamedJudge(LAB_NAME, lab_judge)
        else:
            endpoint = connected(
                reader,
                judge_model or (teacher_model if same else None),
                "judge",
                api_key_env if same else judge_api_key_env,
                fields if same and judge_request_fields is None else judge_fields,
            )
            reads = NamedJudge(
                judge_name(endpoint.settings, judge_max_tokens), served_judge(endpoint, judge_max_tokens)
            )
        summary = make_rationales(
            comparisons,
            out,
            writer,
            reads,
            only_with_rationale=only_with_rationale,
            on_progress=lambda what, done, total: show(done),
        )
    if json:
        print_json(asdict(summary) | {"failed_share": summary.failed_share})
    else:
        _print_summary(summary, out)
    raise typer.Exit(0 if summary.failed_share <= max_failed_share else 1)


def _print_summary(summary: "RationaleSummary", out: Path) -> None:
    rows = [
        ("without a choice to explain", str(summary.unanchored)),
        ("dropped: names a medium in words that cannot change places", str(summary.unswappable)),
        ("with a rationale", str(summary.written)),
        ("kept", str(summary.kept)),
        ("dropped: leads to the other choice", str(summary.contradicted)),
        ("dropped: the words do not tell", str(summary.undecided)),
        ("not read", str(summary.unread)),
        ("share kept", number_in_words(summary.share_kept)),
    ]
    if summary.planted is not None and summary.planted_kept is not None:
        right, right_kept = summary.read - summary.planted, summary.kept - summary.planted_kept
        rows += [
            ("of the planted wrong ones, dropped", _share(summary.planted - summary.planted_kept, summary.planted)),
            ("of the others, kept", _share(right_kept, right)),
        ]
    print_table((f"{summary.comparisons} comparisons", ""), rows)
    for kind, number in summary.failures.items():
        typer.echo(f"failed: {kind}: {number}", err=True)
    print(out)


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole}, {number_in_words(part / whole if whole else None)}"
