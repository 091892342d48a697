"""Settings as frozen dataclasses, read from TOML or JSON; unknown names are refused."""

import dataclasses
import difflib
import functools
import sys
import typing
from pathlib import Path
from typing import Any, TypeVar

from zhiyin.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Settings = TypeVar("Settings")


def read_toml(path: Path, kind: type[Settings]) -> Settings:
    """Settings of a TOML file.

    Raises:
        UserError: the file is missing or not TOML, or a name or value in it does not fit.
    """
    try:
        record = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"config {path}: cannot be read ({error.strerror})") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"config {path}: not TOML ({error})") from error
    return build(kind, record, f"config {path}")


def build(kind: type[Settings], record: Any, where: str) -> Settings:
    """A settings dataclass from a nested dictionary.

    Raises:
        UserError: a name is unknown (the closest is named), missing, or has a value of another type.
    """
    if not isinstance(record, dict):
        raise UserError(f"{where}: a table of settings was expected, got {record!r}")
    hints = _hints(typing.cast(Any, kind))
    for name in record:
        if name not in hints:
            near = difflib.get_close_matches(name, hints, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(hints)}"
            raise UserError(f"{where}: no setting '{name}'{hint}")
    values = {name: _value(hints[name], value, f"{where}: {name}") for name, value in record.items()}
    try:
        return kind(**values)
    except TypeError as error:
        needed = [f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING]  # type: ignore[arg-type]
        raise UserError(f"{where}: needs {', '.join(n for n in needed if n not in values)}") from error


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _value(kind: Any, value: Any, where: str) -> Any:
    if kind is Any:
        return value
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if type(None) in args:  # settings that may be absent
        return None if value is None else _value(args[0], value, where)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return build(kind, value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{where}: a list was expected, got {value!r}")
        kinds = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else list(args)
        if len(kinds) != len(value):
            raise UserError(f"{where}: {len(kinds)} values were expected, got {value!r}")
        return tuple(_value(k, v, where) for k, v in zip(kinds, value, strict=True))
    if origin is dict:
        if not isinstance(value, dict):
            raise UserError(f"{where}: a table was expected, got {value!r}")
        return {name: _value(args[1], item, f"{where}.{name}") for name, item in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise UserError(f"{where}: {kind.__name__} was expected, got {value!r}")
    return value
