"""Random numbers: a draw is keyed by the seed and by its own number, and is the same for every sample.

So neither the size of a batch, nor a sample's place in it, nor how it is cut into chunks changes a result: row
n of a batch is what it is alone. And samples that are compared are compared under the same draws.
"""

from __future__ import annotations

import numpy as np


def generator(seed: int, *numbers: int) -> np.random.Generator:
    """The generator of one draw.

    Args:
        seed: The user's.
        numbers: What tells this draw from the others: its number, the input's, ...
    """
    return np.random.default_rng([seed, *(int(n) for n in numbers)])


def seed_of(seed: int, turn: int) -> int:
    """A seed for what is drawn at one of several noisy copies."""
    return int(np.random.SeedSequence([seed, turn]).generate_state(1, np.uint64)[0])
