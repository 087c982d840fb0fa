"""What the answer reads of a sequence, against what its gradient reaches."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_transformers import vision_transformer

import onnxplain as ox
from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.places import find_places, input_labels
from onnxplain.engine.reading import Reading, is_sequence


@pytest.mark.parametrize("readout", ["class", "mean", "patches"])
def test_places_that_are_read_are_those_with_a_gradient(readout: str) -> None:
    """For every tensor with the tokens on axis 1: whether any patch has a gradient there."""
    proto, x = vision_transformer(readout=readout)
    graph = canonicalise(read_model(proto)).graph
    places = find_places(graph, {graph.inputs[0]: input_labels(graph.inputs[0])})
    reading = Reading(graph.outputs[0], places)
    checked = [v for v, labels in places.items() if len(labels) == 3 and is_sequence(labels[1])]
    weights = {"y": np.ones((2, 3), np.float32) * [[1, 2, 3]]}
    gradients = ox.vjp(proto, {"x": x}, {"y": weights["y"].astype(np.float32)}, wrt=[v.name or "" for v in checked])
    assert len(checked) > 20
    for value in checked:
        g = gradients[value.name or ""]
        patches = g[:, 1:] if g.shape[1] == 13 else g
        assert (np.abs(patches).max() > 0) == (value in reading.whole), value.name
