"""Small Flax models that the exporter's tests share, with weights and statistics as trained ones have them."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


class Convolutional(nnx.Module):
    """Strided and plain convolutions, normalisation, dropout, pooling by position, a head."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv1 = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)
        self.bn1 = nnx.BatchNorm(8, rngs=rngs)
        self.conv2 = nnx.Conv(8, 8, (3, 3), padding="VALID", rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, image: jax.Array) -> jax.Array:
        x = nnx.relu(self.bn1(self.conv1(image)))
        x = nnx.avg_pool(nnx.relu(self.conv2(x)), (2, 2), (2, 2))
        return self.head(self.dropout(x.mean((1, 2))))


class Block(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs) -> None:
        self.norm1, self.norm2 = nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(num_heads=2, in_features=width, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(width, 2 * width, rngs=rngs), nnx.Linear(2 * width, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.norm1(x))
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class Transformer(nnx.Module):
    """Two pre-norm blocks on steps of eight numbers."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.blocks = nnx.List([Block(8, rngs) for _ in range(2)])
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, steps: jax.Array) -> jax.Array:
        for block in self.blocks:
            steps = block(steps)
        return self.head(steps.mean(1))


class Linen(nn.Module):
    """The same kind of network by linen, which is told whether it is trained."""

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = True) -> dict[str, jax.Array]:
        x = nn.Conv(6, (3, 3))(image)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = nn.Dropout(0.5, deterministic=not train)(x.reshape((x.shape[0], -1)))
        return {"scores": nn.Dense(4)(x), "features": x}


def settle(tree: Any) -> Any:
    """Parameters and statistics of the size that training leaves, all of them different."""
    rng = np.random.default_rng(1)

    def drawn(path: Any, leaf: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path)
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        if leaf.ndim > 1 and "bias" not in name:
            return jnp.asarray(
                rng.standard_normal(leaf.shape) * 1.2 / math.sqrt(leaf.size / leaf.shape[-1]), leaf.dtype
            )
        if "var" in name or "scale" in name:
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype)
        return jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(drawn, tree)


def trained(kind: type[nnx.Module]) -> Any:
    model = kind(nnx.Rngs(0))
    nnx.update(model, settle(nnx.state(model, nnx.filterlib.Not(nnx.RngState))))
    return model


def variables() -> Any:
    return settle(Linen().init(jax.random.key(0), jnp.ones((1, 8, 8, 3)), train=False))
