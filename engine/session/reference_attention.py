"""LinearAttention for the reference evaluator, which computes it in float32 whatever the operands are."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

Array = np.ndarray[Any, Any]


def _by_step(x: Array, heads: int) -> Array:
    """``[batch, steps, heads * width]`` as ``[steps, batch, heads, width]``."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 0, 2, 3)


class LinearAttention(OpRun):
    """The evaluator rounds operands and state to float32."""

    op_domain = ""

    def _run(
        self,
        query: Array,
        key: Array,
        value: Array,
        past_state: Any = None,
        decay: Any = None,
        beta: Any = None,
        kv_num_heads: int = 1,
        q_num_heads: int = 1,
        scale: Any = None,
        update_rule: Any = "gated_delta",
        **ignored: Any,
    ) -> tuple[Array, Array]:
        q, k, v = (_by_step(x, h) for x, h in ((query, q_num_heads), (key, kv_num_heads), (value, kv_num_heads)))
        factor = float(scale) if scale else 1 / np.sqrt(k.shape[3])
        state = np.zeros((*k.shape[1:], v.shape[3]), query.dtype) if past_state is None else past_state
        results = []
        for t in range(len(q)):
            if "gated" in str(update_rule):
                state = state * np.exp(_by_step(decay, kv_num_heads)[t])[..., None]
            written = v[t]
            if "delta" in str(update_rule):
                recalled = np.sum(state * k[t][..., None], axis=2)
                written = _by_step(beta, beta.shape[2])[t] * (written - recalled)
            state = state + k[t][..., None] * written[:, :, None, :]
            read = np.repeat(state, q_num_heads // kv_num_heads, axis=1)
            results.append(factor * np.sum(q[t][..., None] * read, axis=2))
        y = np.stack(results, axis=1)
        return y.reshape(*y.shape[:2], -1), state


ATTENTION: list[type[OpRun]] = [LinearAttention]
