"""Recurrent nets scripted with lists of tensors, as PyTorch exports them: gradients against its own autograd."""

from __future__ import annotations

import io
import warnings

import numpy as np
import onnx
import pytest

import onnxplain as ox

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytestmark = pytest.mark.torch


class _Cell(torch.nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.o = torch.nn.Linear(3, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)


class Indexed(_Cell):
    """Reads by position, appends, stacks."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[name-defined]
        states = []
        h = torch.zeros(x.size(0), 4)
        for t in range(x.size(1)):
            h = torch.tanh(self.a(x[:, t]) + self.b(h))
            states.append(h)
        return self.o(torch.stack(states, dim=1).mean(1))


class Unbound(_Cell):
    """Goes through the list that ``unbind`` gives, appends, concatenates."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[name-defined]
        answers = []
        h = torch.zeros(x.size(0), 4)
        for e in x.unbind(1):
            h = torch.tanh(self.a(e) + self.b(h))
            answers.append(self.o(h))
        return torch.cat(answers, dim=1).sum(1, keepdim=True)


class Chunks(_Cell):
    """The first and the last piece of a split, whose number is open."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[name-defined]
        parts = torch.split(x, 2, dim=1)
        return self.o(self.b(torch.tanh(self.a(parts[0].sum(1)) * self.a(parts[-1].sum(1)))))


@pytest.mark.parametrize("kind", [Indexed, Unbound, Chunks], ids=lambda k: k.__name__.lower())
@pytest.mark.parametrize("steps", [2, 5])
def test_scripted_nets(kind: type, steps: int) -> None:
    net = kind().eval()
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates the call and scripting themselves
        torch.onnx.export(
            torch.jit.script(net),
            (torch.randn(2, 5, 3),),
            file,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "N", 1: "T"}},
            opset_version=17,
            dynamo=False,
        )
    proto = onnx.load_model_from_string(file.getvalue())
    assert {"SplitToSequence", "SequenceEmpty"} & {n.op_type for n in proto.graph.node}
    x = torch.randn(3, steps, 3, requires_grad=True)
    y = net(x)
    u = torch.randn_like(y)
    y.backward(u)
    found = ox.vjp(proto, {"x": x.detach().numpy()}, {"y": u.numpy()})
    np.testing.assert_allclose(found["x"], x.grad.numpy(), rtol=1e-4, atol=1e-6)  # float32 on both sides
    assert found.blocked == ()
    residual = ox.explain(proto, x.detach().numpy(), method="fullgrad", target=0).residual
    assert residual is not None
    assert residual.relative.max() < 1e-5
