"""Checks of single options; each raises a ConfigurationError that names the option and its rule."""

import re
from collections.abc import Callable
from datetime import timedelta
from math import isfinite
from typing import Any

from .errors import ConfigurationError

# A hundred years: what lies beyond is a slip, and would overflow somewhere.
_LONGEST_SECONDS = 36525 * 86400

_LARGEST_FORMAT = 32_767  # of a small integer

_WSGI_OWN = re.compile(r"[A-Z][A-Z0-9_]*|wsgi\..*")


def seconds(name: str, value: timedelta | int) -> int:
    """Return a duration, given as timedelta or whole seconds, in seconds."""
    if isinstance(value, bool) or not isinstance(value, timedelta | int):
        raise ConfigurationError(f"{name} must be a timedelta or whole seconds.")
    whole = int(value.total_seconds()) if isinstance(value, timedelta) else value
    if not 1 <= whole <= _LONGEST_SECONDS:
        raise ConfigurationError(f"{name} must be between one second and a hundred years.")
    return whole


def flag(name: str, value: bool) -> bool:
    """Return a switch."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} must be True or False.")
    return value


def function(name: str, value: Callable[..., Any] | None, *, optional: bool = True) -> None:
    """Check something that will be called."""
    if not (callable(value) or (optional and value is None)):
        raise ConfigurationError(f"{name} must be callable{' or None' if optional else ''}.")


def instance(name: str, value: Any, kind: type) -> None:
    """Check an object that must be of one type, if it is given."""
    if not (value is None or isinstance(value, kind)):
        raise ConfigurationError(f"{name} must be a {kind.__name__} or None.")


def codec(name: str, value: Any) -> None:
    """Check something that turns values into text and back."""
    able = callable(getattr(value, "encode", None)) and callable(getattr(value, "decode", None))
    number = getattr(value, "format", None)
    if isinstance(value, type) or not able or type(number) is not int or not 1 <= number <= _LARGEST_FORMAT:
        raise ConfigurationError(
            f"{name} must be an object with encode, decode, and a whole number from 1 to {_LARGEST_FORMAT} as format."
        )


def clock(name: str, value: Any) -> None:
    """Check something that returns epoch seconds when it is called."""
    function(name, value, optional=False)
    try:
        now = value()
    except TypeError:
        now = None
    if isinstance(now, bool) or not isinstance(now, int | float) or not isfinite(now):
        raise ConfigurationError(f"{name} must return epoch seconds when it is called without arguments.")


def environ_key(name: str, value: str) -> str:
    """Return a name for the environ that is none of WSGI's own (PEP 3333)."""
    if not isinstance(value, str) or not value or _WSGI_OWN.fullmatch(value):
        raise ConfigurationError(f"{name} must be a text that is not empty, and no key of WSGI's or CGI's own.")
    return value


def size(name: str, value: int) -> int:
    """Return a number of bytes."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 2:
        raise ConfigurationError(f"{name} must be a whole number of bytes, at least 2.")
    return value


def count(name: str, value: int, *, most: int | None = None) -> None:
    """Check how many, at least one, and no more than *most*."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1 or (most is not None and value > most):
        raise ConfigurationError(f"{name} must be a whole number, at least 1{f' and at most {most}' if most else ''}.")
