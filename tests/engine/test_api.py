"""The registries as data, and one call against two."""

from __future__ import annotations

import inspect
import json

import pytest
from tiny_models import fullgrad_net

import onnxplain as ox
from onnxplain.engine.errors import OptionError
from onnxplain.engine.explanation import jsonable
from onnxplain.engine.method import create


def test_methods_are_plain_data() -> None:
    found = {m["name"]: m for m in ox.methods()}
    assert list(found) == sorted(found)
    assert set(found) >= {"absolute_gradient", "fullgrad", "gradient", "input_x_gradient", "integrated_gradients"}
    for entry in found.values():
        assert set(entry) == {"name", "summary", "source", "options", "axioms", "variants", "quick"}
        assert entry["summary"]
        assert not entry["summary"].endswith(".")
        assert entry["source"]
        json.dumps(jsonable(entry))
    assert found["integrated_gradients"]["options"]["steps"] == 50
    assert found["fullgrad"]["options"]["rescale"] == "minmax"


def test_options_that_are_listed_are_options_that_are_taken() -> None:
    """Every default, given explicitly, makes the same method."""
    for entry in ox.methods():
        plain, spelt = create(entry["name"], {}), create(entry["name"], entry["options"])
        assert plain == spelt
        assert plain.options() == spelt.options() == entry["options"]


def test_quick_options_and_variants_are_options_of_their_method() -> None:
    for entry in ox.methods():
        for options in (entry["quick"], *(v["options"] for v in entry["variants"])):
            create(entry["name"], options)
            assert all(entry["options"][key] != value for key, value in options.items()), "and none says the default"


def test_operators_are_plain_data() -> None:
    found = ox.operators()
    assert json.loads(json.dumps(found)) == found
    assert "Conv" in {entry["operator"] for entry in found}


def test_explain_takes_all_that_compile_takes() -> None:
    compiled = set(inspect.signature(ox.compile).parameters)
    assert set(inspect.signature(ox.explain).parameters) == compiled | {"x", "target", "seed", "strict"}


def test_one_call_is_the_same_as_two() -> None:
    proto, x = fullgrad_net()
    once = ox.explain(proto, x, method="fullgrad", target=1, sign="pos")
    twice = ox.compile(proto, method="fullgrad", sign="pos")(x, target=1)
    assert once.saliency is not None
    assert twice.saliency is not None
    assert once.saliency.tobytes() == twice.saliency.tobytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "fulgrad"}, "did you mean fullgrad"),
        ({"method": "gradient", "steps": 5}, "'gradient' has no option 'steps'; its options: composite, reduction"),
        ({"method": "integrated_gradients", "steps": "many"}, "steps='many' is not possible; give a whole number"),
        ({"method": "integrated_gradients", "steps": 0}, "at least 1"),
        ({"method": "integrated_gradients", "quadrature": "simpson"}, "choose one of 'gauss_legendre'"),
        ({"method": "fullgrad", "sign": "both"}, "sign='both'"),
        ({"method": "gradient", "reduction": "median"}, "reduction='median'"),
        ({"method": "gradient", "head": "odds"}, "unknown head"),
        ({"method": "gradient", "layout": "diagonal"}, "unknown layout"),
        ({"method": "gradient", "memory_mib": 0}, "memory_mib=0 must be positive"),
        ({"method": "gradient", "memory_mib": float("nan")}, "must be positive"),
        ({"method": "gradient", "providers": "quantum"}, "provider 'quantum'"),
        ({"method": "gradient", "providers": ["reference", "cpu"]}, "cannot be mixed"),
        ({"method": "gradient", "providers": []}, "empty"),
    ],
    ids=lambda v: "-".join(f"{k}" for k in v) if isinstance(v, dict) else "",
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        ox.compile(fullgrad_net()[0], **options)  # type: ignore[arg-type]


def test_threads_reach_the_session_of_a_loaded_model() -> None:
    proto, x = fullgrad_net()
    loaded = ox.load(proto, threads=1)
    assert ox.explain(loaded, x, method="gradient").provenance["threads"] == 1
    assert ox.explain(loaded, x, method="gradient", threads=2).provenance["threads"] == 2
    assert ox.explain(proto, x, method="gradient", threads=2).provenance["threads"] == 2
