r"""Text that can be written down: JSON and the command line may hold half a character, which nothing else takes.

JSON names it as an unpaired surrogate, `\ud800` alone; on the command line it stands for a byte that is not UTF-8.
"""


def prompt_flaw(prompt: object) -> str | None:
    """What keeps a prompt from being read, and what to do; None for a text."""
    if not isinstance(prompt, str):
        return f"the prompt is {type(prompt).__name__} and no text; give a string"
    return None if is_whole_text(prompt) else "the prompt holds half a character; correct it"


def is_whole_text(text: str) -> bool:
    """Whether every character is whole."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
