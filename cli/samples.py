"""From what the user points at to batches for the engine, each sample with its name and the picture under its map.

Guarantees: a picture without declared preprocessing is refused, never fed on a guess; arrays are fed as they are;
every complaint about a value names the file it came from; samples keep the order in which they were given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxplain.cli.literals import rows_of
from onnxplain.engine.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


@dataclass
class Sample:
    """One row to explain.

    Attributes:
        name: What to call it.
        path: Its file.
        picture: What its map is laid over, uint8 RGB, if anything.
        ids: Its token ids, where the model is fed with one row of them.
    """

    name: str
    path: Path
    picture: Array | None = None
    ids: Array | None = None


@dataclass
class Batch:
    """Samples that go through together: arrays by input name, and which sample each row is."""

    feeds: dict[str, Array]
    places: list[int] = field(default_factory=list)


@dataclass
class Samples:
    """Everything that was named on the command line."""

    samples: list[Sample]
    batches: list[Batch]

    def feed(self, place: int, name: str) -> Array:
        """One sample's input; the first one of floats where no input has that name."""
        import numpy as np

        batch = next(batch for batch in self.batches if place in batch.places)
        if name not in batch.feeds:
            floats = [n for n, array in batch.feeds.items() if array.dtype.kind == "f"]
            name = (floats or list(batch.feeds))[0]
        return np.asarray(batch.feeds[name][batch.places.index(place)])


def declared_preprocessing(
    model_path: Path, metadata: dict[str, str], preset: str | None, knobs: dict[str, Any]
) -> tuple[Any, Path | None]:
    """Options before the named preset or card, before a card beside the model, before the model's metadata.

    Returns:
        The preprocessing, or None where nothing was declared, and the labels file that a card names, or None.

    Raises:
        OptionError: Unknown preset, key or value.
    """
    from onnxplain.engine.cards import load_card, resolve

    beside = model_path.with_suffix(".toml")
    card: str | Path | None = preset if preset is not None else beside if beside.is_file() else None
    given = {key: value for key, value in knobs.items() if value is not None}
    if set(given) == {"layout"} and card is None and not metadata.get("onnxplain.preprocess"):
        return None, None  # arrays need no more than their layout
    labels = load_card(card).labels if card is not None else None
    return resolve(card, given, metadata), labels


