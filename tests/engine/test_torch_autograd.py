"""Gradients and full-gradient sums against PyTorch's autograd, in float64, for every layer that it exports.

Small nets are written in PyTorch, exported in float64 by PyTorch itself, and rewritten here; the rewritten
graph runs on the reference evaluator. Both sides have 53 bits, so they have to agree to 1e-9.
"""

from __future__ import annotations

import io
import logging
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812
from torch_nets import Attention, Residual, settle  # noqa: E402

import onnxplain as ox  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.slow]

#: Relative to the norm: float64, a few hundred operations deep at most.
EXACT = 1e-9


class Net(nn.Module):
    """Layers and functions, one after the other."""

    def __init__(self, *parts: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(p for p in parts if isinstance(p, nn.Module))
        self.parts = parts

    def forward(self, x: Any) -> Any:
        for part in self.parts:
            x = part(x)
        return x


class Branches(nn.Module):
    """A function of the input and of its convolution, so that values are used more than once."""

    def __init__(self, function: Callable[[Any, Any], Any], channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x, self.conv(x))


def flat(*parts: Any) -> Net:
    return Net(*parts, nn.Flatten())


#: Shape of the input without the batch, and the net.
PICTURE, SERIES, VOLUME, ROWS = (3, 9, 8), (3, 17), (2, 6, 5, 6), (7,)

CONVOLUTIONS: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "conv1d": (SERIES, lambda: flat(nn.Conv1d(3, 4, 5, stride=2, padding=2, dilation=1))),
    "conv1d_dilated": (SERIES, lambda: flat(nn.Conv1d(3, 4, 3, dilation=3))),
    "conv2d": (PICTURE, lambda: flat(nn.Conv2d(3, 4, 3))),
    "conv2d_strided": (PICTURE, lambda: flat(nn.Conv2d(3, 4, 3, stride=(2, 3), padding=(1, 2)))),
    "conv2d_grouped": (PICTURE, lambda: flat(nn.Conv2d(3, 6, 3, groups=3, padding=1, bias=False))),
    "conv2d_dilated": (PICTURE, lambda: flat(nn.Conv2d(3, 2, (3, 2), dilation=(2, 3), padding=2))),
    "conv2d_patch": (PICTURE, lambda: flat(nn.Conv2d(3, 5, 4, stride=4))),
    "conv2d_pointwise": (PICTURE, lambda: flat(nn.Conv2d(3, 5, 1, stride=2))),
    "conv3d": (VOLUME, lambda: flat(nn.Conv3d(2, 4, 3, stride=(1, 2, 1), padding=1, groups=2))),
    "deconv1d": (SERIES, lambda: flat(nn.ConvTranspose1d(3, 4, 4, stride=3, padding=1))),
    "deconv2d": (PICTURE, lambda: flat(nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1))),
    "deconv2d_grouped": (PICTURE, lambda: flat(nn.ConvTranspose2d(3, 6, 2, groups=3, dilation=2))),
    "deconv3d": (VOLUME, lambda: flat(nn.ConvTranspose3d(2, 3, 2, stride=2))),
    "linear": (ROWS, lambda: Net(nn.Linear(7, 5), nn.Linear(5, 3, bias=False))),
    "matmul": (PICTURE, lambda: Branches(lambda x, h: (x @ h.transpose(-1, -2)).flatten(1))),
}

