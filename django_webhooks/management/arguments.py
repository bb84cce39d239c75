"""What commands take, beyond what `argparse` knows."""

from argparse import ArgumentTypeError

MOST = 365 * 24 * 60 * 60.0


def seconds(text: str) -> float:
    """A number of seconds from 0 to a year; `ArgumentTypeError` for all else, such as `nan`."""
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= MOST:
        raise ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to {MOST:.0f}")
    return value
