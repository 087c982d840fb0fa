"""From what the user points at to the samples of an evaluation: folders by class, ``.npz``, pictures.

Guarantee: the same rules as for ``explain``: preprocessing is declared or refused, arrays are fed as they are. A
folder's classes are the names of its subfolders, or stand in a CSV file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxplain.cli.samples import Reader
from onnxplain.engine.errors import InputError

if TYPE_CHECKING:
    from onnxplain.engine.evaluation.data import Dataset
    from onnxplain.engine.evaluation.scorer import Scorer


@dataclass
class Source:
    """A loaded model with what was declared for its inputs.

    Attributes:
        model: The loaded model.
        reader: Reads its samples.
        labels: Names of its classes, if there are any.
        layout: The engine's word for its axes.
    """

    model: Any
    reader: Reader
    labels: list[str] | None
    layout: str

    @staticmethod
    def of(
        path: Path,
        preset: str | None,
        knobs: dict[str, str | None],
        labels: Path | None,
        key: str | None,
        provider: str | None,
        threads: int,
        custom_ops: list[Path] | None = None,
    ) -> Source:
        """Load a model, and what a preset, a card beside it or its metadata declare."""
        import onnxplain
        from onnxplain.cli.explain import labels_of, layout_of
        from onnxplain.cli.samples import declared_preprocessing

        model = onnxplain.load(path, providers=provider, threads=threads, custom_ops=custom_ops or None)
        preprocessing, of_card = declared_preprocessing(path, model.metadata, preset, knobs)
        layout = layout_of(preprocessing, knobs)
        names = labels_of(labels, of_card, model.metadata)
        return Source(model, Reader(model, preprocessing, layout, key, None), names, layout)

    def samples(self, paths: Sequence[Path], output: str | None, *, classes: Path | None, limit: int) -> Dataset:
        """Read samples for it; see :func:`read_dataset`."""
        from onnxplain.engine.evaluation.scorer import Scorer

        scorer = Scorer(self.model, output, layout=self.layout)
        return read_dataset(paths, self.reader, scorer, classes=classes, labels=self.labels, limit=limit)


def read_dataset(
    paths: Sequence[Path],
    reader: Reader,
    scorer: Scorer,
    *,
    classes: Path | None,
    labels: Sequence[str] | None,
    limit: int,
) -> Dataset:
    """Read the samples.

    Args:
        paths: Folders, pictures, ``.npy`` files; or one ``.npz`` with inputs and, if known, classes, masks or boxes.
        reader: For the model that takes them.
        scorer: For the same model.
        classes: A CSV file with classes, for one folder.
        labels: Names of the model's classes.
        limit: At most so many samples; 0 for all.

    Raises:
        InputError: Something is missing, unreadable, or does not fit the model.
    """
    from onnxplain.engine.evaluation.data import as_dataset

    if len(paths) == 1 and paths[0].suffix.lower() == ".npz" and paths[0].is_file():
        found = as_dataset(_arrays(paths[0], reader, scorer), scorer, limit=limit or None)
        found.pictures = reader.shown({scorer.name: found.x})
        return found
    return as_dataset(_files(paths, reader, classes, labels, limit), scorer, limit=limit or None)


def _arrays(path: Path, reader: Reader, scorer: Scorer) -> dict[str, Any]:
    """What an ``.npz`` holds, with the input under the model's name where the user named another."""
    from onnxplain.engine.inputs import read_array

    content = read_array(path)
    assert isinstance(content, dict)
    if reader.key is None:
        return content
    if reader.key not in content:
        raise InputError(f"{path} has no array '{reader.key}'; it has {', '.join(content)}")
    return {**content, scorer.name: content[reader.key]}


def _files(
    paths: Sequence[Path], reader: Reader, classes: Path | None, labels: Sequence[str] | None, limit: int
) -> Dataset:
    import numpy as np

    from onnxplain.engine.evaluation.data import Dataset, class_numbers, labelled_files

    if classes is not None and (len(paths) != 1 or not paths[0].is_dir()):
        raise InputError("--classes lists files of a folder; give that folder alone")
    names: list[str | None] = []
    numbers = None
    if len(paths) == 1 and paths[0].is_dir():
        files = labelled_files(paths[0], classes)[: limit or None]
        paths, names = [f.item.path for f in files], [f.label for f in files]
        numbers = class_numbers(names, labels)
    samples = reader.read(paths)
    if len(samples.batches) != 1:
        raise InputError("the samples differ in shape; bring them to one with --size")
    batch = samples.batches[0]
    if numbers is not None and len(numbers) != len(samples.samples):
        numbers = None  # arrays that hold several samples each
    order = np.argsort(batch.places)
    (x,) = batch.feeds.values()
    own = [samples.samples[i] for i in range(len(samples.samples))]
    return Dataset(x[order], numbers, None, [s.name for s in own], [s.picture for s in own])
