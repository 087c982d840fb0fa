"""What `import onnxplain` offers, and that it costs next to nothing."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import onnxplain as ox

#: Frameworks never; runtimes and numerics not before they are used.
HEAVY = ("torch", "tensorflow", "jax", "onnxruntime", "onnx", "onnx_ir", "cv2", "matplotlib")

#: The names that the design promises and that exist so far.
PROMISED = {"Target", "check", "compile", "explain", "export", "load", "methods", "operators", "verify", "vjp"}


def in_new_process(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_names_are_sorted_and_each_exists() -> None:
    assert list(ox.__all__) == sorted(set(ox.__all__))
    for name in ox.__all__:
        assert getattr(ox, name) is not None
    assert set(ox.__all__) >= PROMISED


def test_names_for_type_checkers_are_the_same_ones() -> None:
    """The lazy table and the block that type checkers read are written twice; they have to agree."""
    assert ox.__file__ is not None
    tree = ast.parse(Path(ox.__file__).read_text(encoding="utf-8"))
    (block,) = [n for n in tree.body if isinstance(n, ast.If) and getattr(n.test, "id", "") == "TYPE_CHECKING"]
    typed = {
        alias.asname: statement.module
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert typed == ox._WHERE
    assert {*typed, "__version__"} == set(ox.__all__)


def test_every_public_name_is_documented() -> None:
    for name in ox.__all__:
        if name != "__version__":
            assert (getattr(ox, name).__doc__ or "").strip(), f"{name} has no docstring"


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'explian'"):
        ox.explian  # noqa: B018


def test_dir_lists_the_lazy_names() -> None:
    assert set(dir(ox)) >= set(ox.__all__)


def test_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert ox.__version__ == version("onnxplain")


def test_import_pulls_in_nothing_heavy() -> None:
    code = f"import sys, onnxplain; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    assert in_new_process(code).strip() == "[]"


def test_no_framework_is_imported_by_explaining() -> None:
    code = (
        "import sys, onnxplain as ox\n"
        "ox.explain(ox.demo_model(), ox.demo_input(), method='gradient')\n"
        "ox.methods(); ox.operators()\n"
        "print(sorted({'torch', 'tensorflow', 'jax'} & set(sys.modules)))"
    )
    assert in_new_process(code).strip() == "[]"


def test_import_is_quick() -> None:
    """Start of the interpreter included; the processor's time, as a busy machine only ever adds other time."""
    times = [float(in_new_process("import onnxplain, time; print(time.process_time())")) for _ in range(3)]
    assert min(times) < 0.6


def test_where_table_names_modules_that_define_the_name() -> None:
    """A public name is taken from where it is defined, so that its documentation is found there."""
    for name, module in ox._WHERE.items():
        found = getattr(importlib.import_module(module), name)
        assert found.__module__ == module, f"{name} is defined in {found.__module__}"
