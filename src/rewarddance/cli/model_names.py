"""What may stand where a command or a config names a model."""

import typer

LAB_PREFIX = "lab:"


def model_location(name: str) -> str:
    """The folder or hub id that a name stands for.

    Args:
        name: A folder, a hub id, or `lab:SIZE` for a base model that ships with the package.

    Raises:
        UsageError: The lab has no such size.
    """
    if not name.startswith(LAB_PREFIX):
        return name
    from rewarddance.lab.base_models import lab_base

    return str(lab_base(name.removeprefix(LAB_PREFIX)))


def judge_location(name: str) -> str:
    """As `model_location`, for a model that is about to judge: of an untrained one of the lab, people are told so."""
    if name.startswith(LAB_PREFIX):
        typer.echo(
            f"warning: {name} has learned no preferences and its scores mean little; "
            "`rewarddance demo` makes a reward model of it",
            err=True,
        )
    return model_location(name)


def generator_location(name: str) -> str:
    """The folder or hub id that a generator's name stands for.

    Args:
        name: A folder, a hub id, or `lab:drawn` for the generator that ships with the package.

    Raises:
        UsageError: The lab has no such generator.
    """
    if not name.startswith(LAB_PREFIX):
        return name
    from rewarddance.lab.generator_weights import lab_generator

    return str(lab_generator(name.removeprefix(LAB_PREFIX)))
