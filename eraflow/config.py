"""From TOML and `--set key=value` to frozen dataclasses, and back.

Configuration stands beside its owner: `ModelConfig` in `models`, `TrainingConfig` in `training`, and so on.
Here is only what turns text into such a value. A wrong key or value is refused by its dotted path.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from eraflow.errors import InputError

T = TypeVar("T")


def read_toml(path: Path) -> dict[str, Any]:
    """The table in the file at `path`. Raises `InputError` if it is missing, cannot be read or is not TOML."""
    try:
        return _loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"configuration file {path} does not exist; name one that does") from error
    except OSError as error:
        why = error.strerror or str(error)
        raise InputError(f"configuration file {path} cannot be read: {why}; name one that can") from error
    except (ValueError, RecursionError) as error:  # tomllib lets more through than its own error
        raise InputError(f"configuration file {path} cannot be read as TOML: {error}") from error


def build(kind: type[T], table: Mapping[str, Any], path: str = "") -> T:
    """A value of the dataclass `kind` from a nested table.

    Raises `InputError` naming the dotted path of an unknown key or a value of the wrong type; what the
    dataclass itself refuses (`ValueError`) is reported with the path of its table.
    """
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(typing.cast(Any, kind))]
    values: dict[str, Any] = {}
    for key, value in table.items():
        here = f"{path}.{key}" if path else key
        if key not in names:
            raise InputError(f"unknown key {here}{suggestion(key, names)}")
        values[key] = _convert(hints[key], value, here)
    try:
        return kind(**values)
    except TypeError as error:
        raise InputError(f"{path or 'the configuration'} is incomplete: {error}") from error
    except ValueError as error:
        # A text that begins with the name of a field continues the path.
        joint = "." if str(error).split(" ")[0] in names else ": "
        raise InputError(f"{path + joint if path else ''}{error}") from error


def override(value: T, assignments: Mapping[str, str]) -> T:
    """`value` with parts replaced: dotted path -> text, as in `--set training.epochs=6`.

    The text is read as a TOML value, and as a plain string where that fails.
    """
    table = to_table(value)
    for path, text in assignments.items():
        _assign(table, path, _literal(text))
    return build(type(value), table)


def parse_assignments(texts: typing.Iterable[str]) -> dict[str, str]:
    """`["training.epochs=6"]` -> `{"training.epochs": "6"}`. Raises `InputError` where there is no `=`."""
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise InputError(
                f"--set must be key=value, however {text!r} was given; for example --set training.epochs=6"
            )
        found[key.strip()] = value.strip()
    return found


def suggestion(key: str, names: Sequence[str]) -> str:
    """What to say after an unknown key: the nearest of `names`, or all of them."""
    return nearest(key, names) or f"; known are {', '.join(names)}"


def nearest(key: str, names: Iterable[str]) -> str:
    """What to say after a wrong name where the right ones were told: which of them is nearly the same, if any."""
    close = difflib.get_close_matches(key, list(names), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def to_table(value: Any) -> dict[str, Any]:
    """The nested table of a dataclass value, as `build` reads it."""
    return {
        field.name: _part(part)
        for field in dataclasses.fields(value)
        if (part := getattr(value, field.name)) is not None
    }


def to_toml(table: Mapping[str, Any], path: str = "") -> str:
    """TOML text of a nested table: plain values first, then the inner tables.

    >>> print(to_toml({"a": 1, "b": {"c": [1, 2], "d": True}}), end="")
    a = 1
    <BLANKLINE>
    [b]
    c = [1, 2]
    d = true
    """
    plain = [f"{_key(key)} = {_toml_value(value)}\n" for key, value in table.items() if not isinstance(value, Mapping)]
    head = f"\n[{path}]\n" if path and (plain or not table) else ""
    inner = [
        to_toml(value, f"{path}.{_key(key)}" if path else _key(key))
        for key, value in table.items()
        if isinstance(value, Mapping)
    ]
    return head + "".join(plain) + "".join(inner)


def _part(part: Any) -> Any:
    # A mapping is copied, so that `override` never reaches into the value it was given.
    return to_table(part) if dataclasses.is_dataclass(part) else dict(part) if isinstance(part, Mapping) else part


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return value if value is None else _convert(next(a for a in arguments if a is not type(None)), value, path)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise InputError(f"{path} must be a table, however {value!r} was given")
        return build(typing.cast(type[Any], hint), value, path)
    if origin is Literal:
        if value not in arguments:
            raise InputError(f"{path} must be one of {', '.join(map(str, arguments))}, however {value!r} was given")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{path} must be a list, however {value!r} was given")
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) != len(value):
            raise InputError(f"{path} must be a list of {len(kinds)} values, however {value!r} was given")
        return tuple(_convert(kinds[i], item, f"{path}[{i}]") for i, item in enumerate(value))
    if origin in (dict, Mapping) or origin is typing.get_origin(Mapping[str, str]):
        if not isinstance(value, Mapping):
            raise InputError(f"{path} must be a table, however {value!r} was given")
        return {key: _convert(arguments[1], item, f"{path}.{key}") for key, item in value.items()}
    return _plain(hint, value, path)


def _plain(hint: Any, value: Any, path: str) -> Any:
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1023:
        return float(value)
    if isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool):
        return value
    kind = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}.get(hint.__name__)
    raise InputError(f"{path} must be {kind or hint.__name__}, however {value!r} was given")


def _assign(table: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        inner = table.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise InputError(f"unknown key {path}: {parent} is a value, not a table")
        table = inner
    table[last] = value


def _loads(text: str) -> dict[str, Any]:
    table = tomllib.loads(text)
    repr(table)  # raises ValueError: Python shows no whole number of more than 4300 digits, and 0x... may have as many
    return table


def _literal(text: str) -> Any:
    try:
        return _loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else _toml_value(key)


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped) + '"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    return repr(value)
