"""Figures of `benchmarks.engine` as tables of the performance page."""

from pathlib import Path
from typing import Any


def page_tables(result: dict[str, Any]) -> str:
    """The figures as Markdown, for the page between its two marks."""
    machine = result["machine"]
    lines = [
        f"Machine: {machine['device']}, {machine['threads']} threads of {machine['cores']} cores; matrix product "
        f"{result['matrix_product_rate'] / 1e9:,.0f} GFLOP/s; PyTorch {machine['torch']}, transformers "
        f"{machine['transformers']}; {result['clock']} time.",
        "",
        "| family | work | parameters | side | candidates | plain, one by one | plain, batched | exact | block | "
        "exact × | block × |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for run in result["runs"]:
        for one in run["tournaments"]:
            times = (one[f"{name}_seconds"] for name in ("plain_one_by_one", "plain_batched", "causal", "blocks"))
            lines.append(
                f"| {run['family']} | {run['ratio']} | {run['parameters'] / 1e6:,.0f} M | {one['side']} | "
                f"{one['candidates']} | {' | '.join(f'{taken:.1f} s' for taken in times)} | "
                f"{one['exact_ratio']:.1f} | {one['block_ratio']:.1f} |"
            )
    lines += [
        "",
        "| family | work | side | share of peak | kept reference, one order | both orders | both orders, block | "
        "reward with gradient × | memory: one by one, batched, engine |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for run in (run for run in result["runs"] if "distinct" in run):
        kept = (run["list"][f"kept_reference_share_{name}"] for name in ("causal_1", "causal_2", "blocks_2"))
        held = ", ".join(f"{run['memory_rise_mib'][name]:,.0f}" for name in ("one_by_one", "batched", "engine"))
        lines.append(
            f"| {run['family']} | {run['ratio']} | {run['side']} | {run['distinct']['share_of_peak']:.2f} | "
            f"{' | '.join(f'{share:.2f}' for share in kept)} | {run['reward_gradient']['ratio']:.2f} | {held} MiB |"
        )
    return "\n".join(lines)


def fill_page(path: Path, tables: str) -> None:
    """Replace what stands between the marks of a page."""
    before, mark, rest = path.read_text(encoding="utf-8").partition("<!-- engine figures -->\n")
    _, end, after = rest.partition("<!-- end of engine figures -->")
    if not mark or not end:
        raise SystemExit(f"{path} has no place for the figures")
    path.write_text(f"{before}{mark}\n{tables}\n\n{end}{after}", encoding="utf-8")
