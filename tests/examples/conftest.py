"""Lets tests import what the examples share, as the examples do."""

import pathlib
import sys

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))
