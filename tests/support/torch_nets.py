"""Small PyTorch nets that the exporter's tests share, and ways to read and run what was exported.

The files are run here by onnxruntime directly, apart from the exporter's check.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn
from torch.nn import functional

TOLERANCE = 1e-5  # relative; these nets have a few layers, float32 rounds to 1.2e-7 in each


class Residual(nn.Module):
    """Conv, BatchNormalization, a residual branch, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        hidden = functional.relu(self.bn1(self.conv1(image)))
        hidden = functional.relu(hidden + self.bn2(self.conv2(hidden)))
        return self.head(self.drop(hidden.mean((2, 3))))


class Attention(nn.Module):
    """A pre-norm transformer block with a class token, as in a vision transformer."""

    def __init__(self, dim: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.patch = nn.Conv2d(3, dim, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, dim))
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        n, t, d = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, d)
        return (x + self.out(y))[:, 0]


class TwoInputs(nn.Module):
    """Token ids and a mask beside them; the third argument has a default."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, scale: torch.Tensor | None = None) -> dict[str, Any]:
        pooled = (self.embed(ids) * mask[..., None]).sum(1)
        logits = self.head(pooled if scale is None else pooled * scale)
        return {"logits": logits, "pooled": pooled}


class Lambda(nn.Module):
    """A linear layer whose answer goes through a function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self.linear(x))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(7, 9), nn.LayerNorm(9), nn.GELU(), nn.Linear(9, 3))


def one_dimensional() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 4, 5, stride=2),
        nn.BatchNorm1d(4),
        nn.ELU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )


def settle(module: nn.Module) -> nn.Module:
    """Running statistics that are neither 0 nor 1, so that a dropped BatchNormalization shows."""
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2.0)
            nn.init.normal_(layer.bias)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
    return module.eval()


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def relative(actual: np.ndarray[Any, Any], expected: torch.Tensor) -> float:
    wanted = expected.detach().numpy()
    return float(np.abs(actual - wanted).max() / np.abs(wanted).max())
