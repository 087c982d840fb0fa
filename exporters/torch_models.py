"""The two kinds of PyTorch model, each with its sample: how to run it, vary it and translate it.

Both give the same few operations to :mod:`onnxplain.exporters.torch`: a module is traced here and has a
training mode to leave and restore, an exported program has been traced by the user already. torch is
imported inside the functions only.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxplain.engine.errors import ExportError, InputError
from onnxplain.exporters import ExportRequest, verify

if TYPE_CHECKING:
    import torch

_NOISY_LOGGERS = ("torch", "torch.onnx", "torch.export", "torch._dynamo", "onnxscript", "onnx_ir")


@dataclass
class Source:
    """A model with its sample: ``tensors`` in the order of the graph's inputs."""

    model: Any
    sample: list[torch.Tensor]

    def evaluating(self) -> contextlib.AbstractContextManager[None]:
        """While open, the model behaves as in evaluation."""
        return contextlib.nullcontext()

    def call(self, tensors: Sequence[torch.Tensor]) -> Any:
        raise NotImplementedError

    def convert(self, tensors: Sequence[torch.Tensor], request: ExportRequest, dynamic_shapes: Any) -> Any:
        raise NotImplementedError

    def trace_sample(self, dynamic: bool) -> list[torch.Tensor]:
        """The tensors to trace the model with."""
        return self.sample

    def run(self, tensors: Sequence[torch.Tensor]) -> Any:
        """The model's outputs.

        Raises:
            ExportError: The model fails on these tensors.
        """
        import torch

        try:
            with torch.no_grad():
                return self.call([tensor.clone() for tensor in tensors])  # a model may write to its input
        except Exception as error:  # the model is the user's code
            shapes = [tuple(tensor.shape) for tensor in tensors]
            raise ExportError(
                f"the model itself fails at inputs of shape {shapes}: {_root(error)}; "
                "give a sample that it runs on, and dynamic_batch=False if it takes one batch size only"
            ) from error

    @property
    def batched(self) -> list[bool]:
        """Which tensors of the sample share the first one's first axis."""
        if not self.sample or self.sample[0].ndim == 0:
            return [False] * len(self.sample)
        rows = self.sample[0].shape[0]
        return [tensor.ndim > 0 and tensor.shape[0] == rows for tensor in self.sample]

    def varied(self, size: int | None, batched: Sequence[bool]) -> list[torch.Tensor]:
        """Another sample, with ``size`` rows; None keeps their number."""
        arrays = verify.vary([to_numpy(tensor) for tensor in self.sample], batched, size)
        return [to_torch(array, tensor.device) for array, tensor in zip(arrays, self.sample, strict=True)]

    def runnable(self, sizes: Sequence[int], batched: Sequence[bool]) -> tuple[list[torch.Tensor], Any]:
        """The first varied sample that the model takes, with its outputs: some models want, say, even batches."""
        failure = ExportError("there is no other batch size to try")
        for size in sizes:
            tensors = self.varied(size, batched)
            try:
                return tensors, self.run(tensors)
            except ExportError as error:
                failure = error
        raise failure


