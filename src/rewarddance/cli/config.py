"""`rewarddance config`: what can be configured."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from rewarddance.cli.options import AsJson
from rewarddance.cli.output import print_json
from rewarddance.core.choices import require_choice

if TYPE_CHECKING:
    from rewarddance.config.fields import FieldDescription

config_app = typer.Typer(help="What can be configured.", no_args_is_help=True)


@config_app.callback()
def _group() -> None:
    # Keeps `config show` two words while it is the only command of the group.
    pass


@config_app.command()
def show(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="Kind of config file, such as `train`.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
    json: AsJson = False,
) -> None:
    """Every key of a config file: default, type and meaning."""
    from rewarddance.config.fields import describe_fields
    from rewarddance.config.kinds import CONFIG_KINDS

    require_choice("config kind", kind, CONFIG_KINDS)
    fields = describe_fields(CONFIG_KINDS[kind])
    if json:
        print_json([asdict(field) for field in fields])
    elif markdown:
        print(markdown_table(fields))
    else:
        for field in fields:
            print(f"{field.path}: {'(required)' if field.default is None else field.default}")
            print(f"    {field.meaning}  [{field.type.replace('`', '')}]")


def markdown_table(fields: "tuple[FieldDescription, ...]") -> str:
    """The table of docs/configuration.md."""
    rows = (
        f"| `{field.path}` | {'required' if field.default is None else f'`{field.default}`'} "
        f"| {field.type} | {field.meaning} |"
        for field in fields
    )
    return "\n".join(("| key | default | type | meaning |", "| --- | --- | --- | --- |", *rows))
