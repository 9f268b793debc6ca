"""Where the lab's generator stands."""

from pathlib import Path

from rewarddance.core.errors import UsageError


def lab_generator(name: str = "drawn") -> Path:
    """Folder of the generator that ships with the package.

    Raises:
        UsageError: There is none of that name.
    """
    folder = Path(__file__).parent / "weights" / "drawn"
    if name != "drawn" or not folder.is_dir():
        raise UsageError(f"no lab generator named {name!r}; the lab has one: drawn")
    return folder