ACTIVATIONS: dict[str, Any] = {
    "relu": F.relu, "relu6": F.relu6, "leaky_relu": lambda x: F.leaky_relu(x, 0.125), "elu": F.elu,
    "celu": lambda x: F.celu(x, 0.75), "selu": F.selu, "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "silu": F.silu,
    "mish": F.mish, "softplus": F.softplus, "softsign": F.softsign, "tanh": torch.tanh, "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid, "hardswish": F.hardswish, "hardtanh": F.hardtanh, "logsigmoid": F.logsigmoid,
    "erf": torch.erf, "exp": torch.exp, "sin": torch.sin, "cos": torch.cos, "atan": torch.atan, "abs": torch.abs,
    "clamp": lambda x: x.clamp(-0.5, 0.75), "sqrt": lambda x: (x.abs() + 0.125).sqrt(),
    "rsqrt": lambda x: (x.abs() + 0.125).rsqrt(), "log": lambda x: (x.abs() + 0.125).log(), "square": torch.square,
    "reciprocal": lambda x: 1 / (2 + x.abs()), "softmax": lambda x: x.softmax(-1), "log_softmax": lambda x: x.log_softmax(1),
    "softmax_inner": lambda x: x.unflatten(1, (3, 2)).softmax(1).flatten(1), "tanhshrink": F.tanhshrink,
    "softshrink": F.softshrink, "hardshrink": F.hardshrink, "threshold": lambda x: F.threshold(x, 0.125, -0.25),
}  # fmt: skip

ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda x, h: x + h, "sub": lambda x, h: 2 - x - h, "mul": lambda x, h: x * h * x,
    "div": lambda x, h: x / (h.square() + 1), "pow": lambda x, h: (h.abs() + 0.5) ** 1.75, "neg": lambda x, h: -h,
    "pow_tensor": lambda x, h: (x.abs() + 0.5) ** h, "maximum": torch.maximum, "minimum": torch.minimum,
    "where": lambda x, h: torch.where(x > 0, h, x * h), "broadcast": lambda x, h: x * h.mean((2, 3), keepdim=True),
    "broadcast_rows": lambda x, h: h + x.mean((2, 3), keepdim=True).square() + x.mean(3, keepdim=True),
    "squeeze_excite": lambda x, h: h * torch.sigmoid(F.adaptive_avg_pool2d(x, 1)),
}  # fmt: skip

POOLS: dict[str, tuple[tuple[int, ...], Any]] = {
    "max": (PICTURE, nn.MaxPool2d(2)), "max_overlapping": (PICTURE, nn.MaxPool2d(3, 2, 1)),
    "max_dilated": (PICTURE, nn.MaxPool2d(2, 1, dilation=2)), "max_ceil": (PICTURE, nn.MaxPool2d(2, ceil_mode=True)),
    "max1d": (SERIES, nn.MaxPool1d(3, 2)), "max3d": (VOLUME, nn.MaxPool3d(2)),
    "average": (PICTURE, nn.AvgPool2d(3, 2, 1)),
    "average_without_pads": (PICTURE, nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
    "average1d": (SERIES, nn.AvgPool1d(4)), "average3d": (VOLUME, nn.AvgPool3d(2)),
    "global_average": (PICTURE, nn.AdaptiveAvgPool2d(1)), "global_max": (PICTURE, nn.AdaptiveMaxPool2d(1)),
}  # fmt: skip

REDUCTIONS: dict[str, Callable[[Any], Any]] = {
    "mean": lambda x: x.mean((2, 3)), "sum": lambda x: x.sum(1).flatten(1), "amax": lambda x: x.amax((2, 3)),
    "amin": lambda x: x.amin(1, keepdim=True).flatten(1), "logsumexp": lambda x: x.logsumexp((1, 2)),
    "norm": lambda x: x.norm(dim=1).flatten(1), "l1": lambda x: x.abs().sum((2, 3)), "var": lambda x: x.var((2, 3)),
    "prod": lambda x: x.prod(1).flatten(1), "cumsum": lambda x: x.cumsum(2).flatten(1),
    "topk": lambda x: x.flatten(1).topk(5)[0], "normalize": lambda x: F.normalize(x, dim=1).flatten(1),
}  # fmt: skip

NORMS: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "batch": (PICTURE, lambda: Net(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, 2**-16), nn.Flatten())),
    "batch1d": (ROWS, lambda: Net(nn.Linear(7, 4), nn.BatchNorm1d(4, 2**-16))),
    "layer": (PICTURE, lambda: flat(nn.LayerNorm([3, 9, 8]))),
    "layer_last": (PICTURE, lambda: flat(nn.LayerNorm(8, elementwise_affine=False))),
    "instance": (PICTURE, lambda: flat(nn.InstanceNorm2d(3, affine=True))),
    "group": ((6, 5, 4), lambda: flat(nn.GroupNorm(3, 6))),
    "rms": (ROWS, lambda: Net(nn.RMSNorm(7))),
    "lrn": ((6, 5, 4), lambda: flat(nn.LocalResponseNorm(3, alpha=0.375, beta=0.625, k=1.25))),
    "prelu": (PICTURE, lambda: flat(nn.PReLU(3))),
}

