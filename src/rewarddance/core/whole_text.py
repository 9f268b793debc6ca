r"""Text that can be written down: JSON and the command line may hold half a character, which nothing else takes.

JSON names it as an unpaired surrogate, `\ud800` alone; on the command line it stands for a byte that is not UTF-8.
"""


def is_whole_text(text: str) -> bool:
    """Whether every character is whole."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
