"""Values on the command line: ``-O key=value`` and what they mean, ``--target`` and what it names."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any

from onnxplain.engine.errors import InputError, OptionError, TargetError


def value_of(text: str) -> Any:
    """A number, true or false, none, a list, or else the text itself.

    >>> value_of("50"), value_of("1e-3"), value_of("true"), value_of('["a", "b"]'), value_of("abs")
    (50, 0.001, True, ['a', 'b'], 'abs')
    """
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text.lower() in ("none", "null"):
        return None
    try:
        content = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = content.get("value")
    # Dates are TOML too, and nothing here wants one.
    return value if len(content) == 1 and isinstance(value, (int, float, str, list)) else text


def options_of(given: Sequence[str], methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Options per method; an option without a method's name goes to every method that has it.

    Raises:
        OptionError: No ``=`` in it, a method that was not asked for, or an option that none of them has.
    """
    from onnxplain.engine.method import METHODS, option_names

    known = {name: option_names(METHODS.get(name)) for name in methods}
    result: dict[str, dict[str, Any]] = {name: {} for name in methods}
    for text in given:
        key, equals, value = text.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key:
            raise OptionError(f"--option '{text}' is not of the form KEY=VALUE; write for example -O steps=100")
        owner, dot, name = key.rpartition(".")
        if dot and owner not in known:
            raise OptionError(f"--option '{text}' names the method '{owner}', which is not asked for; add -m {owner}")
        takers = [owner] if dot else [method for method in methods if name in known[method]]
        if not takers and len(methods) > 1:
            raise OptionError(f"none of {', '.join(methods)} has an option '{name}'; see 'onnxplain methods NAME'")
        for method in takers or methods:
            result[method][name] = value_of(value.strip())
    return result


def target_of(text: str | None, labels: Sequence[str] | None) -> int | list[int] | str | None:
    """What ``--target`` names: None, ``"argmax"``, an index, or one index per sample.

    A whole number is an index even where a label looks like one; a label may hold commas.

    Raises:
        TargetError: Neither an index nor a label; the message offers the nearest labels.
    """
    if text is None or text.strip().lower() == "argmax":
        return None if text is None else "argmax"
    whole = _index_of(text, labels)
    if whole is not None:
        return whole
    parts = [part.strip() for part in text.split(",")]
    if parts[-1] == "":
        parts.pop()
    found = []
    for part in parts or [text]:
        index = _index_of(part, labels)
        if index is None:
            raise TargetError(_unknown(part, labels))
        found.append(index)
    return found


def _index_of(text: str, labels: Sequence[str] | None) -> int | None:
    text = text.strip()
    try:
        return int(text)
    except ValueError:
        pass
    names = [label.casefold() for label in labels or ()]
    places = [k for k, name in enumerate(names) if name == text.casefold()]
    if not places:  # files such as ImageNet's give several names to a class, with commas between
        places = [k for k, name in enumerate(names) if text.casefold() in [n.strip() for n in name.split(",")]]
    if len(places) > 1:
        raise TargetError(f"the label '{text}' stands for several classes ({places}); give the index")
    return places[0] if places else None


def _unknown(text: str, labels: Sequence[str] | None) -> str:
    if not labels:
        return f"target '{text}' is no index, and the model has no labels; give an index, or names with --labels FILE"
    import difflib

    near = difflib.get_close_matches(text, labels, n=3, cutoff=0.4) or list(labels[:3])
    return f"target '{text}' is neither an index nor a label; did you mean {', '.join(repr(n) for n in near)}?"


def rows_of(text: str, count: int) -> list[int]:
    """Which of ``count`` rows ``--rows`` names: ``3``, ``0:8`` or ``0,5,7``; negative ones count from the end.

    Raises:
        InputError: Not of that form, or a row that is not there.
    """
    found: list[int] = []
    try:
        for part in text.split(","):
            first, colon, last = part.partition(":")
            if colon:
                found += range(count)[slice(int(first) if first.strip() else None, int(last) if last.strip() else None)]
            else:
                found.append(range(count)[int(first)])
    except (ValueError, IndexError):
        raise InputError(f"--rows '{text}' does not name rows of {count}; write 3, 0:8 or 0,5,7") from None
    if not found:
        raise InputError(f"--rows '{text}' names none of {count} rows; write 3, 0:8 or 0,5,7")
    return found
