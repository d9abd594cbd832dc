"""Which layers become adder layers, and what has to stand behind them."""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras

from keras_adder._calls import Call
from keras_adder.layers import AdderConv1D
from keras_adder.layers import AdderConv2D
from keras_adder.layers import AdderDense
from keras_adder.layers import AdderDepthwiseConv2D
from keras_adder.layers import AdderSeparableConv2D

_BY_DEFAULT: dict[type, Any] = {
    keras.layers.Conv2D: AdderConv2D,
    keras.layers.Dense: AdderDense,
}
_ON_REQUEST: dict[type, Any] = {
    keras.layers.Conv1D: AdderConv1D,
    keras.layers.DepthwiseConv2D: AdderDepthwiseConv2D,
    keras.layers.SeparableConv2D: AdderSeparableConv2D,
}
ADDER_LAYERS = _BY_DEFAULT | _ON_REQUEST

# By these the first and the last layer of a network are known; their
# subclasses, such as the adder layers, count.
_WEIGHTED_LAYERS = (
    keras.layers.Conv1D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2D,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3D,
    keras.layers.Conv3DTranspose,
    keras.layers.Dense,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.EinsumDense,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)

# They subtract a mean. Those that only scale leave values that are never
# positive as they are.
_NORMALIZATIONS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
)

# They hand on values, or means of them, and may stand before the normalization.
_TRANSPARENT_LAYERS = (
    keras.layers.AveragePooling1D,
    keras.layers.AveragePooling2D,
    keras.layers.Concatenate,
    keras.layers.Cropping1D,
    keras.layers.Cropping2D,
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling1D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.Identity,
    keras.layers.MaxPooling1D,
    keras.layers.MaxPooling2D,
    keras.layers.Permute,
    keras.layers.Reshape,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.UpSampling1D,
    keras.layers.UpSampling2D,
    keras.layers.ZeroPadding1D,
    keras.layers.ZeroPadding2D,
)

_SIGMOIDS = (keras.activations.sigmoid, keras.activations.hard_sigmoid)


@dataclasses.dataclass(frozen=True)
class Decision:
    """What becomes of a layer with weights that multiply.

    Attributes:
        name: string, as in `Call.name`.
        layer: `keras.layers.Layer`.
        converts: bool.
        reason: string, why it is kept, or what goes behind it.
        needs_normalization: bool, whether what it hands on is not normalized.
    """

    name: str
    layer: keras.layers.Layer
    converts: bool
    reason: str
    needs_normalization: bool = False


def decide(
    calls: list[Call],
    predicate: Callable[[keras.layers.Layer], bool] | None,
    also: Sequence[type],
) -> list[Decision]:
    """Returns a `Decision` for each layer with weights that multiply.

    Args:
        calls: What `trace` returns.
        predicate: As in `to_adder`.
        also: As in `to_adder`.

    Raises:
        ValueError: If `also` is another, or if no layer is chosen.
    """
    _check_also(also)
    kept = _reasons_to_keep(calls, predicate, {*_BY_DEFAULT, *also})
    normalized = _is_normalized(calls)
    decisions: dict[int, Decision] = {}
    for index, call in enumerate(calls):
        layer = call.layer
        if id(layer) in decisions and not decisions[id(layer)].converts:
            continue
        if not isinstance(layer, _WEIGHTED_LAYERS):
            continue
        if id(layer) in kept:
            reason = kept[id(layer)]
            decisions[id(layer)] = Decision(call.name, layer, False, reason)
            continue
        bare = not normalized[index] or _has_activation(layer)
        if id(layer) in decisions:  # It is called more than once.
            bare |= decisions[id(layer)].needs_normalization
        decisions[id(layer)] = Decision(call.name, layer, True, "", bare)
    if not any(decision.converts for decision in decisions.values()):
        raise ValueError(
            "`model` must have a `keras.layers.Conv2D`, a `keras.layers.Dense` "
            "or a layer that `also` names that becomes an adder layer, which "
            "without a `predicate` is one between the first and the last. "
            "Received: model with "
            f"{[decision.name for decision in decisions.values()]}, "
            f"predicate={predicate}, also={also}"
        )
    return list(decisions.values())


def _check_also(also):
    if not isinstance(also, (tuple, list)) or any(
        kind not in tuple(ADDER_LAYERS) for kind in also
    ):
        expected = [kind.__name__ for kind in _ON_REQUEST]
        raise ValueError(
            f"`also` must be a tuple of {expected}, classes of `keras.layers`. "
            f"Received: also={also}"
        )


