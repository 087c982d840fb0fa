"""What a Hugging Face directory declares beside its weights: how pictures are prepared, and what classes are called.

Reads the directory's JSON files and nothing else. Guarantee: a declaration is either carried over exactly or not at all;
what has no counterpart here is returned as a reason, so that nobody's picture is prepared almost as it should be.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxplain.engine.errors import ExportError, OptionError
from onnxplain.engine.preprocessing import Preprocessing

PROCESSOR_FILE = "preprocessor_config.json"
#: Pillow's numbers of its filters.
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
_STEPS = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "do_flip_channel_order"}
#: Settings that change the arithmetic in ways of their own.
_OTHER = ("rescale_offset", "include_top")
#: Below this size ConvNeXt's processor crops, from it on it stretches.
_CONVNEXT_STRETCHES = 384


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ExportError: The file cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ExportError(f"'{path}' cannot be read: {reason}; download it again") from error
    if not isinstance(content, dict):
        raise ExportError(f"'{path}' is no JSON object; download it again")
    return content


def class_names(id2label: Mapping[Any, Any] | None, count: int) -> list[str] | None:
    """Names of ``count`` classes in order; None where they are only numbered, or do not match."""
    if not id2label:
        return None
    by_number = {int(key): str(name) for key, name in id2label.items() if str(key).isdecimal()}
    if sorted(by_number) != list(range(count)):
        return None
    names = [by_number[number] for number in range(count)]
    return None if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else names


def preprocessing_of(folder: Path) -> tuple[Preprocessing | None, str]:
    """The preparation of pictures that the directory declares.

    Returns:
        The preparation, or None; and why there is none, empty where it was found.

    Raises:
        ExportError: The file is damaged.
    """
    path = folder / PROCESSOR_FILE
    if not path.is_file():
        return None, f"the directory has no {PROCESSOR_FILE}"
    declared = read_json(path)
    declared = declared.get("image_processor", declared)
    try:
        return _preprocessing(declared), ""
    except (OptionError, ValueError, TypeError, KeyError, ZeroDivisionError) as error:
        return None, f"{PROCESSOR_FILE}: {str(error).strip(chr(39)) or 'it has an unknown form'}"


def _preprocessing(declared: Mapping[str, Any]) -> Preprocessing:
    strange = sorted(key for key, on in declared.items() if on is True and key.startswith("do_") and key not in _STEPS)
    strange += [key for key in _OTHER if declared.get(key)]
    if strange:
        raise ValueError(f"{', '.join(strange)} has no counterpart here")
    filter_ = declared.get("resample", 2)
    if filter_ not in _FILTERS:
        raise ValueError(f"resample {filter_} has no counterpart here")
    normalise = declared.get("do_normalize", True)
    mean, std = (_numbers(declared[key]) if normalise else default for key, default in _DEFAULTS)
    return Preprocessing(
        **_geometry(declared),
        interpolation=_FILTERS[filter_],
        scale=float(declared.get("rescale_factor", 1 / 255)) if declared.get("do_rescale", True) else 1.0,
        mean=mean,
        std=std,
        channel_order="BGR" if declared.get("do_flip_channel_order") else "RGB",
    )


_DEFAULTS = (("image_mean", (0.0,)), ("image_std", (1.0,)))


def _numbers(value: Any) -> tuple[float, ...]:
    return tuple(map(float, value)) if isinstance(value, list) else (float(value),)


def _geometry(declared: Mapping[str, Any]) -> dict[str, Any]:
    """Size, resize and crop_ratio."""
    crops = bool(declared.get("do_center_crop", False))
    crop = _sides(declared.get("crop_size")) if crops else None
    if not declared.get("do_resize", True):
        if crop is not None:
            raise ValueError("a crop without a resize has no counterpart here")
        return {"size": None}
    size = declared.get("size")
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
        return _shorter(int(size["shortest_edge"]), crop, declared.get("crop_pct"))
    if isinstance(size, int) and crop is not None:
        return _shorter(size, crop, None)
    sides = _sides(size)
    if sides is None:
        raise ValueError(f"size {size} has no counterpart here")
    if crop is not None and crop != sides:
        raise ValueError(f"a crop of {crop} from a stretched picture of {sides} has no counterpart here")
    return {"size": sides, "resize": "stretch"}


def _shorter(edge: int, crop: tuple[int, int] | None, kept: float | None) -> dict[str, Any]:
    """A picture whose shorter side becomes ``edge``, then its middle."""
    if crop is not None:
        if crop[0] != crop[1] or crop[0] > edge:
            raise ValueError(f"a crop of {crop} from a shorter side of {edge} has no counterpart here")
        return {"size": crop, "resize": "shorter_side", "crop_ratio": crop[0] / edge}
    if kept is not None:  # ConvNeXt's way: the size is that of the crop
        whole = edge < _CONVNEXT_STRETCHES
        return {"size": (edge, edge), **({"crop_ratio": float(kept)} if whole else {"resize": "stretch"})}
    raise ValueError("a shorter side without a crop gives pictures of any shape; name size and resize yourself")


def _sides(size: Any) -> tuple[int, int] | None:
    if isinstance(size, Mapping) and set(size) == {"height", "width"}:
        return int(size["height"]), int(size["width"])
    return (int(size), int(size)) if isinstance(size, int) else None