SHAPES: dict[str, Callable[[Any, Any], Any]] = {
    "reshape": lambda x, h: h.reshape(h.shape[0], -1, 3), "transpose": lambda x, h: h.permute(0, 3, 1, 2),
    "concat": lambda x, h: torch.cat([x, h, x], 1), "stack": lambda x, h: torch.stack([x, h], 2),
    "split": lambda x, h: torch.split(h, [2, 4, 3], 2)[1] * 3, "chunk": lambda x, h: h.chunk(2, 3)[0] * h.chunk(2, 3)[1],
    "slice": lambda x, h: h[:, 1:, 2:-1:2, :5], "flip": lambda x, h: h.flip(2),
    "expand": lambda x, h: h[:, :1].expand(-1, 4, -1, -1),
    "select": lambda x, h: h[:, :, 3], "index": lambda x, h: h[:, :, [0, 3, 3, 8]], "squeeze": lambda x, h: h[:, :1].squeeze(1),
    "gather": lambda x, h: h.gather(3, torch.arange(4).expand(h.shape[0], 3, 9, 4) * 2), "unsqueeze": lambda x, h: h.unsqueeze(2),
    "pad": lambda x, h: F.pad(h, (1, 2, 0, 3), value=0.375), "reflect": lambda x, h: F.pad(h, (2, 1, 3, 2), mode="reflect"),
    "edge": lambda x, h: F.pad(h, (2, 1, 3, 2), mode="replicate"), "crop": lambda x, h: F.pad(h, (-1, -2, 0, -1)),
    "repeat": lambda x, h: h.repeat(1, 2, 1, 3), "cast": lambda x, h: h.float().double(),
    "depth_to_space": lambda x, h: F.pixel_shuffle(torch.cat([x, h, x, h], 1), 2),
    "space_to_depth": lambda x, h: F.pixel_unshuffle(h[:, :, :8], 2), "roll": lambda x, h: h.roll(2, 3),
    "nearest": lambda x, h: F.interpolate(h, scale_factor=2),
    "linear": lambda x, h: F.interpolate(h, scale_factor=2, mode="bilinear"),
    "corners": lambda x, h: F.interpolate(h, size=(13, 5), mode="bilinear", align_corners=True),
    "cubic": lambda x, h: F.interpolate(h, scale_factor=2, mode="bicubic"), "tril": lambda x, h: h.tril(),
    "einsum": lambda x, h: torch.einsum("nchw,nchv->nwv", x, h),
}  # fmt: skip

#: Attributes of ONNX are float32, so the constants above are sums of a few powers of two. What remains is what the
#: operator itself has in float32 (1/6, SELU's constants), what exists in float32 only (Celu), and rounding on purpose.
LOOSE = {"act-hardsigmoid": 1e-7, "act-hardswish": 1e-7, "act-selu": 1e-7, "act-celu": 1e-6, "shape-cast": 1e-6}

#: Written without PyTorch's optimiser, which folds BatchNormalization; but for what it then writes as sequences.
OPTIMISED = {"shape-split", "shape-chunk"}


def cases() -> dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]]:
    found = dict(CONVOLUTIONS)
    found |= {f"act-{n}": (ROWS, lambda f=f: Net(nn.Linear(7, 6), f, nn.Linear(6, 3))) for n, f in ACTIVATIONS.items()}
    found |= {f"arith-{n}": (PICTURE, lambda f=f: flat(Branches(f))) for n, f in ARITHMETIC.items()}
    found |= {
        f"pool-{n}": (s, lambda p=p, s=s: flat(nn.LazyBatchNorm3d() if len(s) == 4 else nn.Identity(), p))
        for n, (s, p) in POOLS.items()
    }
    found |= {
        f"reduce-{n}": (PICTURE, lambda f=f: Net(nn.Conv2d(3, 3, 3, padding=1), f)) for n, f in REDUCTIONS.items()
    }
    found |= {f"norm-{n}": entry for n, entry in NORMS.items()}
    found |= {f"shape-{n}": (PICTURE, lambda f=f: flat(Branches(f))) for n, f in SHAPES.items()}
    found |= {"net-residual": ((3, 8, 8), Residual), "net-attention": ((3, 8, 8), Attention)}
    return found


