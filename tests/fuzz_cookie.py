"""Coverage-guided fuzzing of the cookie reader, with atheris; not part of the test run.

    pip install atheris
    python -m tests.fuzz_cookie -max_total_time=60 -max_len=4096

A finding ends the run with a traceback and a file that holds the input. tests/README.md says more.
"""

import sys
import warnings

import atheris  # type: ignore[import-not-found]

with atheris.instrument_imports(include=["sessionware.cookie", "sessionware.keys"]), warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from sessionware.cookie import MAX_OFFERED, SessionCookie

NAME = "n"
COOKIE = SessionCookie(NAME)
KEY_CHARACTERS = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def reference(header: str) -> tuple[list[str], bool]:
    """Return the keys of the pairs that are exactly `n=key`, and whether the name was there at all."""
    values = [pair.strip(" \t")[2:] for pair in header.split(";") if pair.strip(" \t").startswith(f"{NAME}=")]
    keys = [value for value in values if len(value) == 43 and set(value) <= KEY_CHARACTERS]
    return list(dict.fromkeys(keys)), bool(values)


def check(data: bytes) -> None:
    """Read *data* as a header; a short alphabet makes headers with keys in them likely."""
    header = data.replace(b"\x01", b"n=" + b"k" * 43).replace(b"\x02", b"n=" + b"K" * 43).decode("latin-1")
    found, present = reference(header)
    offered = COOKIE.read(header)

    assert (offered is not None) == present, header
    assert list(offered or ()) == found[:MAX_OFFERED], header


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
