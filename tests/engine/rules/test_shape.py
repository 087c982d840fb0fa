"""Rules of operators that give elements another shape, place or type."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from rule_cases import Case, case, check, parametrize
from run_time import gradient, ints, model, of_one_node, scattered, terms_of

PADS = ints(0, 0, 1, 2, 0, 0, 3, 0)
FILL = np.asarray(0.7)

CASES = [
    case("Reshape", x=(2, 3, 4), shape=ints(2, 12), batch=False),
    case("Reshape", x=(2, 3, 4), shape=ints(0, 2, -1)),
    case("Reshape", x=(2, 3, 4), shape=ints(-1), batch=False, symbolic=False),
    case("Reshape", x=(2, 3, 4), shape=ints(4, 3, 2), allowzero=1, batch=False, symbolic=False),
    case("Reshape", x=(1,), shape=np.zeros(0, np.int64), batch=False),
    case("Flatten", x=(2, 3, 4, 2)),
    *(case("Flatten", x=(2, 3, 4), axis=a, batch=a == 1) for a in (0, 1, 2, 3, -1)),
    case("Transpose", x=(2, 3, 4), batch=False),
    case("Transpose", x=(2, 3, 4, 5), perm=[0, 2, 3, 1]),
    case("Squeeze", x=(2, 1, 3, 1), axes=ints(1, -1)),
    case("Squeeze", x=(2, 1, 3, 1), symbolic=False),
    case("Unsqueeze", x=(2, 3), axes=ints(1)),
    case("Unsqueeze", x=(2, 3), axes=ints(-1, 0), batch=False),
    case("Identity", x=(2, 3)),
    case("Expand", x=(2, 1, 4), shape=ints(1, 3, 1)),
    case("Expand", x=(2, 1, 4), shape=ints(2, 3, 4), batch=False),
    case("Expand", x=(2, 1), shape=ints(3, 2, 4), batch=False),
    case("Expand", x=(2, 3), shape=ints(1), batch=True),
    case("Tile", x=(2, 3, 2), repeats=ints(1, 2, 3)),
    case("Tile", x=(2, 3), repeats=ints(2, 1), batch=False),
    case("Tile", x=(2, 3), repeats=ints(1, 1)),
    case("DepthToSpace", x=(2, 8, 2, 3), blocksize=2),
    case("DepthToSpace", x=(2, 8, 2, 3), blocksize=2, mode="CRD"),
    case("SpaceToDepth", x=(2, 3, 4, 6), blocksize=2),
    case("Cast", x=(2, 3), to=TensorProto.DOUBLE),
    case("CastLike", x=(2, 3), like=np.zeros(1)),
]
PAD_CASES = [
    case("Pad", x=(2, 3, 4, 5), pads=PADS),
    case("Pad", x=(2, 3, 4, 5), pads=PADS, fill=FILL),
    case("Pad", x=(2, 3, 4, 5), pads=PADS, fill=()),
    case("Pad", x=(2, 3), pads=ints(0, 1, 0, 1), fill=(1,), batch=False),
    case("Pad", x=(2, 3, 4), pads=ints(0, -1, 0, 0, 0, -2)),
    case("Pad", x=(2, 3, 4), pads=ints(0, -1, 1, 0, 2, -2), fill=FILL),
    case("Pad", x=(2, 3, 4), pads=ints(0, 0, 0, 0, 0, 0)),
    case("Pad", x=(2, 3, 4), pads=ints(1, 2, 1, 0), fill=FILL, axes=ints(1, -1)),
    case("Pad", x=(2, 3, 4), pads=ints(-1, 2), fill=FILL, axes=ints(-1)),
    case("Pad", x=(2, 3, 4), pads=ints(1, 0, 0, 1, 0, 0), fill=FILL, batch=False),
    *(
        case("Pad", x=(2, 3, 4, 5), pads=PADS, mode=mode, opset=19 if mode == "wrap" else 18)
        for mode in ("reflect", "edge", "wrap")
    ),
    *(
        case("Pad", x=(2, 4, 2), pads=ints(3, 1, 3, 1), fill=None, axes=ints(1, 2), mode=mode, opset=opset)
        for mode, opset in (("reflect", 18), ("edge", 18), ("wrap", 19))
    ),
    case("Pad", x=(2, 1, 3), pads=ints(0, 2, 0, 0, 1, 2), mode="edge"),
]  # fmt: skip


@parametrize(CASES)
def test_rule(case: Case) -> None:
    check(case)


@parametrize(PAD_CASES)
def test_pad(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize("pads", [(0, 1, 2, 0, 0, 1), (0, -1, 2, 0, 1, -1)])
def test_pads_known_only_at_run_time(mode: str, pads: tuple[int, ...]) -> None:
    if mode != "constant" and min(pads) < 0:
        pads = tuple(max(p, 0) for p in pads)
    x = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    numbers = np.arange(x.size).reshape(x.shape)
    cut = numbers[:, max(-pads[1], 0) : 4 - max(-pads[4], 0), : 3 - max(-pads[5], 0)]
    widths = [(max(b, 0), max(e, 0)) for b, e in zip(pads[:3], pads[3:], strict=True)]
    places = np.pad(cut, widths, **({"constant_values": -1} if mode == "constant" else {"mode": mode}))
    seed = np.random.default_rng(1).normal(size=places.shape).astype(np.float32)
    feeds = {"x": x, "pads": ints(*pads), "fill": np.asarray(0.5, np.float32)}
    found = of_one_node("Pad", feeds, seed, opset=19 if mode == "wrap" else 18, mode=mode)
    np.testing.assert_allclose(found, scattered(places, seed, x.shape), rtol=1e-6)


def test_axes_known_only_at_run_time() -> None:
    x = np.ones((2, 3, 4), np.float32)
    seed = np.arange(36, dtype=np.float32).reshape(2, 3, 6)
    feeds = {"x": x, "pads": ints(0, 2, 0, 0), "fill": np.asarray(0.5, np.float32), "axes": ints(0, -1)}
    np.testing.assert_array_equal(of_one_node("Pad", feeds, seed), seed[..., 2:])


def test_repeats_known_only_at_run_time() -> None:
    seed = np.arange(24, dtype=np.float32).reshape(2, 12)
    found = of_one_node("Tile", {"x": np.ones((2, 3), np.float32), "repeats": ints(1, 4)}, seed)
    np.testing.assert_array_equal(found, seed.reshape(2, 4, 3).sum(1))


def test_cast_to_a_narrower_float_and_back() -> None:
    """The gradient comes back in the operand's own type."""
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["h"], ["y"], to=TensorProto.FLOAT),
    ]
    feeds = {"x": np.ones((1, 2), np.float32)}
    found = gradient(model(nodes, feeds), feeds, np.asarray([[0.5, -2.0]], np.float32))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[0.5, -2.0]])


@pytest.mark.parametrize("fill", [0.0, 1.5])
def test_a_fill_value_is_an_explicit_bias_where_it_stands(fill: float) -> None:
    """Zeros add nothing; another value is a bias under its own name, at the padded places only."""
    feeds = {"x": np.ones((1, 2), np.float32)}
    proto = model([helper.make_node("Pad", ["x", "pads", "fill"], ["y"])], feeds)
    weights = [onnx.numpy_helper.from_array(ints(0, 1, 0, 2), "pads")]
    weights.append(onnx.numpy_helper.from_array(np.asarray(fill, np.float32), "fill"))
    proto.graph.initializer.extend(weights)
    terms = terms_of(proto, feeds, np.ones((1, 5), np.float32))
    if fill == 0.0:
        assert terms == []
        return
    ((kind, name, value),) = terms
    assert (kind, name) == ("explicit", "fill")
    np.testing.assert_array_equal(value, [[fill, 0, 0, fill, fill]])
