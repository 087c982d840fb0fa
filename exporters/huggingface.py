"""Hugging Face models to ONNX: a directory as ``save_pretrained`` writes it is all that is needed.

The class comes from the directory's ``architectures``, the example input from its config, and what is known beside the
weights (names of classes, preparation of pictures) goes into the file. Guarantees: nothing is downloaded and no code
of the directory is run; a weight that the directory lacks is an error, never drawn at random.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxplain.engine.cards import PREPROCESS_KEY
from onnxplain.engine.errors import ExportError, InputError
from onnxplain.engine.inputs import LABELS_KEY
from onnxplain.exporters import Exporter, ExportReport, ExportRequest, exporters
from onnxplain.exporters.huggingface_processing import class_names, preprocessing_of, read_json
from onnxplain.exporters.torch import check_options, export_source
from onnxplain.exporters.torch_models import ModuleSource, quiet, source_of, to_torch

if TYPE_CHECKING:
    import torch

CONFIG_FILE = "config.json"
#: Lengths at which a text model is traced and compared; the second one shows that the axis is open.
LENGTHS = (8, 11)
SECONDS = (16000, 20000)  # of sound, in samples
_PADDED = 3
_SWITCHED_OFF = ("use_cache", "output_attentions", "output_hidden_states")


def is_model(path: Path) -> bool:
    """Whether a folder is one of a Hugging Face model, by its config."""
    config = path / CONFIG_FILE
    if not path.is_dir() or not config.is_file():
        return False
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and bool({"model_type", "architectures"} & set(content))


def can_export(obj: object) -> bool:
    """True for a directory of a model, and for a model of transformers; never imports transformers."""
    if isinstance(obj, (str, Path)):
        return is_model(Path(obj))
    base = getattr(sys.modules.get("transformers.modeling_utils"), "PreTrainedModel", None)
    return base is not None and isinstance(obj, base)


def export(obj: Any, sample: Any, request: ExportRequest, *, seed: int = 0) -> ExportReport:
    """Write a Hugging Face model as ONNX; see :func:`onnxplain.exporters.export` for the common arguments.

    Args:
        obj: A directory with ``config.json`` and weights, or a ``transformers.PreTrainedModel``.
        sample: As for a module; None draws one from the config: token ids with a padding mask, a picture, or a sound.
            Texts and sounds keep their length open, whatever the sample's.
        request: What is asked for.
        seed: Seed of a drawn sample.

    Raises:
        ExportError: The directory is incomplete or needs code of its own, or the model cannot be translated.
        InputError: The model takes something that cannot be drawn.
        OptionError: Opset outside 18 to 25.
        OutputError: The file cannot be written.
    """
    for package in ("transformers", "torch"):
        if importlib.util.find_spec(package) is None:
            raise ExportError(
                f"Hugging Face models need {package}, which is not installed: pip install 'onnxplain[huggingface]'"
            )
    folder = Path(obj) if isinstance(obj, (str, Path)) else None
    model, notes = (obj, []) if folder is None else load(folder)
    check_options(model, request, None)
    with _answers_only(model.config):
        source = _source(model, sample, request, seed, folder)
        with source.evaluating():
            answer = source.run(source.sample)
        named = {str(k): v for k, v in answer.items() if v is not None} if isinstance(answer, Mapping) else {}
        if request.output_names is None and all(hasattr(value, "shape") for value in named.values()) and named:
            request = replace(request, output_names=tuple(named))
        metadata, more = _metadata(model, folder, answer)
        return export_source(
            source,
            request,
            dynamic_shapes=_open_axes(source, request),
            metadata=metadata,
            exporter=_exporter(),
            notes=(*notes, *more),
        )


exporters.add(
    "huggingface",
    Exporter("a directory or model of Hugging Face transformers", can_export, export, draws_sample=True),
)


def _exporter() -> str:
    import torch
    import transformers

    return f"transformers {transformers.__version__}, torch {torch.__version__}"


# ----- directories ------------------------------------------------------------------------------------


def load(folder: Path) -> tuple[Any, list[str]]:
    """The model of a directory in float32, and what is to be said about it.

    Raises:
        ExportError: Its class is not of this transformers, or its weights are incomplete, quantised or damaged.
    """
    config = read_json(folder / CONFIG_FILE)
    if config.get("quantization_config"):
        raise ExportError(f"'{folder}' holds quantised weights, which ONNX has no form for; give the unquantised model")
    with quiet(), _silent():
        kind = _class(folder, config)
        try:
            model, info = kind.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                dtype="float32",
                attn_implementation="eager",
                ignore_mismatched_sizes=True,  # refused below, by name
            )
        except Exception as error:  # transformers, safetensors and pickle have classes of their own
            raise ExportError(
                f"'{folder}' cannot be loaded as {kind.__name__}: {_first_line(error)}; "
                "give a directory as save_pretrained writes it, weights included"
            ) from error
    for key, what in (("missing_keys", "are missing"), ("mismatched_keys", "are of another shape")):
        names = sorted(str(name[0] if isinstance(name, tuple) else name) for name in info.get(key) or ())
        if names:
            raise ExportError(
                f"'{folder}': {len(names)} weights of {kind.__name__} {what} ({', '.join(names[:4])}), and random ones "
                "would explain nothing; give the directory of the trained model"
            )
    return model, _notes(config, info)


def _class(folder: Path, config: Mapping[str, Any]) -> Any:
    import transformers

    named = (config.get("architectures") or [None])[0]
    kind = getattr(transformers, str(named), None) if named else transformers.AutoModel
    if kind is None or not hasattr(kind, "from_pretrained"):
        why = (
            "its code lies in the directory (auto_map) and is never run"
            if config.get("auto_map")
            else f"transformers {transformers.__version__} does not have it"
        )
        raise ExportError(
            f"'{folder}' is of class {named}: {why}; build the model in a script of your own that you trust, and give "
            "SCRIPT.py:FACTORY"
        )
    return kind


def _notes(config: Mapping[str, Any], info: Mapping[str, Any]) -> list[str]:
    notes = []
    stored = config.get("dtype") or config.get("torch_dtype") or "float32"
    if stored != "float32":
        notes.append(f"the weights are stored as {stored}, and are float32 in the file")
    unused = sorted(map(str, info.get("unexpected_keys") or ()))
    if unused:
        notes.append(f"{len(unused)} weights of the directory are not the model's ({', '.join(unused[:4])})")
    if not config.get("architectures"):
        notes.append("config.json names no architecture: exported without a head")
    return notes


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """transformers' bars and log lines go their own way, past :func:`quiet`."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def _answers_only(config: Any) -> Iterator[None]:
    """While open, the model returns its answers by name, and no caches or inner states."""
    wanted: dict[str, Any] = {**dict.fromkeys(_SWITCHED_OFF, False), "return_dict": True}
    before = {name: getattr(config, name) for name in wanted if hasattr(config, name)}
    try:
        for name in before:
            setattr(config, name, wanted[name])
        yield
    finally:
        for name, value in before.items():
            setattr(config, name, value)


