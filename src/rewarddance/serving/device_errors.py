"""Errors of a device after which its process is of no more use."""


def has_lost_device(error: BaseException) -> bool:
    """Whether only a new process can go on: after an illegal access, say, every call of CUDA fails.

    Args:
        error: Known by its name, because this module runs without torch. Too little memory has another one.
    """
    return type(error).__name__ == "AcceleratorError"
