"""Players: which elements each way of forming them puts together, and that values spread over them sum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxplain.engine.errors import OptionError
from onnxplain.engine.places import Labels
from onnxplain.engine.players import check_players, make_players, needs_data

Array = np.ndarray[Any, Any]
FIRST: Labels = ("batch", None, "y", "x")
LAST: Labels = ("batch", "y", "x", None)
SERIES: Labels = ("batch", None, "t")
ROWS: Labels = ("batch", "t")


def owners(spec: Any, shape: tuple[int, ...], labels: Labels, sample: int = 0) -> Array:
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    players = make_players(spec, {"x": x}, {"x": labels})
    mine = players.owner["x"]
    full = np.broadcast_to(mine[sample if len(mine) > 1 else 0], shape[1:])
    assert set(full.flat) == set(range(players.counts[sample]))
    return full


def test_features() -> None:
    np.testing.assert_array_equal(owners("features", (2, 2, 3), SERIES), [[0, 1, 2], [3, 4, 5]])


def test_places_take_all_channels() -> None:
    expected = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(owners("places", (1, 4, 2, 3), FIRST), np.stack([expected] * 4))
    np.testing.assert_array_equal(owners("places", (1, 2, 3, 4), LAST), np.stack([expected] * 4, axis=-1))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [("grid:2", [0, 0, 0, 1, 1]), ("grid:9", [0, 1, 2, 3, 4]), ("patches:2", [0, 0, 1, 1, 2]), ("patches:9", [0] * 5)],
)
def test_grids_and_patches(spec: str, expected: list[int]) -> None:
    np.testing.assert_array_equal(owners(spec, (1, 1, 5), SERIES)[0], expected)
    parts = np.array(expected)
    found = owners(spec, (1, 1, 5, 5), FIRST)[0]
    np.testing.assert_array_equal(found, parts[:, None] * (parts.max() + 1) + parts)


def test_axis() -> None:
    np.testing.assert_array_equal(owners("axis:1", (1, 2, 3), SERIES), [[0, 0, 0], [1, 1, 1]])


def test_superpixels_are_the_samples_own() -> None:
    x = np.zeros((2, 3, 16, 16), np.float32)
    x[0, :, :8], x[1, :, :, :8] = 1, 1
    players = make_players("felzenszwalb:1000", {"x": x}, {"x": FIRST})
    across, along = players.owner["x"][:, 0]
    assert (across == across[:, :1]).all() and across[0, 0] != across[-1, 0]
    assert (along == along[:1]).all() and along[0, 0] != along[0, -1]
    np.testing.assert_array_equal(players.counts, [across.max() + 1, along.max() + 1])
    other = make_players("felzenszwalb:1000", {"x": x.transpose(0, 2, 3, 1)}, {"x": LAST})
    np.testing.assert_array_equal(other.owner["x"][..., 0], players.owner["x"][:, 0])


@pytest.mark.parametrize(
    ("shape", "labels", "count"),
    [
        ((1, 7), ROWS, 7), ((1, 3, 32, 32), FIRST, 64), ((1, 32, 32, 3), LAST, 64), ((1, 2, 20), SERIES, 20),
        ((1, 2, 1000), SERIES, 32), ((1, 300, 16), ("batch", "t", None), 300),
    ],
)  # fmt: skip
def test_auto(shape: tuple[int, ...], labels: Labels, count: int) -> None:
    assert owners("auto", shape, labels).max() + 1 == count


def test_a_partition_of_ones_own() -> None:
    """In the shape of the places, of a sample, of the batch; numbers may have gaps."""
    parts = np.array([[7, 7, 9], [2, 2, 9]])
    expected = [[1, 1, 2], [0, 0, 2]]
    for given in (parts, parts[None], np.stack([parts, parts]), parts[None, None].repeat(2, axis=0)):
        np.testing.assert_array_equal(owners(given, (2, 1, 2, 3), FIRST, 1)[0], expected)
    both = np.stack([parts, np.arange(6).reshape(2, 3)])
    assert owners(both, (2, 1, 2, 3), FIRST, 0).max() == 2 and owners(both, (2, 1, 2, 3), FIRST, 1).max() == 5


def test_several_inputs_are_numbered_on() -> None:
    x = {"a": np.zeros((2, 3)), "b": np.zeros((2, 1, 4))}
    players = make_players({"b": "grid:2"}, x, {"a": ROWS, "b": SERIES})
    np.testing.assert_array_equal(players.counts, [5, 5])
    np.testing.assert_array_equal(players.owner["a"][0], [0, 1, 2])
    np.testing.assert_array_equal(players.owner["b"][1], [[3, 3, 4, 4]])


def test_values_spread_evenly() -> None:
    x = {"x": np.zeros((2, 2, 3))}
    players = make_players(np.array([0, 0, 1]), x, {"x": SERIES})
    found = players.spread([np.array([8.0, 3.0]), np.array([-4.0, 0.0])], x)["x"]
    np.testing.assert_allclose(found[0], [[2, 2, 1.5]] * 2)
    np.testing.assert_allclose(found.sum(axis=(1, 2)), [11, -4])


@pytest.mark.parametrize("spec", ["pixels", "grid", "grid:0", "grid:x", "places:3", "axis", 0.5, [0.5, 1.0], ["a"]])
def test_what_does_not_exist_is_refused(spec: Any) -> None:
    with pytest.raises(OptionError, match="players="):
        check_players(spec)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("slic", "no|none"), ("axis:3", "names no axis"), (np.zeros(5, int), "do not fit"), ({"y": "places"}, "not attributed"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(spec: Any, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        make_players(spec, {"x": np.zeros((1, 2, 3))}, {"x": SERIES})


def test_which_players_are_found_in_the_input() -> None:
    picture, row = np.zeros((1, 3, 8, 8), np.float32), np.zeros((1, 4), np.float32)
    assert needs_data("slic:5", picture, FIRST) and needs_data("auto", picture, FIRST, auto="slic")
    assert not needs_data("auto", picture, FIRST) and not needs_data("grid:4", picture, FIRST, auto="slic")
    assert not needs_data("auto", row, ROWS, auto="slic") and not needs_data(np.zeros((8, 8), int), picture, FIRST)
