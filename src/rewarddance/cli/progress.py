"""How far a command has come, on a terminal only: a file or a pipe gets results and errors, no bars."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def hide_transformers_bars() -> None:
    """Switch off the bars that transformers draws for a moment when it reads or writes weights, right through ours.

    Bars of downloads, which may take an hour, stay.
    """
    from transformers.utils import logging

    nothing: Callable[..., Any] = logging.EmptyTqdm
    logging.set_tqdm_hook(lambda _, arguments, options: nothing(*arguments, **options))


def hide_diffusers_bars() -> None:
    """The same for the bar that diffusers draws while it reads a pipeline's parts."""
    from diffusers.utils import logging

    logging.disable_progress_bar()


@contextmanager
def progress(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr.

    Args:
        label: What is being done.
        total: Number of items; None when unknown.

    Yields:
        A function that takes the number of items done so far.
    """
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.update(task, completed=done)
