"""One seed for a run, and from it independent seeds for every purpose.

A purpose is named (`derive_seed(7, "order", epoch)`), so that a new use of randomness leaves the others as they were,
and so that a resumed run finds the same numbers without storing a generator's state.
"""

import hashlib
import json

import numpy as np

_SEED_BITS = 63


def derive_seed(seed: int, *names: str | int) -> int:
    """A seed for one purpose, the same on every machine and in every process.

    Args:
        seed: The run's seed.
        names: What the randomness is for; different names give unrelated seeds, also `1` and `"1"`.

    Returns:
        A number in [0, 2**63), which every library's generator accepts.
    """
    # Python's own hash() differs from process to process.
    digest = hashlib.sha256(json.dumps([seed, *names]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - _SEED_BITS)


def numpy_rng(seed: int, *names: str | int) -> np.random.Generator:
    """A numpy generator for one purpose; see `derive_seed`."""
    return np.random.default_rng(derive_seed(seed, *names))