def _metadata(model: Any, folder: Path | None, answer: Any) -> tuple[dict[str, str], list[str]]:
    """What the file says of itself, and what is to be said about that."""
    metadata, notes = {}, []
    logits = answer.get("logits") if isinstance(answer, Mapping) else None
    names = None if logits is None else class_names(getattr(model.config, "id2label", None), logits.shape[-1])
    if names is not None:
        metadata[LABELS_KEY] = json.dumps(names, ensure_ascii=False)
    if folder is not None and model.main_input_name == "pixel_values":
        preprocessing, why = preprocessing_of(folder)
        if preprocessing is not None:
            metadata[PREPROCESS_KEY] = json.dumps(preprocessing.to_dict())
        else:
            notes.append(f"the preparation of pictures is not in the file: {why}")
    return metadata, notes


# ----- samples ----------------------------------------------------------------------------------------


@dataclass
class DrawnSource(ModuleSource):
    """A model whose samples are drawn from its config, of another length each time."""

    seed: int = 0
    sides: tuple[int, int] | None = None
    drawn: int = 0

    def varied(self, size: int | None, batched: Sequence[bool]) -> list[torch.Tensor]:
        self.drawn += 1
        rows = self.sample[0].shape[0] if size is None else size
        arrays = draw(self.model, rows, self.seed + self.drawn, LENGTHS[1], SECONDS[1], self.sides)
        return [to_torch(array, tensor.device) for array, tensor in zip(arrays.values(), self.sample, strict=True)]