@dataclass
class ModuleSource(Source):
    names: tuple[str, ...] | None  # argument names, for a sample that was a dict

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        flags = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            yield
        finally:
            for module, training in flags:
                module.training = training

    def _arguments(self, tensors: Sequence[torch.Tensor]) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
        if self.names is None:
            return tuple(tensors), {}
        return (), dict(zip(self.names, tensors, strict=True))

    def call(self, tensors: Sequence[torch.Tensor]) -> Any:
        args, kwargs = self._arguments(tensors)
        return self.model(*args, **kwargs)

    def trace_sample(self, dynamic: bool) -> list[torch.Tensor]:
        # torch.export takes an axis of length 1 for a constant: attention then writes it into a Reshape.
        if dynamic and any(self.batched) and self.sample[0].shape[0] == 1:
            return self.runnable((2, 4, 8), self.batched)[0]
        return self.sample

    def convert(self, tensors: Sequence[torch.Tensor], request: ExportRequest, dynamic_shapes: Any) -> Any:
        args, kwargs = self._arguments(tensors)
        if dynamic_shapes is None and request.dynamic_batch:
            dynamic_shapes = self._batch_axes(args, kwargs)
        return _onnx_export(self.model, args, kwargs, request.opset, dynamic_shapes)

    def _batch_axes(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """``dynamic_shapes`` in the form of the module's signature, first axes of batched tensors open."""
        marks = [{0: "batch"} if batched else {} for batched in self.batched]
        keys = tuple(kwargs)
        bound = _bind(self.model, tuple(marks[: len(args)]), dict(zip(keys, marks[len(args) :], strict=True)))
        return dict(bound.arguments)


@dataclass
class ProgramSource(Source):
    @cached_property
    def module(self) -> Callable[..., Any]:
        with quiet():
            module: Callable[..., Any] = self.model.module()
        return module

    def call(self, tensors: Sequence[torch.Tensor]) -> Any:
        from torch.utils import _pytree

        args, kwargs = _pytree.tree_unflatten(list(tensors), self.model.call_spec.in_spec)
        return self.module(*args, **kwargs)

    def convert(self, tensors: Sequence[torch.Tensor], request: ExportRequest, dynamic_shapes: Any) -> Any:
        return _onnx_export(self.model, (), {}, request.opset, None)


def source_of(obj: Any, sample: Any) -> Source:
    """The model and its sample, brought together.

    Raises:
        ExportError: A kind of module that PyTorch's exporter does not take, or a program in training mode.
        InputError: The sample does not fit.
    """
    import torch

    if isinstance(obj, torch.export.ExportedProgram):
        _refuse_training(obj)
        weights = [*obj.state_dict.values(), *obj.constants.values()]
        return ProgramSource(obj, _program_sample(obj, sample, _device(weights)))
    module = getattr(obj, "_orig_mod", obj)  # what torch.compile wraps
    if isinstance(module, torch.jit.ScriptModule):
        raise ExportError(
            f"cannot export a TorchScript module ({module.original_name}): PyTorch's exporter reads Python modules; "
            "give the torch.nn.Module that it was made from"
        )
    device = _device([*module.parameters(), *module.buffers()])
    if not isinstance(sample, Mapping):
        tensors = _tensors(sample, device)
        _bind(module, tuple(tensors), {})
        return ModuleSource(module, tensors, None)
    # Keyword arguments reach the graph in the order of the signature, whatever the dict's.
    bound = _bind(module, (), dict(sample))
    ordered = {**{name: sample[name] for name in bound.arguments if name in sample}, **sample}
    return ModuleSource(module, _tensors(tuple(ordered.values()), device), tuple(ordered))


def _program_sample(program: torch.export.ExportedProgram, sample: Any, device: torch.device) -> list[torch.Tensor]:
    names = list(program.graph_signature.user_inputs)
    if isinstance(sample, Mapping):
        if set(sample) != set(names):
            raise InputError(f"the sample has {sorted(sample)}, the exported program takes {names}; use its names")
        sample = tuple(sample[name] for name in names)
    tensors = _tensors(sample, device)
    if len(tensors) != len(names):
        raise InputError(f"the sample has {len(tensors)} tensors, the exported program takes {len(names)}: {names}")
    return tensors


def _refuse_training(program: torch.export.ExportedProgram) -> None:
    """Refuse batch statistics and dropout: they would mix samples, or answer at random.

    Raises:
        ExportError: The program holds such nodes.
    """
    import torch

    found = []
    for graph_module in program.graph_module.modules():
        if not isinstance(graph_module, torch.fx.GraphModule):
            continue
        found += [f"{node.name} ({node.target})" for node in graph_module.graph.nodes if _trains(node)]
    if found:
        shown = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        raise ExportError(
            f"the exported program is in training mode: {shown}; call .eval() on the module before torch.export.export"
        )


def _trains(node: torch.fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None:
        return False
    values = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
    values |= dict(zip((argument.name for argument in schema.arguments), node.args, strict=False)) | dict(node.kwargs)
    if values.get("dropout_p"):
        return True
    if "_batch_norm_with_update" in schema.name:
        return True
    trains = bool(values.get("training", values.get("train", False)))
    return trains and bool(values.get("p", values.get("dropout", 1)))  # dropout of rate 0 changes nothing


def _onnx_export(
    model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], opset: int, dynamic_shapes: Any
) -> torch.onnx.ONNXProgram:
    import torch

    try:
        program = torch.onnx.export(
            model,
            args,
            None,
            kwargs=kwargs or None,
            dynamo=True,
            opset_version=opset,
            optimize=False,
            verbose=False,
            dynamic_shapes=dynamic_shapes,
        )
    except Exception as error:  # tracing runs the user's code
        remedy = (
            ", or set dynamic_batch=False if it takes one batch size by design" if dynamic_shapes is not None else ""
        )
        raise ExportError(
            f"PyTorch cannot export the model: {_root(error)}; torch.export.export(model, args) shows where: "
            f"change that line{remedy}"
        ) from error
    assert program is not None  # it is None only for the exporter that PyTorch is about to remove
    return program


def _tensors(sample: Any, device: torch.device) -> list[torch.Tensor]:
    import torch

    items = sample if isinstance(sample, (tuple, list)) else (sample,)
    tensors = []
    for item in items:
        if isinstance(item, torch.Tensor):
            tensors.append(item.detach().to(device))
        elif isinstance(item, (np.ndarray, np.generic)):
            tensors.append(to_torch(np.asarray(item), device))
        else:
            raise InputError(
                f"the sample holds a value of type {type(item).__name__}; "
                "give a tensor or array, a tuple of them, or a dict from argument name to tensor"
            )
    if not tensors:
        raise InputError("the sample is empty; give one example input, batch first")
    return tensors


def to_torch(array: np.ndarray[Any, Any], device: torch.device) -> torch.Tensor:
    import torch

    array = np.array(array)  # torch warns about arrays that it may not write to
    if array.dtype.name == "bfloat16":  # an extension type of numpy's, unknown to torch
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).to(device)
    try:
        return torch.from_numpy(array).to(device)
    except TypeError as error:
        raise InputError(f"the sample is of type {array.dtype}, which torch has not; convert it first") from error


def to_numpy(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    import torch

    tensor = tensor.detach().cpu()
    if tensor.dtype is torch.bfloat16:
        array: np.ndarray[Any, Any] = tensor.contiguous().view(torch.int16).numpy()
        return array.view(ir.DataType.BFLOAT16.numpy())
    return np.asarray(tensor.numpy())


def _device(weights: Sequence[Any]) -> torch.device:
    import torch

    return next((weight.device for weight in weights if isinstance(weight, torch.Tensor)), torch.device("cpu"))


def _bind(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments:
    signature = inspect.signature(module.forward)
    try:
        return signature.bind(*args, **kwargs)
    except TypeError as error:
        raise InputError(
            f"the sample does not fit {type(module).__name__}.forward{signature}: {error}; "
            "give a tuple in the order of its arguments or a dict by their names"
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's warnings, prints and log lines away from the user; what matters is in the report."""
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    sink = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _root(error: BaseException) -> str:
    """What the first cause says: the outer exceptions only say that the export failed."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    announced = lines[0].endswith(":") and len(lines) > 1  # the first line only introduces what is wrong
    return f"{type(error).__name__}: {' '.join(lines[: 2 if announced else 1])}"
