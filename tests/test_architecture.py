"""Imports point backwards along the flow of data, files stay short, and frameworks stay at the edge."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("engine", "exporters", "models", "cli")

#: Layers in order. A module may import, at module level, from its own line and from lines above it.
ORDER = (
    ("engine.errors", "engine.discover", "engine.extras", "engine.differences"),
    ("engine.registry", "engine.draws", "engine.resize", "engine.quadrature", "engine.targets", "models"),
    ("engine.noise", "engine.detections"),
    ("engine.superpixels", "engine.regions", "engine.upsample"),
    ("engine.gaussian",),
    ("engine.pictures", "engine.preprocessing", "engine.inputs", "engine.cards"),
    ("engine.graph", "engine.rules.node"),
    ("engine.axes", "engine.reading"),
    ("engine.layout", "engine.broadcast", "engine.forms", "engine.places", "engine.subgraphs", "engine.spreading"),
    ("engine.samples",),
    ("engine.rules",),
    ("engine.backward", "engine.heads", "engine.plugins", "engine.catalogue"),
    ("engine.rewrite", "engine.terms", "engine.gathering", "engine.psi", "engine.propagation", "engine.cam"),
    ("engine.session",),
    ("engine.loading", "engine.gradcheck"),
    ("engine.training",),
    ("engine.render",),
    ("engine.explanation", "engine.saving", "engine.baselines", "engine.carried", "engine.players"),
    ("engine.method", "engine.masks", "engine.coarse_masks"),
    ("engine.call", "engine.attention", "engine.landscape"),
    ("engine.ascent", "engine.paths", "engine.guided_path", "engine.background", "engine.layers"),
    ("engine.shipping",),
    ("engine.methods",),
    ("engine.explainer", "engine.check", "engine.vjp"),
    ("engine.verification", "engine.verify"),
    ("engine.api", "engine.demo"),
    ("engine.evaluation", "engine.metrics"),
    ("exporters",),
    ("cli",),
)

#: Where a framework may be imported inside a function; programs that train, run by hand, import it at the top.
FRAMEWORK_PLACES = ("exporters/", "models/training/", "cli/export.py")
FRAMEWORKS = {"torch", "tensorflow", "keras", "jax", "flax"}

FILES = sorted(p.relative_to(ROOT) for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))


def dotted(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer(module: str) -> int | None:
    """Line of the longest name in `ORDER` that the module is, or lies in."""
    found = [(len(name), i) for i, line in enumerate(ORDER) for name in line if f"{module}.".startswith(f"{name}.")]
    return max(found)[1] if found else None


def statements(tree: ast.AST, lazy: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports that run when the module is imported; with ``lazy`` those inside functions as well."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            continue
        elif lazy or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from statements(node, lazy)


def imported(path: Path, lazy: bool = False) -> Iterator[str]:
    for statement in statements(ast.parse((ROOT / path).read_text(encoding="utf-8")), lazy):
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif statement.module is not None:
            yield from (f"{statement.module}.{alias.name}" for alias in statement.names)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_backwards(path: Path) -> None:
    if path.parts[0] == "models" and len(path.parts) > 2:
        return  # training programs stand outside the package's order: nothing imports them
    own = layer(dotted(path))
    if own is None:
        assert dotted(path) in ("engine",), f"{path} has no place in the order; add it to ORDER"
        return
    for name in imported(path):
        if name.startswith("onnxplain.") and name != "onnxplain.__version__":
            other = layer(name.removeprefix("onnxplain."))
            assert other is not None, f"{path} imports {name}, which has no place in the order"
            assert other <= own, f"{path} imports {name}, which comes after it"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_engine_never_needs_the_command_line(path: Path) -> None:
    """Not even inside a function: the library works where typer and the commands are gone."""
    if path.parts[0] != "cli":
        assert not [n for n in imported(path, lazy=True) if f"{n}.".startswith("onnxplain.cli.")]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_files_are_short(path: Path) -> None:
    count = len((ROOT / path).read_text(encoding="utf-8").splitlines())
    assert count <= 500, f"{path} has {count} lines"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_frameworks_stay_at_the_edge(path: Path) -> None:
    """Module level: only programs that train. Inside functions: exporters as well."""
    at_import = {n.split(".")[0] for n in imported(path)} & FRAMEWORKS
    assert not at_import or path.as_posix().startswith("models/training"), f"{path} imports {at_import}"
    ever = {n.split(".")[0] for n in imported(path, lazy=True)} & FRAMEWORKS
    assert not ever or path.as_posix().startswith(FRAMEWORK_PLACES), f"{path} uses {ever}"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_each_module_says_why_it_exists(path: Path) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert not text.strip() or ast.get_docstring(ast.parse(text)), f"{path} opens without a docstring"


def test_the_order_is_without_leftovers() -> None:
    for line in ORDER:
        for name in line:
            place = ROOT / Path(*name.split("."))
            assert place.is_dir() or place.with_suffix(".py").is_file(), f"{name} is gone; take it out of ORDER"
