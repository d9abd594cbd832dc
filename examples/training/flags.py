"""Types of command-line flags: what a run cannot start with is refused."""

import argparse
import math


def whole(least, most=2**31 - 1):
    """Type of a flag that is an integer in [`least`, `most`]."""

    def parse(text):
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"must be an integer, got {text}"
            ) from None
        if value < least:
            raise argparse.ArgumentTypeError(
                f"must be at least {least}, got {text}"
            )
        if value > most:
            raise argparse.ArgumentTypeError(
                f"must be at most {most}, got {text}"
            )
        return value

    return parse


def finite(zero):
    """Type of a flag that is a finite number > 0, or >= 0 if `zero`."""

    def parse(text):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
            raise argparse.ArgumentTypeError(
                f"must be a finite number {'>=' if zero else '>'} 0, got {text}"
            )
        return value

    return parse


def between(low, high):
    """Type of a flag that is a number in the open interval (`low`, `high`)."""

    def parse(text):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low < value < high:
            raise argparse.ArgumentTypeError(
                f"must be a number between {low} and {high}, got {text}"
            )
        return value

    return parse


positive = whole(1)
# What NumPy's generator, one of those that are seeded, takes.
seed = whole(0, 2**32 - 1)
