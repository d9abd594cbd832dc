"""Which layers sum integers, which tensors are bytes, and by which steps."""

import dataclasses
import math
from collections.abc import Callable

from keras_adder._arguments import most_differences
from keras_adder.inference.calibration import Range
from keras_adder.inference.folding import Folding
from keras_adder.inference.folding import Fused
from keras_adder.inference.graph import Value
from keras_adder.inference.quantization import Quantization

INTEGERS = {"int8": "uint8", "int16": "int16"}


@dataclasses.dataclass
class Plan:
    """How the layers of a folded graph compute.

    Attributes:
        dtype: string, that of the integers, or `None` if there are none.
        integer: set of `Fused`, those that sum integers.
        stored: set of `Value`, those that are handed on as integers.
        sources: dict of `Quantization` by `Value`, of inputs of adder layers.
        stores: dict of `Quantization` by `Value`, of what is handed on. With 8
            bits and more, those of a tensor are the same.
    """

    dtype: str | None
    integer: set[Fused] = dataclasses.field(default_factory=set)
    stored: set[Value] = dataclasses.field(default_factory=set)
    sources: dict[Value, Quantization] = dataclasses.field(default_factory=dict)
    stores: dict[Value, Quantization] = dataclasses.field(default_factory=dict)


def plan(
    folding: Folding,
    precision: str,
    bits: int,
    measure: Callable[[dict[Value, str]], dict[Value, Range]],
) -> Plan:
    """Decides, once the graph is folded.

    A tensor is handed on as integers where all that takes it is a fused layer,
    as its input or as its residual. With less than 8 bits the inputs of adder
    layers have fewer levels; residuals have 8 bits, and then the whole range.

    Args:
        folding: `Folding`.
        precision: string, `"float32"`, `"int8"` or `"int16"`.
        bits: int, of inputs of adder layers if the precision is `"int8"`.
        measure: function of the tensors whose ranges are needed.
    """
    dtype = INTEGERS.get(precision)
    if dtype is None:
        return Plan(None)
    decided = Plan(dtype)
    decided.integer = {
        fused
        for fused in folding.fused
        if taps(fused) <= most_differences(dtype)
    }
    decided.stored = {
        fused.output
        for fused in folding.fused
        if fused.activation is None
        and _takes_integers(folding.users[fused.output], fused.output, decided)
    }
    ranges = measure(_descriptions(folding, decided))
    levels = 2**bits - 1 if precision == "int8" else None
    for value in _inputs(decided):
        found = ranges[value]
        low, high = found.low_percentile, found.high_percentile
        decided.sources[value] = _quantization(low, high, dtype, levels)
    for value in decided.stored:
        skips = any(user.residual is value for user in folding.users[value])
        if value in decided.sources and not (skips and bits < 8):
            decided.stores[value] = decided.sources[value]
            continue
        found = ranges[value]
        low, high = found.low_percentile, found.high_percentile
        if bits < 8:
            low, high = found.low, found.high
        decided.stores[value] = _quantization(low, high, dtype)
    return decided


def _quantization(low, high, dtype, levels=None):
    # Steps of 16 bits are so fine that there is room for larger values than
    # those of the calibration.
    room = 1.25 if dtype == "int16" else 1.0
    return Quantization.of_range(room * low, room * high, dtype, levels)


def taps(fused: Fused) -> int:
    """The number of differences that are summed."""
    return math.prod(fused.kernel.shape[:-1])


def _takes_integers(users, value, decided):
    return all(
        isinstance(user, Fused)
        and (user.source is not value or user in decided.integer)
        for user in users
    )


def _inputs(decided):
    return {fused.source for fused in decided.integer}


def _descriptions(folding, decided):
    descriptions = {}
    for fused in folding.fused:
        if fused.output in decided.stored:
            descriptions[fused.output] = f"the output of '{fused.name}'"
    # In the order of the layers, so that errors name the first.
    for fused in reversed(folding.fused):
        if fused in decided.integer:
            descriptions[fused.source] = f"the input of '{fused.name}'"
    return descriptions
