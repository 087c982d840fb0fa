"""Trained weights from a checkpoint into a network that the user's code built.

A checkpoint holds names and numbers, never code that would be run: files are read as weights only. Guarantee: after
:func:`load_weights` every parameter and buffer of the network comes from the file; a weight that is missing, left
over or of another shape is an error that names it, since an explanation of random weights would look like any other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxplain.engine.errors import ExportError

if TYPE_CHECKING:
    import torch

#: Keys under which training scripts keep the weights beside optimiser, epoch and the like.
WRAPPERS = ("state_dict", "model_state_dict", "model", "weights")
#: What DataParallel, torch.compile and training frameworks put in front of every name.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
_SHOWN = 4  # names in a message


def load_weights(module: torch.nn.Module, path: str | Path) -> None:
    """Load a checkpoint into ``module``, all of it or nothing.

    Args:
        module: The network, as it was built for training.
        path: ``.safetensors``, an index of shards (``.index.json``), or what ``torch.save`` wrote: a state dict, or
            a dict that holds one under one of :data:`WRAPPERS`.

    Raises:
        ExportError: The file cannot be read, holds more than weights, or does not fit the network.
    """
    path = Path(path)
    own = module.state_dict(keep_vars=True)
    found = _without_prefix(read_weights(path), own)
    problems = _problems(own, found)
    if problems:
        raise ExportError(
            f"'{path}' does not fit {type(module).__name__}: {'; '.join(problems)}; "
            "build the network with the options that it was trained with"
        )
    try:
        module.load_state_dict(found, strict=False)
    except Exception as error:  # a module may have its own way of loading
        raise ExportError(f"'{path}' cannot be loaded into {type(module).__name__}: {_first_line(error)}") from error


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by name; nothing in it is run.

    Raises:
        ExportError: No such file, damaged, or it holds something else.
    """
    if not path.is_file():
        raise ExportError(f"there is no checkpoint '{path}'; check the path")
    if path.name.endswith(".index.json"):
        return _shards(path)
    content = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    weights = _unwrapped(content, path)
    if not weights:
        raise ExportError(f"'{path}' holds no weights; save the network's state_dict()")
    return weights


def _shards(index: Path) -> dict[str, torch.Tensor]:
    """All files that an index names, which lie beside it."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ExportError(f"'{index}' is no index of weights: {_first_line(error)}; download it again") from error
    weights: dict[str, torch.Tensor] = {}
    for name in names:
        if Path(name).name != name or name.endswith(".json"):
            raise ExportError(f"'{index}' names '{name}', which is no file beside it; download it again")
        weights |= read_weights(index.with_name(name))
    return weights


def _safetensors(path: Path) -> Any:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise ExportError(f"'{path}' needs safetensors, which is not installed: pip install safetensors") from None
    try:
        return load_file(path)
    except Exception as error:  # safetensors has one exception class of its own, files have others
        raise ExportError(f"'{path}' is no safetensors file: {_first_line(error)}; download it again") from error


def _pickled(path: Path) -> Any:
    import pickle

    import torch

    from onnxplain.exporters.torch_models import quiet

    try:
        with quiet():
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error):  # bytes that are no pickle at all
            raise ExportError(f"'{path}' is no checkpoint of PyTorch: {_first_line(error)}; save it again") from error
        raise ExportError(
            f"'{path}' holds Python objects beside its weights, and loading them could run any code; save "
            "network.state_dict() instead of the network"
        ) from error
    except Exception as error:  # zip, pickle and torch raise a dozen unrelated types
        raise ExportError(f"'{path}' is no checkpoint of PyTorch: {_first_line(error)}; save it again") from error


def _unwrapped(content: Any, path: Path) -> dict[str, torch.Tensor]:
    """The state dict itself, or the one within a training script's dict."""
    import torch

    def is_state(value: Any) -> bool:
        return isinstance(value, Mapping) and any(isinstance(item, torch.Tensor) for item in value.values())

    def tensors(value: Mapping[Any, Any]) -> dict[str, torch.Tensor]:
        return {str(key): item for key, item in value.items() if isinstance(item, torch.Tensor)}

    if not isinstance(content, Mapping):
        raise ExportError(f"'{path}' holds a {type(content).__name__}, not weights by name; save state_dict()")
    for key in WRAPPERS:
        if is_state(content.get(key)):
            return tensors(content[key])
    if is_state(content):
        return tensors(content)
    keys = ", ".join(map(str, list(content)[:_SHOWN])) or "nothing"
    raise ExportError(
        f"'{path}' has no weights where they are looked for ({', '.join(WRAPPERS)}), it holds {keys}; "
        "save network.state_dict()"
    )


def _without_prefix(found: dict[str, torch.Tensor], own: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Names without what a wrapper put in front of all of them, unless the network has it as well."""
    while True:
        prefix = next((p for p in PREFIXES if found and all(name.startswith(p) for name in found)), None)
        if prefix is None or any(name.startswith(prefix) for name in own):
            return found
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}


def _problems(own: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """What keeps the weights from fitting, in words."""
    import torch
    from torch.nn.parameter import is_lazy

    wanted = {name: value for name, value in own.items() if isinstance(value, torch.Tensor)}
    missing = [name for name in wanted if name not in found and not _spared(name, wanted, found)]
    surplus = [name for name in found if name not in own]
    other = [
        f"{name} ({_size(found[name])} in the file, {_size(value)} in the network)"
        for name, value in wanted.items()
        if name in found and not is_lazy(value) and found[name].shape != value.shape
    ]
    counts = ((missing, "missing"), (surplus, "not the network's"), (other, "of another shape"))
    return [f"{len(names)} {what}: {_listed(names)}" for names, what in counts if names]


def _spared(name: str, own: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """A counter that old files lack, or a weight that is another one under a second name."""
    if name.endswith("num_batches_tracked"):
        return True
    value = own[name]
    return any(other is value for key, other in own.items() if key in found)


def _size(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200].rstrip(".") if lines else type(error).__name__
