"""Metrics against captum 0.9 on the same network in torch, where the definition is the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from evaluation_cases import by_method, measured
from tiny_models import fullgrad_net

from onnxplain.engine.draws import generator
from onnxplain.engine.evaluation.case import Case
from onnxplain.engine.loading import load

torch = pytest.importorskip("torch", reason="needs the torch extra")
captum = pytest.importorskip("captum.metrics", reason="needs captum")

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def pair() -> tuple[Case, Any]:
    """A case of four samples explained by their gradient, and the network in torch."""
    from torch_twins import twin

    proto, x = fullgrad_net()
    x = np.concatenate([x, 0.5 - x, x[..., ::-1], 0.3 * x])
    case = by_method(load(proto, threads=1), x, "gradient")
    net = twin(proto)
    with torch.no_grad():
        assert net(torch.from_numpy(case.x)).numpy()[:, 0] == pytest.approx(case.clean, abs=1e-6)
    return case, net


@pytest.mark.parametrize("scaled", [False, True])
def test_infidelity(pair: tuple[Case, Any], scaled: bool) -> None:
    """captum's `normalize` is the same best scaling. It takes perturbations from the caller: ours are handed to it."""
    case, net = pair
    found = measured(case, "infidelity", perturbation="noise", samples=30, scaled=scaled).values
    low, high = float(case.x.min()), float(case.x.max())
    noise = [np.clip(generator(0, 4, k).normal(0, 0.2 * (high - low), case.x.shape[1:]), low, high) for k in range(30)]
    points = torch.from_numpy(np.stack(noise).astype(np.float32))

    def perturb(inputs: Any) -> tuple[Any, Any]:
        given = points.repeat(len(inputs) // 30, 1, 1, 1)  # captum repeats each sample 30 times in a row
        return inputs - given, given

    want = captum.infidelity(
        net, perturb, torch.from_numpy(case.x), torch.from_numpy(case.attribution.astype(np.float32)), target=0,
        n_perturb_samples=30, normalize=scaled,
    ).numpy()  # fmt: skip
    # Squares of float32 differences of about 10: a relative rounding of a few 1e-6 at most.
    assert found == pytest.approx(want, rel=5e-6)


def test_max_sensitivity(pair: tuple[Case, Any]) -> None:
    case, net = pair
    found = measured(case, "max_sensitivity", radius=0.1, samples=10).values
    reach = 0.1 * float(case.x.max() - case.x.min())
    steps = torch.from_numpy(np.stack([generator(0, 5, k).uniform(-reach, reach, case.x.shape[1:]) for k in range(10)]))

    def perturb(inputs: Any, _radius: float) -> Any:
        return (inputs + steps.repeat(len(inputs) // 10, 1, 1, 1)).float()

    def explain(inputs: Any) -> Any:
        inputs = (inputs[0] if isinstance(inputs, tuple) else inputs).detach().requires_grad_(True)
        with torch.enable_grad():  # captum explains without
            return torch.autograd.grad(net(inputs)[:, 0].sum(), inputs)  # and takes its results apart as a tuple

    want = captum.sensitivity_max(explain, torch.from_numpy(case.x), perturb, n_perturb_samples=10).numpy()
    assert found == pytest.approx(want, rel=1e-6)
