"""Texts into the arrays that a network of tokens takes, by the tokeniser that lies beside the trained model.

Guarantees: a text is cut into tokens by the model's own ``tokenizer.json`` or refused, never by a guess; nothing is cut off,
and a text shorter than a fixed length is followed by the tokeniser's padding, masked where the model takes a mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxplain.engine.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

TOKENISER_FILE = "tokenizer.json"
#: Where a folder keeps its vocabulary, the first that is there.
VOCABULARIES = (TOKENISER_FILE, "vocab.json", "vocab.txt")
_PADDING = ("[PAD]", "<pad>", "<|pad|>")
#: What a tokeniser knows of each token, by the model's name for it.
_KNOWN = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


class Tokeniser:
    """The tokeniser of one model.

    Args:
        path: ``tokenizer.json``, or the folder that it lies in; None where none was named.
        declared: The model's inputs: name -> (dtype, shape).

    Raises:
        InputError: No tokeniser, or the model takes more than a tokeniser gives.
    """

    def __init__(self, path: Path | None, declared: Mapping[str, tuple[Any, Any]]) -> None:
        self.declared = declared
        file = path / TOKENISER_FILE if path is not None and path.is_dir() else path
        if file is None or file.name != TOKENISER_FILE or not file.is_file():
            raise InputError(
                f"--text is cut into tokens by the model's own {TOKENISER_FILE}; name it, or its folder, with --tokens"
            )
        other = [name for name in declared if name not in _KNOWN]
        single = len(declared) == 1 and all(dtype.kind in "iu" for dtype, _ in declared.values())
        if other and not single:
            raise InputError(f"the model's input {other[0]} is nothing that a tokeniser gives; give an .npz by name")
        self._names = {name: _KNOWN.get(name, "ids") for name in declared}
        self._tokeniser = _read(file)

    def feeds(self, text: str) -> dict[str, Array]:
        """The model's inputs for one text, with a batch axis of one.

        Raises:
            InputError: The text gives no token, or more than the model takes.
        """
        import numpy as np

        encoding = self._tokeniser.encode(text)
        count = len(encoding.ids)
        if not count:
            raise InputError(f"the text '{text}' gives no token; give a longer one")
        feeds = {}
        for name, key in self._names.items():
            row = np.asarray(getattr(encoding, key), np.int64)
            shape = self.declared[name][1]
            length = shape[1] if shape is not None and len(shape) == 2 else None
            if isinstance(length, int) and length != count:
                row = self._filled(row, length, key)
            feeds[name] = row[None]
        return feeds

    def _filled(self, row: Array, length: int, key: str) -> Array:
        import numpy as np

        if len(row) > length:
            raise InputError(f"the text has {len(row)} tokens, the model takes {length}; give a shorter one")
        padding = next((i for i in map(self._tokeniser.token_to_id, _PADDING) if i is not None), None)
        if padding is None:
            raise InputError(
                f"the text has {len(row)} tokens, the model takes {length}, and the tokeniser has no token for "
                "padding; export the model with an open length"
            )
        return np.pad(row, (0, length - len(row)), constant_values=padding if key == "ids" else 0)


def _read(file: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise InputError("--text needs tokenizers, which is not installed: pip install 'onnxplain[text]'") from None
    try:
        tokeniser = Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises Exception itself
        reason = (str(error).splitlines() or ["damaged"])[0]
        raise InputError(f"'{file}' is no tokeniser: {reason}; download it again") from None
    tokeniser.no_padding()
    tokeniser.no_truncation()
    return tokeniser


def read_vocabulary(path: Path) -> dict[int, str]:
    """Token by id: a ``tokenizer.json``, JSON (token -> id, or a list), or a text file with one token a line.

    Args:
        path: The file, or a folder with one.

    Raises:
        InputError: The file cannot be read, or is none of these.
    """
    import json

    if path.is_dir():
        path = next((path / name for name in VOCABULARIES if (path / name).is_file()), path / TOKENISER_FILE)
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix.lower() == ".json" else text.splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"vocabulary '{path}' cannot be read: {reason}; give JSON (token -> id) or lines") from None
    added: dict[int, str] = {}
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        listed = content.get("added_tokens") or ()
        added = {entry["id"]: str(entry["content"]) for entry in listed if isinstance(entry, dict) and "id" in entry}
        content = content["model"].get("vocab")
        if isinstance(content, list):  # with each token's weight
            content = [token[0] if isinstance(token, list) and token else token for token in content]
    if isinstance(content, dict) and all(isinstance(i, int) for i in content.values()):
        return {int(i): str(token) for token, i in content.items()} | added
    if isinstance(content, list):
        return {i: str(token) for i, token in enumerate(content)} | added
    raise InputError(f"vocabulary '{path}' is neither a list of tokens nor an object token -> id; write one of the two")
