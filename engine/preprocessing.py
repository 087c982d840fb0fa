"""From a picture to the array a network takes, as declared, and back to a picture for looking at.

Preprocessing is never guessed: a wrong mean or a swapped channel order gives an answer, and an explanation
of it, that look right and are not. :class:`Preprocessing` holds every number; where it comes from (preset, card,
model metadata, single knobs) is the matter of :mod:`onnxplain.engine.cards`. Guarantee: ``apply(p)`` is exactly the
normalisation of ``view(p)``, so a map computed on ``apply(p)`` lies pixel on pixel over ``view(p)``.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxplain.engine.errors import InputError, OptionError
from onnxplain.engine.resize import INTERPOLATIONS, Picture, cover_window, letterbox_window, resample

RESIZES = ("shorter_side", "stretch", "letterbox")
LAYOUTS = ("NCHW", "NHWC")
CHANNEL_ORDERS = ("RGB", "BGR", "GRAY")
DTYPES = ("float32", "float16", "float64", "uint8")


def _choice(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise OptionError(f"preprocessing '{field}' is {value!r}; use one of {', '.join(allowed)}")


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes a network input: ``(pixel * scale - mean) / std``, pixel in 0..255.

    Args:
        size: Height and width that the network takes; None leaves the picture as large as it is.
        resize: ``shorter_side`` (aspect kept, centre crop), ``stretch`` (aspect lost, nothing cut) or
            ``letterbox`` (aspect kept, nothing cut, borders filled with ``pad``).
        crop_ratio: For ``shorter_side``: side kept by the crop over the shorter side before it (224/256).
        interpolation: ``nearest``, ``bilinear``, ``bicubic``, ``lanczos`` or ``area``.
        antialias: Widen the filter when shrinking, as Pillow does; False is OpenCV's filter.
        pad: Border value of a letterbox, 0..255.
        scale: Factor on the pixel, first of all (1/255, or 1 when mean and std are in pixel units).
        mean: Subtracted after scaling: one number, or one per channel in ``channel_order``.
        std: Divisor after that: one number, or one per channel in ``channel_order``.
        layout: ``NCHW`` or ``NHWC``.
        channel_order: ``RGB``, ``BGR`` or ``GRAY`` (one channel).
        dtype: Element type of the array.
        invert: Use 255 - pixel (a dark digit on white paper for a net that learnt bright digits on black).

    Raises:
        OptionError: A value does not exist or contradicts another; the message names the field.
    """

    size: tuple[int, int] | None = None
    resize: str = "shorter_side"
    crop_ratio: float = 1.0
    interpolation: str = "bilinear"
    antialias: bool = True
    pad: int = 0
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = "NCHW"
    channel_order: str = "RGB"
    dtype: str = "float32"
    invert: bool = False

    def __post_init__(self) -> None:
        _choice("resize", self.resize, RESIZES)
        _choice("interpolation", self.interpolation, INTERPOLATIONS)
        _choice("layout", self.layout, LAYOUTS)
        _choice("channel_order", self.channel_order, CHANNEL_ORDERS)
        _choice("dtype", self.dtype, DTYPES)
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise OptionError(f"preprocessing 'size' is {self.size}; give height and width of at least 1 pixel")
        if not 0.0 < self.crop_ratio <= 1.0:
            raise OptionError(f"preprocessing 'crop_ratio' is {self.crop_ratio}; it lies in 0..1, for example 224/256")
        if not 0 <= self.pad <= 255:
            raise OptionError(f"preprocessing 'pad' is {self.pad}; it is a pixel value, 0..255")
        self._check_numbers()

    def _check_numbers(self) -> None:
        if not math.isfinite(self.scale) or self.scale == 0.0:
            raise OptionError(f"preprocessing 'scale' is {self.scale}; give a finite factor other than 0, as 1/255")
        for field, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channels):
                wanted = "takes 1" if self.channels == 1 else "takes 1 or 3"
                raise OptionError(
                    f"preprocessing '{field}' has {len(values)} numbers; channel_order {self.channel_order} {wanted}"
                )
            if not all(math.isfinite(value) for value in values):
                raise OptionError(f"preprocessing '{field}' is {values}; give finite numbers")
        if 0.0 in self.std:
            raise OptionError(f"preprocessing 'std' is {self.std}; it divides, so give numbers other than 0")
        if self.dtype == "uint8" and (self.scale != 1.0 or set(self.mean) != {0.0} or set(self.std) != {1.0}):
            raise OptionError(
                "preprocessing 'dtype' is uint8, which holds no scaled pixels; use scale 1, mean 0, std 1"
            )

    @property
    def channels(self) -> int:
        """1 for GRAY, else 3."""
        return 1 if self.channel_order == "GRAY" else 3

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Shape of what :meth:`apply` returns; None where the picture decides."""
        height, width = self.size or (None, None)
        return (1, self.channels, height, width) if self.layout == "NCHW" else (1, height, width, self.channels)

    def view(self, picture: Picture) -> Picture:
        """The picture exactly as the network sees it: resized, cropped, grey or inverted where declared.

        Args:
            picture: uint8, height x width x 3, RGB.

        Returns:
            uint8, ``size`` x 3, RGB whatever ``channel_order`` is; grey is repeated over the three channels.

        Raises:
            InputError: The picture is not uint8 RGB.
        """
        seen = self._fit(check_picture(picture))
        if self.channel_order == "GRAY":
            import cv2

            grey = np.asarray(cv2.cvtColor(np.ascontiguousarray(seen), cv2.COLOR_RGB2GRAY), dtype=np.uint8)
            seen = np.repeat(grey[:, :, None], 3, axis=2)
        return 255 - seen if self.invert else seen.copy()

    def _fit(self, picture: Picture) -> Picture:
        if self.size is None:
            return picture
        height, width = picture.shape[:2]
        how: dict[str, Any] = {"interpolation": self.interpolation, "antialias": self.antialias}
        if self.resize == "stretch":
            return resample(picture, self.size, **how)
        if self.resize == "shorter_side":
            whole, window = cover_window(height, width, self.size, self.crop_ratio)
            return resample(picture, whole, window=window, **how)
        inner, (top, left, h, w) = letterbox_window(height, width, self.size)
        canvas = np.full((*self.size, 3), self.pad, dtype=np.uint8)
        canvas[top : top + h, left : left + w] = resample(picture, inner, **how)
        return canvas

    def normalise(self, view: Picture) -> NDArray[Any]:
        """The network input of a picture that already is as the network sees it (:meth:`view`)."""
        pixels = view[:, :, :1] if self.channel_order == "GRAY" else view
        pixels = pixels[:, :, ::-1] if self.channel_order == "BGR" else pixels
        # float64 until the last step: one rounding, whatever the order of the operations above it
        values = (pixels.astype(np.float64) * self.scale - np.array(self.mean)) / np.array(self.std)
        if self.layout == "NCHW":
            values = values.transpose(2, 0, 1)
        return np.ascontiguousarray(values[None], dtype=np.dtype(self.dtype))

    def apply(self, picture: Picture) -> NDArray[Any]:
        """The network input of a picture, with a batch axis of one.

        Args:
            picture: uint8, height x width x 3, RGB.

        Returns:
            Array of ``dtype`` (float32 unless declared otherwise) and shape :attr:`input_shape`.

        Raises:
            InputError: The picture is not uint8 RGB.
        """
        return self.normalise(self.view(picture))

    def to_pixels(self, array: NDArray[Any]) -> Picture:
        """Undo the normalisation: the picture that an input array shows.

        Args:
            array: A batch in this layout, or one sample without the batch axis.

        Returns:
            uint8 RGB, ``(N, H, W, 3)`` for a batch and ``(H, W, 3)`` for one sample; values outside 0..255 are
            clipped. For an array from :meth:`apply` it is :meth:`view` again, bit for bit (float16 to within a level).

        Raises:
            InputError: Rank or number of channels do not fit.
        """
        axis = 1 if self.layout == "NCHW" else 3
        batch = array if array.ndim == 4 else array[None]
        if batch.ndim != 4 or batch.shape[axis] != self.channels:
            raise InputError(
                f"shape {array.shape} is no picture in layout {self.layout} with {self.channels} channel(s); "
                "give the array that the network takes"
            )
        values = np.moveaxis(batch, axis, 3).astype(np.float64)
        pixels = (values * np.array(self.std) + np.array(self.mean)) / self.scale
        shown = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
        if self.channel_order == "GRAY":
            shown = np.repeat(shown, 3, axis=3)
        elif self.channel_order == "BGR":
            shown = shown[..., ::-1]
        return np.ascontiguousarray(shown if array.ndim == 4 else shown[0])

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON-ready values; :func:`onnxplain.engine.cards.from_mapping` reads them back."""
        values = asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def check_picture(picture: Picture) -> Picture:
    """Refuse what is not a uint8 RGB picture of at least one pixel.

    Raises:
        InputError: Wrong dtype, rank, number of channels, or no pixels.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise InputError(
            f"a picture is a uint8 array height x width x 3 (RGB), but this one is {picture.dtype} of shape "
            f"{picture.shape}; read it with read_picture, or pass the network's input array itself"
        )
    return picture