class Reader:
    """Reads samples for one model.

    Args:
        model: The loaded model.
        preprocessing: What was declared for pictures, or None.
        layout: ``auto``, ``channels_first`` or ``channels_last``, for showing arrays as pictures.
        key: Which array of an ``.npz`` feeds a model of one input.
        rows: Which rows of array files to take; all by default.
        tokens: The tokeniser's file or folder, for texts.
    """

    def __init__(
        self,
        model: Any,
        preprocessing: Any,
        layout: str,
        key: str | None,
        rows: str | None,
        tokens: Path | None = None,
    ) -> None:
        self.tokens = tokens
        self.model, self.preprocessing, self.layout, self.key, self.rows = model, preprocessing, layout, key, rows
        self.declared: dict[str, tuple[Any, Any]] = model.declared()

    def read(self, paths: Sequence[Path], texts: Sequence[str] = ()) -> Samples:
        """Read everything: what lies at ``paths``, and ``texts`` as they stand.

        Raises:
            InputError: Something is missing, unreadable, or does not fit the model.
        """
        from onnxplain.engine.inputs import gather_inputs

        items = gather_inputs(paths) if paths or not texts else []
        if any(item.kind == "picture" for item in items):
            self._pictures_possible()
        result = Samples([], [])
        groups: dict[tuple[Any, ...], list[tuple[dict[str, Array], range]]] = {}
        for item in items:
            try:
                feeds, names, pictures = self._picture(item) if item.kind == "picture" else self._arrays(item)
                feeds = self._checked(feeds)
            except InputError as error:
                raise InputError(self._named(item.path, str(error))) from None
            first = len(result.samples)
            ids = self._ids(feeds)
            for row, (name, picture) in enumerate(zip(names, pictures, strict=True)):
                result.samples.append(Sample(name, item.path, picture, ids[row] if ids is not None else None))
            # A model of several inputs may have some without a batch axis, which cannot be joined.
            key = (len(groups),) if len(self.declared) > 1 else tuple(a.shape[1:] for a in feeds.values())
            groups.setdefault(key, []).append((feeds, range(first, len(result.samples))))
        for name, feeds in self._texts(texts):
            ids, place = self._ids(feeds), len(result.samples)
            result.samples.append(Sample(name, Path(name), None, ids[0] if ids is not None else None))
            key = tuple(a.shape[1:] for a in feeds.values())  # all inputs are of the text, and have its batch
            groups.setdefault(key, []).append((feeds, range(place, place + 1)))
        result.batches = [self._joined(members) for members in groups.values()]
        return result

    @staticmethod
    def _named(path: Path, message: str) -> str:
        return message if str(path) in message else f"{path}: {message}"

    @staticmethod
    def _joined(members: list[tuple[dict[str, Array], range]]) -> Batch:
        import numpy as np

        places = [place for _, some in members for place in some]
        if len(members) == 1:
            return Batch(members[0][0], places)
        return Batch({n: np.concatenate([feeds[n] for feeds, _ in members]) for n in members[0][0]}, places)

    def _checked(self, feeds: dict[str, Array]) -> dict[str, Array]:
        from onnxplain.engine.inputs import validate_feeds

        return validate_feeds(feeds, self.declared)

    def _texts(self, texts: Sequence[str]) -> Iterator[tuple[str, dict[str, Array]]]:
        """Each text with a name for it."""
        from onnxplain.cli.texts import Tokeniser

        tokeniser = Tokeniser(self.tokens, self.declared) if texts else None
        for number, text in enumerate(texts, 1):
            if tokeniser is not None:
                yield "text" if len(texts) == 1 else f"text {number}", self._checked(tokeniser.feeds(text))

    # ----- pictures -------------------------------------------------------------------------------

    def _pictures_possible(self) -> None:
        from onnxplain.models import cards

        if len(self.declared) != 1:
            names = ", ".join(self.declared)
            raise InputError(f"a picture feeds one input, and the model has {names}; give them as an .npz by name")
        if self.preprocessing is None:
            raise InputError(
                "no preprocessing is declared for pictures, and it is never guessed; "
                f"name a preset with --preprocess ({', '.join(cards())}), a TOML card, or --size --scale --mean --std"
            )

    def _picture(self, item: Any) -> tuple[dict[str, Array], list[str], list[Array | None]]:
        from onnxplain.engine.inputs import read_picture

        view = self.preprocessing.view(read_picture(item.path))
        (name,) = self.declared
        return {name: self.preprocessing.normalise(view)}, [item.name], [view]

    # ----- arrays ---------------------------------------------------------------------------------

    def _arrays(self, item: Any) -> tuple[dict[str, Array], list[str], list[Array | None]]:
        from onnxplain.engine.inputs import read_array

        content = read_array(item.path)
        feeds = self._by_name(content) if isinstance(content, dict) else self._single(content)
        feeds = {name: self._batched(name, array) for name, array in feeds.items()}
        count = len(feeds[self._leading(feeds)])
        if self.rows is not None:
            chosen = rows_of(self.rows, count)
            feeds = {n: a[chosen] if len(a) == count else a for n, a in feeds.items()}
        else:
            chosen = list(range(count))
        names = [item.name if count == 1 else f"{item.name}[{row}]" for row in chosen]
        return feeds, names, self.shown(feeds)

    def _single(self, array: Array) -> dict[str, Array]:
        if len(self.declared) != 1:
            raise InputError(f"an .npy feeds one input, not {', '.join(self.declared)}; give an .npz with these names")
        return {next(iter(self.declared)): array}

    def _by_name(self, arrays: dict[str, Array]) -> dict[str, Array]:
        found = {name: array for name, array in arrays.items() if name in self.declared}
        if len(found) == len(self.declared):
            return found
        if len(self.declared) > 1:
            lacking = ", ".join(name for name in self.declared if name not in found)
            raise InputError(f"the file has no array for {lacking}; it has {', '.join(arrays)}")
        (name,) = self.declared
        key = self.key if self.key is not None else next(iter(arrays)) if len(arrays) == 1 else None
        if key is None or key not in arrays:
            raise InputError(
                f"the model's input is '{name}' and the file has {', '.join(arrays)}; name the one to take with --key"
            )
        return {name: arrays[key]}

    @staticmethod
    def _ids(feeds: dict[str, Array]) -> Array | None:
        """Token ids ``[N, T]``: the first input of whole numbers, where the model takes no other kind."""
        arrays = list(feeds.values())
        whole = all(array.dtype.kind in "iu" and array.ndim == 2 for array in arrays)
        return arrays[0] if whole else None

    def _batched(self, name: str, array: Array) -> Array:
        """One sample without the batch axis gets it, where the model leaves no doubt."""
        shape = self.declared[name][1]
        if shape is not None and array.ndim == len(shape) - 1:
            fits = all(not isinstance(d, int) or d == n for n, d in zip(array.shape, shape[1:], strict=True))
            return array[None] if fits else array
        if array.ndim == 0:
            raise InputError(f"input '{name}' is a single number without a batch axis; give an array")
        return array

    def _leading(self, feeds: dict[str, Array]) -> str:
        """The input whose first axis is the batch: the first with more than one axis."""
        return next((n for n, a in feeds.items() if a.ndim > 1), next(iter(feeds)))

    def shown(self, feeds: dict[str, Array]) -> list[Array | None]:
        """Pictures of arrays, where they are pictures: by the declared preprocessing, else over their own range."""
        import numpy as np

        array = feeds[self._leading(feeds)]
        nothing: list[Array | None] = [None] * len(array)
        if len(feeds) != 1 or array.ndim != 4 or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            return nothing
        if self.preprocessing is not None:
            try:
                return list(self.preprocessing.to_pixels(array))
            except InputError:
                return nothing
        axes = self.axes()
        last = np.moveaxis(array, 1, -1) if axes and axes[1] is None else array
        if last.shape[-1] not in (1, 3):
            last = last.mean(axis=-1, keepdims=True)
        return [stretched(one) for one in last]

    def axes(self) -> tuple[str | None, ...]:
        """What the axes of the model's only input are."""
        from onnxplain.engine.places import input_labels

        return input_labels(self.model.canonical.graph.inputs[0], self.layout)


def stretched(pixels: Array) -> Array:
    """``(H, W, 1 or 3)`` of any range as uint8 RGB, from its least to its largest value."""
    import numpy as np

    values = pixels.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    grey = np.rint((values - low) * (255.0 / (high - low) if high > low else 0.0)).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(grey, (*grey.shape[:2], 3)))
