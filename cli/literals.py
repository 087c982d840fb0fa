"""Values on the command line: ``-O key=value`` and what they mean, ``--target`` and what it names."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any

from onnxplain.engine.errors import InputError, OptionError, TargetError


def value_of(text: str) -> Any:
    """A number, true or false, none, a list, a table, or else the text itself.

    >>> value_of("50"), value_of("1e-3"), value_of("true"), value_of('["a", "b"]'), value_of("abs")
    (50, 0.001, True, ['a', 'b'], 'abs')
    >>> value_of("{steps = 20}")
    {'steps': 20}
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
    return value if len(content) == 1 and isinstance(value, (int, float, str, list, dict)) else text


def options_of(given: Sequence[str], methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Options per method; an option without a method's name goes to every method that has it.

    What follows an option's own name is a key of the table that it holds: ``inner.steps=20`` is ``inner={steps = 20}``.

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
        owner, dot, rest = key.partition(".")
        name, *keys = (rest if owner in known else key).split(".")
        if dot and owner not in known and not any(owner in options for options in known.values()):
            raise OptionError(f"--option '{text}' names the method '{owner}', which is not asked for; add -m {owner}")
        takers = [owner] if dot and owner in known else [method for method in methods if name in known[method]]
        if not takers and len(methods) > 1:
            raise OptionError(f"none of {', '.join(methods)} has an option '{name}'; see 'onnxplain methods NAME'")
        for method in takers or methods:
            _put(result[method], [name, *keys], value_of(value.strip()), text)
    return result


def _put(options: dict[str, Any], keys: list[str], value: Any, text: str) -> None:
    """Set a value, through the tables that its dotted name leads through."""
    for key in keys[:-1]:
        options = options.setdefault(key, {})
        if not isinstance(options, dict):
            raise OptionError(
                f"--option '{text}' sets a part of '{key}', which was given as a whole before; give one of them"
            )
    options[keys[-1]] = value


def target_of(text: str | None, labels: Sequence[str] | None) -> Any:
    """What ``--target`` names: None, ``"argmax"``, an index, one index per sample, or a target of another kind.

    A whole number is an index even where a label looks like one; a label may hold commas. ``top:3`` stands for
    the three largest scores, each explained by itself, ``rank:1`` for the second largest alone, and
    ``margin:cat,dog`` for the difference of two scores.

    Raises:
        TargetError: Neither an index nor a label; the message offers the nearest labels.
    """
    if text is None or text.strip().lower() == "argmax":
        return None if text is None else "argmax"
    whole = _index_of(text, labels)
    if whole is not None:
        return whole
    kind, colon, rest = text.partition(":")
    if colon and kind.strip().lower() in ("top", "rank", "margin"):
        return _other_target(kind.strip().lower(), rest.strip(), labels)
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


def _other_target(kind: str, text: str, labels: Sequence[str] | None) -> Any:
    from onnxplain.engine.targets import Target

    if kind == "margin":
        pair = [_index_of(part, labels) for part in text.split(",")]
        if len(pair) != 2 or pair[0] is None or pair[1] is None:
            raise TargetError(f"target 'margin:{text}' is not understood; write two classes, as margin:281,285")
        return Target.margin(pair[0], pair[1])
    if not text.isdecimal():
        raise TargetError(f"target '{kind}:{text}' is not understood; write a whole number, as {kind}:3")
    return Target.top_k(int(text)) if kind == "top" else Target.rank(int(text))


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
