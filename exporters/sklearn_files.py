"""Reads files of scikit-learn models: joblib, pickle and skops.

Reading a pickle runs whatever code is in it, and joblib files are pickles: only files of known origin belong here.
A skops file runs nothing; types in it that skops does not know are refused, with their names. joblib and skops are
imported inside the functions only.
"""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

from onnxplain.engine.errors import ExportError

PICKLES = (".joblib", ".pkl", ".pickle")
FILES = (*PICKLES, ".skops")
#: What skops leaves to the reader and cannot run anything: the element type of an array.
_TRUSTED = ["numpy.dtype"]
EXTRA = "pip install 'onnxplain[sklearn]'"


def is_model(path: Path) -> bool:
    """True for a file that scikit-learn models are kept in, by its name and without opening it."""
    return path.suffix.lower() in FILES


def load(path: Path) -> Any:
    """The object in a file. A pickle's code is executed.

    Raises:
        ExportError: A package is missing, or the file cannot be read.
    """
    if not path.is_file():
        raise ExportError(f"there is no file '{path}'; check the path")
    with warnings.catch_warnings():  # a model of another scikit-learn: the comparison tells whether it matters
        warnings.simplefilter("ignore")
        try:
            return _skops(path) if path.suffix.lower() == ".skops" else _pickle(path)
        except ExportError:
            raise
        except ImportError as error:
            name = (error.name or str(error)).partition(".")[0]
            remedy = EXTRA if name in ("joblib", "sklearn") else f"pip install {name}"
            raise ExportError(f"'{path}' needs {name}, which is not installed: {remedy}") from None
        except Exception as error:  # pickle, zip and the classes' own code raise whatever they like
            raise ExportError(
                f"'{path}' cannot be read: {first_line(error)}; read it with the scikit-learn that wrote it, or "
                "write a function that returns the model, and give SCRIPT.py:FACTORY"
            ) from error


def _pickle(path: Path) -> Any:
    if path.suffix.lower() != ".joblib" and not _compressed(path):
        with path.open("rb") as stream:
            return pickle.load(stream)
    import joblib

    return joblib.load(path)


def _compressed(path: Path) -> bool:
    """joblib writes compressed files, and arrays beside the pickle, under any name: plain pickles begin with 0x80."""
    with path.open("rb") as stream:
        return stream.read(1) != b"\x80"


def _skops(path: Path) -> Any:
    from skops import io
    from skops.io.exceptions import UntrustedTypesFoundException

    try:
        return io.load(path, trusted=_TRUSTED)
    except UntrustedTypesFoundException:
        unknown = ", ".join(sorted(set(io.get_untrusted_types(file=path)) - set(_TRUSTED)))
        raise ExportError(
            f"'{path}' holds types that skops does not trust ({unknown}); look at them, and load the file with "
            "skops.io.load(path, trusted=[...]) in a function that returns the model: SCRIPT.py:FACTORY"
        ) from None


def first_line(error: BaseException) -> str:
    """The first line of a message, or the name of its type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
