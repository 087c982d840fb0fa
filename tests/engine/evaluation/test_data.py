"""Samples from arrays, mappings, iterables and folders by class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import picture, picture_model, saved, table_model

import onnxplain as ox
from onnxplain.engine.errors import InputError
from onnxplain.engine.evaluation.data import as_dataset, box_masks, class_numbers, labelled_files, read_folder
from onnxplain.engine.evaluation.scorer import Scorer

DECLARED = '{"size": [6, 6], "scale": "1/255"}'


def table() -> Scorer:
    return Scorer(ox.load(table_model(), threads=1))


def pictures(**metadata: str) -> ox.Model:
    return ox.load(picture_model(**{"preprocess": DECLARED, **metadata}), threads=1)


def by_class(folder: Path, **counts: int) -> Path:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            picture(folder / name / f"{i}.png", seed=i)
    return folder


def test_a_mapping_with_labels_and_a_limit() -> None:
    x, y = np.arange(20, dtype=np.float32).reshape(5, 4), np.arange(5)
    for names in (("x", "y"), ("images", "labels"), ("data", "targets")):
        found = as_dataset(dict(zip(names, (x, y), strict=True)), table(), limit=3)
        np.testing.assert_array_equal(found.x, x[:3])
        assert found.labels is not None and found.labels.tolist() == [0, 1, 2]
        assert found.names == ["0", "1", "2"]


def test_pairs_of_input_and_label() -> None:
    found = as_dataset([(np.ones(4), 2), (np.zeros(4), 0)], table())
    assert found.x.shape == (2, 4) and found.labels is not None and found.labels.tolist() == [2, 0]


def test_boxes_are_masks() -> None:
    masks = box_masks(np.array([[1, 0, 3, 2]]), (3, 4))
    np.testing.assert_array_equal(masks[0], [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize(
    ("data", "words"),
    [([], "empty"), ({"z": np.ones((1, 4))}, "no inputs"), (7, "int"), ([np.ones(4), np.ones(3)], "differ in shape")],
)
def test_what_is_no_data(data: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        as_dataset(data, table())


# ----- folders -----------------------------------------------------------------------------------


def test_classes_take_turns(tmp_path: Path) -> None:
    folder = by_class(tmp_path / "d", cat=3, dog=2)
    picture(folder / "stray.png")
    found = labelled_files(folder)
    assert [(f.item.name, f.label) for f in found[:3]] in (
        [("cat/0.png", "cat"), ("dog/0.png", "dog"), ("stray.png", None)],
        [("stray.png", None), ("cat/0.png", "cat"), ("dog/0.png", "dog")],
    )
    assert len(found) == 6 and found[-1].item.name == "cat/2.png"


def test_a_csv_file_says_which_files_and_which_classes(tmp_path: Path) -> None:
    folder = by_class(tmp_path / "d", a=2)
    for heading in ("", "file,class\n"):
        (tmp_path / "c.csv").write_text(heading + "a/1.png,dog\na/0.png,0\n")
        found = labelled_files(folder, tmp_path / "c.csv")
        assert [(f.item.name, f.label) for f in found] == [("a/1.png", "dog"), ("a/0.png", "0")]


@pytest.mark.parametrize(
    ("text", "words"),
    [("a/0.png,1\nb.png,1\n", "'b.png', which is not in"), ("a/0.png\n", "without a class"), ("", "no rows")],
)
def test_bad_csv_files(tmp_path: Path, text: str, words: str) -> None:
    folder = by_class(tmp_path / "d", a=1)
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        labelled_files(folder, tmp_path / "c.csv")
    with pytest.raises(InputError, match="cannot be read"):
        labelled_files(folder, tmp_path / "none.csv")


def test_names_of_classes_are_labels_or_numbers_and_never_guessed() -> None:
    labels = ["tabby, tabby cat", "Dog"]
    found = class_numbers(["dog", "Tabby cat", "1"], labels)
    assert found is not None and found.tolist() == [1, 0, 1]
    assert class_numbers(["dog", None], labels) is None
    with pytest.raises(InputError, match="'bird' is no number and none of the model's labels"):
        class_numbers(["bird"], labels)
    with pytest.raises(InputError, match="did you mean dog"):
        class_numbers(["dgo"], labels)
    with pytest.raises(InputError, match="number the classes"):
        class_numbers(["dog"], None)


def test_a_folder_is_read_as_the_model_declares(tmp_path: Path) -> None:
    folder = by_class(tmp_path / "d", cat=2, dog=1)
    source = pictures(labels='["dog", "cat"]')
    found = read_folder(folder, source)
    assert found.x.shape == (3, 3, 6, 6) and found.x.max() <= 1
    assert found.labels is not None and found.labels.tolist() == [1, 0, 1]
    first = found.pictures[0]
    assert first is not None
    np.testing.assert_allclose(found.x[0], first.transpose(2, 0, 1) / 255, atol=1e-6)
    same = as_dataset(str(folder), Scorer(source))
    np.testing.assert_array_equal(same.x, found.x)
    assert len(read_folder(folder, source, limit=2)) == 2


def test_a_card_beside_the_model_is_enough(tmp_path: Path) -> None:
    folder = by_class(tmp_path / "d", cat=1, dog=1)
    path = saved(picture_model(), tmp_path / "net.onnx")
    with pytest.raises(InputError, match="never guessed"):
        read_folder(folder, ox.load(path))
    (tmp_path / "names.txt").write_text("dog\ncat\n")
    (tmp_path / "net.toml").write_text('labels = "names.txt"\n[preprocess]\nsize = [6, 6]\nscale = "1/255"\n')
    found = read_folder(folder, ox.load(path))
    assert found.labels is not None and found.labels.tolist() == [1, 0]


def test_pictures_of_several_sizes(tmp_path: Path) -> None:
    folder = by_class(tmp_path / "d", a=1)
    picture(folder / "a" / "large.png", size=(9, 9))
    with pytest.raises(InputError, match="differ in size"):
        read_folder(folder, pictures(preprocess='{"scale": "1/255"}'), labels=["a", "b"])


def test_a_folder_of_arrays_is_no_folder_of_pictures(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones(4))
    with pytest.raises(InputError, match="no pictures in it"):
        read_folder(tmp_path, pictures())
