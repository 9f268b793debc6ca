"""`rewarddance evaluate`: how far can a reward model be trusted?"""

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rewarddance.cli.model_names import model_location
from rewarddance.cli.options import (
    Adapter,
    AsJson,
    Device,
    Dtype,
    Instruction,
    Kind,
    MaxFailedShare,
    MaxReasonTokens,
    Model,
    Reasons,
    Revision,
    Samples,
    Temperature,
    TrustRemoteCode,
    criteria,
    place_option,
    reasoning_settings,
)
from rewarddance.cli.output import number_in_words, print_json, print_table
from rewarddance.cli.progress import hide_transformers_bars, progress
from rewarddance.core.fingerprints import model_fingerprint

if TYPE_CHECKING:
    from rewarddance.evaluation.preference_report import PreferenceReport
    from rewarddance.metrics.bootstrap import Interval


def evaluate(
    model: Model,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder of comparisons, as `import` writes it.")],
    out: Annotated[
        Path | None, place_option("Folder for evaluation.json and judgements.jsonl; continued if it exists.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only this split.", show_default=False)] = None,
    dimension: Annotated[
        str | None, typer.Option(help="Compare with people's choice in this dimension.", show_default=False)
    ] = None,
    instruction: Instruction = None,
    reasons: Reasons = None,
    samples: Samples = 1,
    temperature: Temperature = 0.0,
    max_reason_tokens: MaxReasonTokens = 256,
    orders: Annotated[
        Literal["both", "as_stored"],
        typer.Option(help="Ask each comparison in both orders, or once: half the time, no figures on position bias."),
    ] = "both",
    name: Annotated[
        str | None, typer.Option(help="What tables call the model; MODEL if left out.", show_default=False)
    ] = None,
    max_failed_share: MaxFailedShare = 0.0,
    adapter: Adapter = None,
    revision: Revision = None,
    kind: Kind = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
    json: AsJson = False,
) -> None:
    """Accuracy with confidence intervals, position bias and calibration on judged comparisons."""
    from rewarddance.data.comparisons import ComparisonSet

    comparisons = list(ComparisonSet.open(data).select(split=split, dimension=dimension))
    named = criteria(instruction)
    if named is not None:
        comparisons = [replace(comparison, instruction=named) for comparison in comparisons]
    location = model_location(model)
    fingerprint = model_fingerprint(location, adapter, revision, kind)
    reasoning = reasoning_settings(reasons, samples, temperature, max_reason_tokens)
    if reasoning is not None:
        fingerprint += f" {reasoning}"
    from rewarddance.evaluation import preference_accuracy
    from rewarddance.evaluation.asking import refuse_other_answers
    from rewarddance.evaluation.evaluation_file import Provenance, write_evaluation
    from rewarddance.evaluation.judgement_rows import ROWS_NAME

    if out is not None:
        refuse_other_answers(out / ROWS_NAME, comparisons, fingerprint, orders)
    from rewarddance.rewards.loading import load_reward_model
    from rewarddance.rewards.reasoned_judging import ReasonedJudge

    hide_transformers_bars()
    judge = load_reward_model(
        location,
        device=device,
        dtype=dtype,
        adapter=adapter,
        revision=revision,
        kind=kind,
        trust_remote_code=trust_remote_code,
    )
    with progress("judging comparisons", len(comparisons)) as show:
        report = preference_accuracy.evaluate(
            judge if reasoning is None else ReasonedJudge(judge, reasoning),
            comparisons,
            orders=orders,
            rows_path=None if out is None else out / ROWS_NAME,
            fingerprint=fingerprint,
            on_progress=lambda done, total: show(done),
        )
    if out is not None:
        command = shlex.join(["rewarddance", *sys.argv[1:]])
        asked = {"split": split, "dimension": dimension, "orders": orders, "adapter": adapter, "revision": revision}
        asked |= {"instruction": instruction, "reasons": None if reasoning is None else str(reasoning)}
        write_evaluation(out, report, Provenance(name or model, model, str(data), command, asked))
    if json:
        print_json(report.to_json())
    else:
        _print_report(report)
    raise typer.Exit(0 if report.failed_share <= max_failed_share else 1)


def _print_report(report: "PreferenceReport") -> None:
    overall, bias, calibration = report.overall, report.overall.orders, report.overall.calibration
    rows = [
        ("accuracy (ties dropped, failures wrong)", _interval_in_words(overall.accuracy)),
        ("agreement (ties counted)", _interval_in_words(overall.agreement)),
    ]
    if bias is not None:
        rows += [
            ("accuracy from one order, mean of both", _interval_in_words(bias.accuracy_mean)),
            ("choice depends on the order", _interval_in_words(bias.share_inconsistent)),
            ("second place chosen", number_in_words(bias.share_second)),
        ]
    if calibration is not None:
        rows.append(("calibration error", number_in_words(calibration.ece)))
    rows += [(f"accuracy, {key}", _interval_in_words(group.accuracy)) for key, group in report.dimensions.items()]
    for facet, groups in report.facets.items():
        rows += [(f"accuracy, {facet} {value}", _interval_in_words(group.accuracy)) for value, group in groups.items()]
    if report.cost is not None:
        cost = report.cost
        rows.append(("questions; tokens read", f"{cost.questions:,}; {cost.read_tokens:,}"))
        if cost.generated_tokens:
            written = f"{cost.generated_tokens:,}; {cost.unfinished_rationales:,}"
            rows.append(("tokens written; rationales that did not end", written))
    print_table((f"{overall.n} comparisons, {overall.n_ties} ties, {overall.n_failed} failed", ""), rows)
    for failure in report.failures[:5]:
        typer.echo(f"failed: {failure.id}: {failure.status.value}: {failure.message}", err=True)
    if len(report.failures) > 5:
        typer.echo(f"failed: {len(report.failures) - 5} more; --out keeps the list", err=True)


def _interval_in_words(interval: "Interval | None") -> str:
    if interval is None:
        return "-"
    return f"{interval.estimate:.3f}  [{number_in_words(interval.low)}, {number_in_words(interval.high)}]"
