"""Implementations of operators that a runtime does not have: libraries for onnxruntime, classes for the evaluator.

A rule says how an operator is differentiated; something still has to compute it. That is the user's, and
named explicitly: a library is code that runs in this process, so none is ever looked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxplain.engine.errors import OptionError, SessionError

#: What ``custom_ops=`` accepts: paths of libraries of operators that onnxruntime loads, and
#: ``onnx.reference.op_run.OpRun`` classes for ``providers="reference"``; one, or several.
CustomOps = str | Path | type | Sequence["str | Path | type"]


@dataclass(frozen=True)
class Implementations:
    """What was given, sorted by who runs it.

    Attributes:
        libraries: For onnxruntime.
        evaluators: For the reference evaluator.
    """

    libraries: tuple[Path, ...] = ()
    evaluators: tuple[type, ...] = ()

    def register(self, options: Any) -> None:
        """Make session options load the libraries.

        Raises:
            SessionError: The runtime refuses one.
        """
        for path in self.libraries:
            try:
                options.register_custom_ops_library(str(path))
            except Exception as e:  # every runtime error, whatever its class
                text = (str(e).splitlines() or ["no message"])[0]
                raise SessionError(
                    f"onnxruntime cannot load the library of custom operators {path}: {text}; "
                    "give one that is built for this runtime and platform"
                ) from e


def implementations(given: CustomOps | None) -> Implementations:
    """Sort what was given.

    Raises:
        OptionError: A library that is not there, or something that is neither a path nor an OpRun class.
    """
    if given is None:
        return Implementations()
    items = list(given) if isinstance(given, (list, tuple)) else [given]
    libraries: list[Path] = []
    evaluators: list[type] = []
    for item in items:
        if isinstance(item, type):
            evaluators.append(_evaluator(item))
        elif isinstance(item, (str, Path)):
            libraries.append(_library(Path(item)))
        else:
            raise OptionError(
                f"custom_ops holds {item!r}, which implements nothing; give paths of libraries, or classes "
                "derived from onnx.reference.op_run.OpRun"
            )
    return Implementations(tuple(libraries), tuple(evaluators))


def _library(path: Path) -> Path:
    if not path.is_file():
        raise OptionError(f"the library of custom operators '{path}' does not exist; check the path")
    return path.resolve()


def _evaluator(cls: type) -> type:
    from onnx.reference.op_run import OpRun

    if not issubclass(cls, OpRun) or not hasattr(cls, "op_domain"):
        raise OptionError(
            f"custom_ops holds the class {cls.__name__}, which the evaluator cannot run; derive it from "
            "onnx.reference.op_run.OpRun, name it like the operator, and set op_domain"
        )
    return cls
