"""Methods that draw at random: reproducible, another seed is another draw, and a row of a batch is what it is alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny_models import fullgrad_net

import onnxplain as ox
from onnxplain.engine.draws import generator

#: Methods that draw, with options that keep them quick.
RANDOM: dict[str, dict[str, Any]] = {
    "smoothgrad": {"draws": 4},
    "smoothgrad_squared": {"draws": 4},
    "vargrad": {"draws": 4},
    "smooth_fullgrad": {"draws": 3},
    "expected_gradients": {"background": "uniform"},
    "gradient_shap": {"spread": 0.1},
    "rise": {"draws": 12},
    "lime": {"players": "grid:2", "draws": 20},
    "kernel_shap": {"draws": 40, "players": "places"},
    "shapley_sampling": {"permutations": 3},
    "integrated_gradients": {"baseline": "noise:2", "steps": 8, "tolerance": None},
}


def explained(method: str, x: Any, seed: int = 0) -> ox.Explanation:
    proto, _ = fullgrad_net()
    return ox.explain(proto, x, method=method, target=1, seed=seed, threads=1, **RANDOM[method])


@pytest.mark.parametrize("method", RANDOM)
def test_a_row_is_what_it_is_alone(method: str) -> None:
    _, x = fullgrad_net()
    batch = np.concatenate([x + 0.4, x[..., ::-1] * 0.8, x]).astype(np.float32)
    together = explained(method, batch)
    for n in range(len(batch)):
        alone = explained(method, batch[n : n + 1])
        for name, array in together.attributions.items():
            # Runtimes round differently for other batch sizes.
            np.testing.assert_allclose(array[n], alone.attributions[name][0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", RANDOM)
def test_the_seed_decides(method: str) -> None:
    _, x = fullgrad_net()
    one, again, other = (explained(method, x, seed) for seed in (1, 1, 2))
    for name, array in one.attributions.items():
        np.testing.assert_array_equal(array, again.attributions[name])
        assert np.abs(array - other.attributions[name]).max() > 0


def test_draws_differ_in_every_number() -> None:
    first = generator(3, 1, 2).random()
    assert first == generator(3, 1, 2).random()
    assert first not in (generator(3, 1, 3).random(), generator(3, 2, 2).random(), generator(4, 1, 2).random())
