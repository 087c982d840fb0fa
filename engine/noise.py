"""Noisy copies of an input, in blocks that fit into memory.

A draw is the same for every sample (see :mod:`onnxplain.engine.draws`); its width follows each sample's own
range, so no sample's noise depends on its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from onnxplain.engine.draws import generator

Array = np.ndarray[Any, Any]


def widths(x: Array, spread: float) -> Array:
    """Standard deviation of the noise per sample, ``[N]``: ``spread * (max - min)`` of the sample."""
    flat = x.reshape(len(x), -1)
    return np.asarray((flat.max(axis=1) - flat.min(axis=1)) * flat.dtype.type(spread))


def noisy_blocks(
    x: Mapping[str, Array], draws: int, spread: float, seed: int, budget: int
) -> Iterator[tuple[dict[str, Array], Array]]:
    """Gaussian copies of every sample, in blocks of at most ``budget`` bytes (at least one copy each).

    Args:
        x: Array per input, ``[N, ...]``.
        draws: Copies per sample.
        spread: Standard deviation as a share of the sample's range.
        seed: Of the draws.
        budget: Bytes of noisy copies at a time.

    Yields:
        Noisy arrays ``[B, ...]`` per input, and the sample ``[B]`` that each copy belongs to.
    """
    count = len(next(iter(x.values())))
    deviation = {name: widths(array, spread) for name, array in x.items()}
    one = sum(array[:1].nbytes for array in x.values())
    block = max(1, budget // max(1, one))
    for first in range(0, count * draws, block):
        numbers = np.arange(first, min(first + block, count * draws))
        # Draw by draw, so that the samples of a block are as different as they can be.
        samples, turns = numbers % count, numbers // count
        yield noisy_copies(x, deviation, samples, turns, seed), samples


def standard_noise(shape: tuple[int, ...], dtype: Any, seed: int, draw: int, index: int = 0) -> Array:
    """Normal noise of unit width: one draw for one input (the ``index``-th), for every sample."""
    return generator(seed, draw, index).standard_normal(shape).astype(dtype)


def noisy_copies(
    x: Mapping[str, Array], deviation: Mapping[str, Array], samples: Array, turns: Array, seed: int
) -> dict[str, Array]:
    """One noisy copy for each (sample, turn): ``[B, ...]`` per input.

    Args:
        x: Array per input, ``[N, ...]``.
        deviation: Standard deviations per input, ``[N]``: see :func:`widths`.
        samples: ``[B]``.
        turns: ``[B]``: numbers of the draws.
        seed: Of the draws.
    """
    copies = {}
    for index, (name, array) in enumerate(x.items()):
        drawn = {int(t): standard_noise(array.shape[1:], array.dtype, seed, int(t), index) for t in np.unique(turns)}
        # In the input's own type, operation by operation as a graph does it: see `onnxplain.engine.paths`.
        width = deviation[name].astype(array.dtype)
        copies[name] = np.stack([array[s] + drawn[int(t)] * width[s] for s, t in zip(samples, turns, strict=True)])
    return copies


def add_by_sample(total: Array, samples: Array, values: Array) -> None:
    """Add each row of ``values`` to the row of its sample, in float64."""
    np.add.at(total, samples, values.astype(np.float64))