CASES = cases()


def exported(net: nn.Module, x: Any, *, optimize: bool = False) -> bytes:
    """The ONNX file of a float64 net; its batch is that of ``x``."""
    buffer = io.BytesIO()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own remarks on its dependencies
            torch.onnx.export(net, (x,), buffer, opset_version=18, dynamo=True, verbose=False, optimize=optimize)
    finally:
        logging.disable(logging.NOTSET)
    return buffer.getvalue()


def made(name: str) -> tuple[nn.Module, Any, bytes]:
    shape, make = CASES[name]
    torch.manual_seed(zlib.crc32(name.encode()))
    torch.set_num_threads(1)
    net = make()
    x = torch.randn(2, *shape, dtype=torch.float64)
    net = net.double()
    with torch.no_grad():
        net(x)  # lazy layers take their sizes
    net = settle(net)
    return net, x, exported(net, x, optimize=name in OPTIMISED)


@pytest.mark.parametrize("name", CASES)
def test_gradient_and_completeness(name: str) -> None:
    """<u, df/dx> in float64; and f = <grad, x> + bias terms for one element of the output."""
    net, x, model = made(name)
    x = x.requires_grad_()
    y = net(x)
    u = torch.randn_like(y)
    (expected,) = torch.autograd.grad(y, x, u)
    loaded = ox.load(model)
    source, output = loaded.inputs[0].name, loaded.outputs[0].name
    found = ox.vjp(model, {source: x.detach().numpy()}, {output: u.numpy()}, providers="reference")[source]
    assert found.dtype == np.float64
    bound = LOOSE.get(name, EXACT)
    gap = np.linalg.norm(found - expected.numpy())
    assert gap <= bound * np.linalg.norm(expected.numpy()), f"off by {gap / np.linalg.norm(expected.numpy()):.1e}"
    e = ox.explain(loaded, x.detach().numpy(), method="fullgrad", providers="reference")
    assert e.terms is not None
    assert e.residual is not None
    assert np.abs(e.score - y.detach().flatten(1).max(1).values.numpy()).max() <= bound * (1 + np.abs(e.score).max())
    assert e.residual.relative.max() <= bound


@pytest.mark.parametrize("name", ["conv2d", "linear", "norm-batch", "norm-layer", "net-residual"])
def test_gradient_by_parameters(name: str) -> None:
    """Initializers may be asked for as well: weights and biases against autograd."""
    net, x, model = made(name)
    y = net(x)
    u = torch.randn_like(y)
    loaded = ox.load(model)
    names = {
        n: p for n, p in net.named_parameters() if n in {v.name for v in loaded.canonical.graph.initializers.values()}
    }
    assert names, "the exporter keeps the parameters' names"
    expected = torch.autograd.grad(y, list(names.values()), u)
    found = ox.vjp(
        model,
        {loaded.inputs[0].name: x.numpy()},
        {loaded.outputs[0].name: u.numpy()},
        wrt=list(names),
        providers="reference",
    )
    for n, gradient in zip(names, expected, strict=True):
        gap = np.linalg.norm(found[n] - gradient.numpy())
        assert gap <= EXACT * np.linalg.norm(gradient.numpy()), n


def test_explicit_terms_alone_are_complete_on_a_relu_net() -> None:
    """Piecewise linear: nothing implicit is left over, to rounding."""
    torch.manual_seed(0)
    net = Net(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 2), nn.LeakyReLU(0.125),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip
    net = settle(net.double())
    x = torch.randn(2, *PICTURE, dtype=torch.float64)
    e = ox.explain(exported(net, x), x.numpy(), method="fullgrad", providers="reference")
    assert e.terms is not None
    explicit = e.terms.input + e.terms.explicit
    assert np.abs(explicit - e.score).max() <= EXACT * e.terms.magnitude.min()
    assert np.abs(e.terms.implicit).max() <= EXACT * e.terms.magnitude.min()