def _source(model: Any, sample: Any, request: ExportRequest, seed: int, folder: Path | None) -> ModuleSource:
    if sample is None:
        prepared = preprocessing_of(folder)[0] if folder is not None else None
        sides = prepared.size if prepared is not None else None
        arrays = draw(model, 2 if request.dynamic_batch else 1, seed, LENGTHS[0], SECONDS[0], sides)
        made = source_of(model, arrays)
        assert isinstance(made, ModuleSource)  # it is no exported program
        return DrawnSource(made.model, made.sample, made.names, seed, sides)
    if not isinstance(sample, Mapping):
        items = sample if isinstance(sample, (tuple, list)) else (sample,)
        names = input_names(model)
        if len(items) > len(names):
            raise InputError(
                f"the sample has {len(items)} arrays, the model takes {', '.join(names)}; give one for each"
            )
        sample = dict(zip(names, items, strict=False))
    made = source_of(model, sample)
    assert isinstance(made, ModuleSource)
    return made


def input_names(model: Any) -> list[str]:
    """The arguments that a model is fed with: texts with their mask, and segments where it tells them apart."""
    main = str(model.main_input_name)
    if main != "input_ids":
        return [main]
    known = inspect.signature(model.forward).parameters
    segments = int(getattr(model.config, "type_vocab_size", 0) or 0) > 1
    wanted = ["input_ids", "attention_mask"] + (["token_type_ids"] if segments else [])
    return [name for name in known if name in wanted]


def draw(
    model: Any, rows: int, seed: int, length: int, seconds: int, sides: tuple[int, int] | None = None
) -> dict[str, np.ndarray[Any, Any]]:
    """Inputs as the config describes them: tokens, of which the last row ends in padding, or normal draws.

    Args:
        model: The model.
        rows: Size of the batch.
        seed: Seed of the draws.
        length: Tokens of a text.
        seconds: Samples of a sound.
        sides: Height and width of a picture where the config does not say, as of a network for any size.

    Raises:
        InputError: The model takes something else.
    """
    rng, config = np.random.default_rng(seed), model.config
    names = input_names(model)
    if names[0] == "pixel_values":
        return {names[0]: rng.standard_normal((rows, *_picture(config, sides))).astype(np.float32)}
    if names[0] == "input_values":
        return {names[0]: rng.standard_normal((rows, seconds)).astype(np.float32)}
    if "input_ids" not in names or getattr(config, "is_encoder_decoder", False):
        kind = "an encoder and a decoder" if getattr(config, "is_encoder_decoder", False) else names[0]
        raise InputError(
            f"{type(model).__name__} takes {kind}, which cannot be drawn; give a sample, a dict from argument to array"
        )
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    padding = text.pad_token_id if isinstance(text.pad_token_id, int) and text.pad_token_id >= 0 else 0
    ids = rng.integers(0, text.vocab_size - 1, (rows, length))
    ids += ids >= padding  # every token but the padding
    mask = np.ones((rows, length), np.int64)
    if rows > 1:
        mask[-1, -_PADDED:], ids[-1, -_PADDED:] = 0, padding
    segments = np.zeros((rows, length), np.int64)
    segments[:, length // 2 :] = 1
    made = {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}
    return {name: made[name] for name in names}


def _picture(config: Any, known: tuple[int, int] | None) -> tuple[int, int, int]:
    """Channels, height and width.

    Raises:
        InputError: The config does not say.
    """
    size = getattr(config, "image_size", None)
    vision = getattr(config, "vision_config", None)
    if size is None and vision is not None:
        return _picture(vision, known)
    size = known if size is None else size
    sides = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, int) for side in sides):
        raise InputError("config.json does not say how large pictures are; give a sample, as 1x3x224x224")
    return int(getattr(config, "num_channels", 3)), sides[0], sides[1]


def _open_axes(source: ModuleSource, request: ExportRequest) -> dict[str, Any]:
    """``dynamic_shapes``: the batch where it is asked for, and the length of texts and sounds."""
    assert source.names is not None  # samples are given by name
    axes: dict[str, Any] = {}
    for name, tensor, rows in zip(source.names, source.sample, source.batched, strict=True):
        batch = {0: "batch"} if rows and request.dynamic_batch else {}
        length = {1: "sequence"} if tensor.ndim == 2 and rows else {}
        axes[name] = {**batch, **length}
    return axes


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300].rstrip(".") if lines else type(error).__name__
