"""Degraded data sets for remove and retrain: which places go, in what order, and what stands there instead.

Maps are made once, from the original net, for training and test samples alike; a removed place gets the mean that
its channel has over the training set (Hooker et al. 2019, arXiv 1806.10758).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from onnxplain.engine.api import compile as compile_explainer
from onnxplain.engine.draws import generator
from onnxplain.engine.errors import OptionError
from onnxplain.engine.evaluation.reference import edge_map
from onnxplain.engine.evaluation.scorer import Scorer
from onnxplain.engine.explanation import Array
from onnxplain.engine.loading import Model
from onnxplain.engine.places import spatial_axes

#: Samples that are explained at a time: what a method returns beside its map is dropped after each of them.
CHUNK = 256

Mode = Literal["roar", "kar", "mask"]
#: Remove the most salient places; keep them alone; show nothing but which ones they are.
MODES: tuple[Mode, ...] = ("roar", "kar", "mask")

#: Told how many samples are explained.
Told = Callable[[int], None]


def maps(
    model: Model,
    scorer: Scorer,
    x: Array,
    classes: Array,
    name: str,
    options: Mapping[str, Any],
    *,
    part: int = 0,
    seed: int = 0,
    output: str | None = None,
    head: str | None = None,
    layout: str = "auto",
    told: Told | None = None,
) -> Array:
    """Maps of all samples, one row of places each: ``[N, P]``, float32.

    Args:
        model: The original net.
        scorer: Knows its input's axes.
        x: ``[N, ...]``.
        classes: ``[N]``: what is explained.
        name: A method, ``random`` (drawn anew for every sample) or ``edges``.
        options: Of the method.
        part: Tells the draws for training samples (0) from those for test samples (1).
        seed: Of random draws.
        output, head, layout: What is explained, and the input's axes.
        told: Told how far it is.

    Raises:
        OptionError: Unknown method or option, or a map that is not of the input's places.
    """
    places = list(spatial_axes(scorer.labels).values())
    count = int(np.prod([x.shape[a] for a in places]))
    if name == "random":
        return np.stack([generator(seed, part, n).random(count, dtype=np.float32) for n in range(len(x))])
    if name == "edges":
        return edge_map(x, places, seed).reshape(len(x), -1).astype(np.float32)
    explainer = compile_explainer(model, method=name, output=output, head=head, layout=layout, **options)
    found = []
    for first in range(0, len(x), CHUNK):
        rows = slice(first, first + CHUNK)
        saliency = explainer({scorer.name: x[rows]}, target=classes[rows], seed=seed).saliency
        if saliency is None or saliency[0].size != count:
            shape = None if saliency is None else saliency.shape[1:]
            raise OptionError(
                f"the map of '{name}' has the shape {shape}, not one value per place; choose another method"
            )
        found.append(np.asarray(saliency, dtype=np.float32).reshape(len(saliency), -1))
        if told is not None:
            told(first + len(saliency))
    return np.concatenate(found)


def order(values: Array, part: int, seed: int, *, absolute: bool = False) -> Array:
    """Places from the most to the least salient, ``[N, P]``; ties in an order that the seed draws.

    Args:
        values: ``[N, P]``.
        part: As for :func:`maps`.
        seed: Of ties.
        absolute: Rank by magnitude.
    """
    rows = np.abs(values) if absolute else values
    kind = np.uint16 if rows.shape[1] <= 1 << 16 else np.uint32
    return np.stack(
        [np.lexsort((generator(seed, 2 + part, n).random(len(row)), -row)).astype(kind) for n, row in enumerate(rows)]
    )


def channel_means(x: Array, places: list[int]) -> Array:
    """Mean over samples and places, broadcastable to the samples; of each feature where there are no channels."""
    return np.asarray(x.mean(axis=(0, *places) if x.ndim > 2 else 0, keepdims=True, dtype=np.float64))


def degraded(x: Array, ranked: Array, fraction: float, fill: Array, places: list[int], mode: Mode = "roar") -> Array:
    """Copies of the samples with a share of their places replaced in all channels.

    Args:
        x: ``[N, ...]``.
        ranked: ``[N, P]``: see :func:`order`.
        fraction: Share of the most salient places.
        fill: What stands in the place of removed ones: see :func:`channel_means`.
        places: The samples' axes of places.
        mode: ``roar`` replaces that share, ``kar`` all others; ``mask`` gives 1 there and 0 elsewhere.
    """
    chosen = ranked[:, : round(fraction * ranked.shape[1])].astype(np.int64)
    mask = np.zeros(ranked.shape, dtype=bool)
    np.put_along_axis(mask, chosen, True, axis=1)
    where = mask.reshape(len(x), *[x.shape[a] if a in places else 1 for a in range(1, x.ndim)])
    if mode == "mask":
        return np.broadcast_to(where, x.shape).astype(x.dtype)
    return np.where(where if mode == "roar" else ~where, fill, x).astype(x.dtype)
