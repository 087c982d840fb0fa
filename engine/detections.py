"""Which of a detector's candidates a given box means, before or after non-maximum suppression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxplain.engine.errors import TargetError
from onnxplain.engine.targets import Answer, Target

Array = np.ndarray[Any, Any]

FORMS = ("xyxy", "yxyx", "xywh", "cxcywh")


def corners(boxes: Array, form: str) -> Array:
    """Boxes ``[..., 4]`` as ``x0, y0, x1, y1`` with the smaller corner first.

    Raises:
        TargetError: Unknown form.
    """
    a, b, c, d = np.moveaxis(np.asarray(boxes, dtype=np.float64), -1, 0)
    if form == "xyxy":
        found = (a, b, c, d)
    elif form == "yxyx":
        found = (b, a, d, c)
    elif form == "xywh":
        found = (a, b, a + c, b + d)
    elif form == "cxcywh":
        found = (a - c / 2, b - d / 2, a + c / 2, b + d / 2)
    else:
        raise TargetError(f"unknown form '{form}' of boxes; choose one of {', '.join(FORMS)}")
    x0, y0, x1, y1 = found
    ordered = (np.minimum(x0, x1), np.minimum(y0, y1), np.maximum(x0, x1), np.maximum(y0, y1))
    return np.stack(ordered, axis=-1)


def intersection_over_union(box: Array, boxes: Array) -> Array:
    """Of one box with each of ``boxes [..., 4]``, all as corners; 0 where both are empty."""
    low, high = np.maximum(box[:2], boxes[..., :2]), np.minimum(box[2:], boxes[..., 2:])
    common = np.clip(high - low, 0, None).prod(axis=-1)
    areas = [(v[..., 2:] - v[..., :2]).prod(axis=-1) for v in (box, boxes)]
    union = areas[0] + areas[1] - common
    return np.asarray(common / np.where(union > 0, union, 1.0))


def nearest_detection(
    answer: Answer,
    box: Sequence[float],
    class_index: int | None,
    boxes: str | None,
    scores: str | None,
    form: str,
    first_class: int,
    overlap: float,
) -> Target:
    """See :meth:`onnxplain.engine.targets.Target.box`.

    Raises:
        TargetError: Outputs that do not fit, or no detection that overlaps enough.
    """
    if len(box) != 4:
        raise TargetError(f"a box has four numbers, and {len(box)} are given")
    found = answer.of(boxes)
    whole = found.ndim < 3
    if whole:
        if answer.count != 1:
            raise TargetError("these detections have no batch axis; explain one sample at a time")
        found = found[None]
    if found.ndim != 3:
        raise TargetError(f"the boxes have shape {found.shape}; give an output [N, boxes, 4] with boxes=")
    rows_first = _rows_first(found, scores is None)
    rows = found if rows_first else np.moveaxis(found, 1, 2)
    best, share = _best(rows[..., :4], corners(np.asarray(box), form), form)
    if (share < overlap).any():
        sample = int(np.argmin(share))
        raise TargetError(
            f"no detection overlaps the box enough in sample {sample}: the best has an intersection over union of "
            f"{share[sample]:.2f}, and {overlap} is asked for; check the box's units and form"
        )
    if scores is None:
        rated, name, order = rows[..., first_class:], boxes, rows_first
        places = [_class_of(rated[i, b], class_index) + first_class for i, b in enumerate(best)]
        width = rows.shape[2]
    else:
        table = answer.of(scores)
        table = table[None] if whole else table
        rated, order = _scores_by_box(table, rows.shape[1])
        name, width = scores, rated.shape[2]
        places = [_class_of(rated[i, b], class_index) for i, b in enumerate(best)]
    count = rows.shape[1]
    flat = [int(b) * width + p if order else p * count + int(b) for b, p in zip(best, places, strict=True)]
    return Target("index", np.asarray(flat), name, whole)


def _rows_first(found: Array, with_scores: bool) -> bool:
    """Whether a box is a row; the other way round its numbers stand in columns (``[N, 4, boxes]``)."""
    _, a, b = found.shape
    if a == 4 and b != 4:
        return False
    if b == 4 or not with_scores:
        return True
    return bool(a >= b)  # there are more candidates than numbers per candidate


def _best(boxes: Array, box: Array, form: str) -> tuple[Array, Array]:
    share = intersection_over_union(box, corners(boxes, form))
    best = share.argmax(axis=1)
    return best, share[np.arange(len(best)), best]


def _class_of(scores: Array, class_index: int | None) -> int:
    if class_index is None:
        return int(scores.argmax())
    if not 0 <= class_index < len(scores):
        raise TargetError(f"class {class_index} is out of range: the detector has {len(scores)} classes")
    return class_index


def _scores_by_box(scores: Array, count: int) -> tuple[Array, bool]:
    """Scores as ``[N, boxes, classes]``, and whether the boxes come first in the output itself."""
    if scores.ndim == 2 and scores.shape[1] == count:
        return scores[..., None], True
    if scores.ndim == 3 and scores.shape[1] == count:
        return scores, True
    if scores.ndim == 3 and scores.shape[2] == count:
        return np.moveaxis(scores, 1, 2), False
    raise TargetError(
        f"the scores have shape {scores.shape}, which does not fit {count} boxes; name another with scores="
    )
