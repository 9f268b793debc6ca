"""Every error that users meet. Each is also a standard-library class, so plain handlers work.

A message has two halves: what was wrong, and what to do about it. It is printed as one line.
Errors of a single item (an unreadable image, a prompt that is too long) are not exceptions for the caller:
they become the `status` of that item's `Judgement`.
"""


class RewardDanceError(Exception):
    """Root of the hierarchy; the command line prints it as one line and exits with 1."""


class UsageError(RewardDanceError, ValueError):
    """A bad argument, config key or combination of options; the command line exits with 2."""


class ConfigError(UsageError):
    """A config file or `--set` override that does not fit the schema; names the dotted path."""


class PromptError(UsageError):
    """A prompt that a generator cannot read; of many prompts, it fails alone."""


class DataError(RewardDanceError, ValueError):
    """A data set that cannot be used: empty, unreadable, or above its share of bad rows."""


class MediaError(RewardDanceError, ValueError):
    """One image or clip that cannot be decoded safely."""


class OversizedMediaError(MediaError):
    """One image or clip that is refused from its header: more pixels, frames or bytes than the limits allow."""


class ModelError(RewardDanceError, ValueError):
    """A model folder that is missing, unsafe, incomplete or unsuitable."""


class CheckpointError(RewardDanceError, RuntimeError):
    """No complete checkpoint can be read where one was asked for."""


class NonFiniteError(RewardDanceError, ArithmeticError):
    """A loss, reward or gradient that is not finite; names the records of the batch."""


class DeviceMemoryError(RewardDanceError, MemoryError):
    """The GPU's memory is full; says what was saved and which settings need less."""


class RewardError(RewardDanceError, RuntimeError):
    """A reward that gave no usable number in any of its tries; names the reward and the cause.

    Nothing was put in its place: the run stops before the step counts, and can be resumed.
    """