def normalizations_of_distances(
    calls: list[Call], decisions: list[Decision]
) -> set[int]:
    """Ids of the layers that normalize what converted layers hand on."""
    converted = {id(d.layer) for d in decisions if d.converts}
    # Of each call: whether it hands on distances that nothing has normalized.
    raw: list[bool] = []
    found = set()
    for call in calls:
        before = any(raw[source] for source in call.sources)
        if before and isinstance(call.layer, _NORMALIZATIONS):
            found.add(id(call.layer))
        raw.append(
            id(call.layer) in converted
            or (before and isinstance(call.layer, _TRANSPARENT_LAYERS))
        )
    return found


def _reasons_to_keep(calls, predicate, kinds):
    """Why layers stay, by their ids. A layer that is called twice is one."""
    weighted = {
        id(call.layer): call.layer
        for call in calls
        if isinstance(call.layer, _WEIGHTED_LAYERS)
    }
    reasons: dict[int, str] = {}
    if predicate is None:
        gates = _feeds_gates(calls)
        reasons |= {
            id(call.layer): "part of a gate: it feeds a sigmoid that multiplies"
            for call, gate in zip(calls, gates)
            if gate
        }
        first, last = _first_and_last(calls)
        reasons |= dict.fromkeys(last, "the last layer")
        reasons |= dict.fromkeys(first, "the first layer")
    else:
        reasons |= {
            key: "`predicate` is false"
            for key, layer in weighted.items()
            if type(layer) in kinds and not predicate(layer)
        }
    for key, layer in weighted.items():
        kind = type(layer)
        if kind in ADDER_LAYERS.values():
            reasons[key] = "an adder layer already"
        elif kind not in ADDER_LAYERS:
            reasons[key] = f"there is no adder form of {kind.__name__}"
        elif kind not in kinds:
            reasons[key] = f"`also` does not name {kind.__name__}"
    return {key: reasons[key] for key in weighted.keys() & reasons.keys()}


def _first_and_last(calls):
    """Ids of layers with nothing weighted before, and of those after, them."""
    weighted = [isinstance(call.layer, _WEIGHTED_LAYERS) for call in calls]
    # Of each call: whether a weighted one is among those that lead to it.
    has_before: list[bool] = []
    for call in calls:
        before = any(weighted[i] or has_before[i] for i in call.sources)
        has_before.append(before)
    has_after = [False] * len(calls)
    for index in reversed(range(len(calls))):
        for source in calls[index].sources:
            has_after[source] |= weighted[index] or has_after[index]
    layers = [id(call.layer) for call in calls]
    return (
        {key for key, before in zip(layers, has_before) if not before},
        {key for key, after in zip(layers, has_after) if not after},
    )


def _takers(calls):
    """Of each call, the indices of those that take what it hands on."""
    takers: list[list[int]] = [[] for _ in calls]
    for index, call in enumerate(calls):
        for source in call.sources:
            takers[source].append(index)
    return takers


def _feeds_gates(calls):
    """Of each call: whether all that it leads to is a sigmoid that multiplies.

    Such is the branch of a squeeze-and-excite block, or of an attention.
    """
    takers = _takers(calls)
    bounded = _is_bounded(calls)
    gates = [False] * len(calls)
    for index in reversed(range(len(calls))):
        gates[index] = bool(takers[index]) and all(
            gates[taker] or (bounded[index] and _multiplies(calls[taker]))
            for taker in takers[index]
        )
    return gates


def _multiplies(call):
    """Whether it is a product of tensors: a layer, or `keras.ops.multiply`."""
    return type(call.layer).__name__ == "Multiply" and len(call.inputs) > 1


def _is_bounded(calls):
    """Of each call: whether it hands on what a sigmoid gives.

    Or a ReLU with a maximum, of which MobileNetV3 makes its own.
    """
    bounded: list[bool] = []
    for call in calls:
        layer = call.layer
        sigmoid = getattr(layer, "activation", None) in _SIGMOIDS
        clipped = (
            isinstance(layer, keras.layers.ReLU) and layer.max_value is not None
        )
        # By a number, which is no other tensor.
        scaled = len(call.inputs) == 1 and (
            isinstance(layer, (*_TRANSPARENT_LAYERS, keras.layers.Rescaling))
            or type(layer).__name__ == "Multiply"
        )
        handed_on = scaled and any(bounded[source] for source in call.sources)
        bounded.append(sigmoid or clipped or handed_on)
    return bounded


def _is_normalized(calls):
    """Of each call: whether all that takes its output normalizes it."""
    takers = _takers(calls)
    is_normalized = [False] * len(calls)
    for index in reversed(range(len(calls))):
        is_normalized[index] = bool(takers[index]) and all(
            isinstance(calls[taker].layer, _NORMALIZATIONS)
            or isinstance(calls[taker].layer, _TRANSPARENT_LAYERS)
            and is_normalized[taker]
            for taker in takers[index]
        )
    return is_normalized


def _has_activation(layer):
    activation = getattr(layer, "activation", None)
    return activation not in (None, keras.activations.linear)
