"""What goes into a fused layer with an adder layer, and what does not.

Between an adder layer's distance and what it hands on there are, in this order,

    y = distance * multiplier + offset      biases and batch normalizations
    y = y + residual                        the sum at the end of a block
    y = min(max(y, lower), upper)           ReLU, ReLU6

each at most once, but for the first, which are one when there are several.
Folding follows an adder layer's output as long as one layer alone takes it, and
ends at what has no place left.
"""

import dataclasses
import math
from typing import Any

import keras
import numpy as np

from keras_adder.inference.convolutions import factor_and_offset
from keras_adder.inference.graph import Graph
from keras_adder.inference.graph import Node
from keras_adder.inference.graph import Value
from keras_adder.inference.graph import values_in
from keras_adder.layers import AdderConv1D
from keras_adder.layers import AdderConv2D
from keras_adder.layers import AdderDense
from keras_adder.layers import AdderDepthwiseConv2D
from keras_adder.layers import AdderSeparableConv2D
from keras_adder.layers.adder_layer import AdderLayer

# Those that have a fused form, and the padding layers that go with it.
_PADDINGS = {
    AdderConv1D: keras.layers.ZeroPadding1D,
    AdderConv2D: keras.layers.ZeroPadding2D,
    AdderDense: None,
    AdderDepthwiseConv2D: keras.layers.ZeroPadding2D,
}

_SHARED = "what it takes goes elsewhere, too"
_TOO_LATE = "what it takes has passed a residual sum or a ReLU already"


@dataclasses.dataclass(eq=False)
class Fused:
    """An adder layer and what is folded into it.

    Attributes:
        node: `Node` of the adder layer.
        kernel: float64 array, its filters as those of a convolution of images.
        geometry: dict, the arguments of `adder_conv2d` that say where they go,
            padding layers that are folded included.
        folded: list of `Node`, it and those behind it that are folded.
        source: `Value`, what it takes; before a padding layer that is folded.
        multiplier, offset: float64 arrays, a number for each filter.
        residual: `Value` or `None`.
        lower, upper: float.
        activation: function that is left for a layer of its own, or `None`.
        output: `Value`, what it hands on.
    """

    node: Node
    kernel: np.ndarray
    geometry: dict[str, Any]
    folded: list[Node]
    source: Value
    multiplier: np.ndarray
    offset: np.ndarray
    residual: Value | None = None
    lower: float = -math.inf
    upper: float = math.inf
    activation: Any = None
    output: Any = None

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def layer(self) -> Any:
        return self.node.layer

    @property
    def channel_axis(self) -> int:
        if self.geometry["data_format"] == "channels_first":
            return 1
        return len(self.output.shape) - 1

    @property
    def is_bounded(self) -> bool:
        return self.lower != -math.inf or self.upper != math.inf


@dataclasses.dataclass
class Folding:
    """How a graph is folded.

    Attributes:
        fused: list of `Fused`, in the order in which they can be computed.
        kept: list of `Node`, those that stay.
        reasons: dict of strings by `Node`, why those stay.
        users: as of `Graph.users`, of the folded graph: lists of `Fused`,
            `Node` and `None`.
    """

    fused: list[Fused]
    kept: list[Node]
    reasons: dict[Node, str]
    users: dict[Value, list]


def adder_nodes(graph: Graph) -> list[Node]:
    """The adder layers that can become fused ones, maybe after a split."""
    kinds = (*_PADDINGS, AdderSeparableConv2D)
    return [node for node in graph.nodes if type(node.layer) in kinds]


def fold(graph: Graph, kept: dict[Node, str]) -> Folding:
    """Folds what belongs to adder layers into them.

    Args:
        graph: `Graph`, in which separable layers are split.
        kept: dict of strings by `Node`, the adder layers that stay as they are,
            and why.
    """
    folder = _Folder(graph, kept)
    adders = [node for node in adder_nodes(graph) if node not in kept]
    # The deepest first: of two adder layers whose sum is taken, the one at the
    # end of the longer branch computes it, and the shortcut is its residual.
    depths = folder.depths()
    for node in sorted(adders, key=depths.__getitem__, reverse=True):
        folder.fold(node)
    return folder.result()


class _Folder:
    def __init__(self, graph, kept):
        self._graph = graph
        self._users = graph.users()
        self._producers = {
            value: node
            for node in graph.nodes
            for value in values_in(node.outputs)
        }
        self._fused = []
        self._taken = {}
        self._reasons = dict(kept)

    def depths(self):
        """Of each node, how many nodes the longest way to it has."""
        depths: dict[Node, int] = {}
        for node in self._graph.nodes:
            before = {self._producers.get(value) for value in node.inputs}
            depths[node] = 1 + max(
                (depths[other] for other in before if other), default=0
            )
        return depths

    def fold(self, node):
        layer = node.layer
        kernel = _kernel(layer)
        (source,) = node.inputs
        bias = np.zeros(kernel.shape[-1])
        if layer.use_bias:
            bias = _numbers(layer.bias)
        fused = Fused(
            node,
            kernel,
            _geometry(layer),
            [node],
            source,
            multiplier=np.ones(kernel.shape[-1]),
            offset=bias,
            output=_only_output(node),
        )
        self._fold_paddings(fused)
        bounds = _bounds_of_function(layer.activation)
        if bounds is None:
            fused.activation = layer.activation
        else:
            fused.lower, fused.upper = bounds
            while self._fold_next(fused):
                pass
        self._fused.append(fused)
        self._taken |= dict.fromkeys(fused.folded, fused)

    def result(self):
        position = {node: i for i, node in enumerate(self._graph.nodes)}
        self._fused.sort(key=lambda fused: position[fused.folded[-1]])
        users = self._users_after_folding()
        # A padding layer may be left without anyone who takes what it gives.
        kept = [
            node
            for node in self._graph.nodes
            if node not in self._taken
            and any(users[value] for value in values_in(node.outputs))
        ]
        for node in kept:
            self._reasons.setdefault(node, _reason(node))
        reasons = {node: self._reasons[node] for node in kept}
        return Folding(self._fused, kept, reasons, users)

    def _users_after_folding(self):
        users: dict[Value, list] = {value: [] for value in self._users}
        for fused in self._fused:
            users[fused.source].append(fused)
            if fused.residual is not None:
                users[fused.residual].append(fused)
        for value in self._graph.outputs:
            users[value].append(None)
        # Backwards, so that who takes a node's outputs is known before it.
        for node in reversed(self._graph.nodes):
            if node in self._taken:
                continue
            if any(users[value] for value in values_in(node.outputs)):
                for value in node.inputs:
                    users[value].append(node)
        return users

    def _fold_paddings(self, fused):
        """Moves a layer to before it is padded, as far as it can pad itself."""
        while True:
            before = self._producers.get(fused.source)
            if before is None or not _pads(before, fused):
                return
            padding = _with_padding(fused, before.layer.padding)
            if padding is None:
                self._reasons[before] = (
                    "the layer behind it cannot pad so much, or in this way"
                )
                return
            fused.geometry["padding"] = padding
            (fused.source,) = before.inputs

    def _fold_next(self, fused):
        """Folds one layer more, if there is one that can be folded."""
        users = self._users[fused.output]
        if len(users) != 1 or users[0] is None:
            for user in users:
                if user is not None and _is_foldable(user):
                    self._reasons.setdefault(user, _SHARED)
            return False
        (node,) = users
        if node in self._taken:
            return False
        rule = _rule(node)
        if rule is None:
            return False
        reason = rule(fused, node)
        if reason is not None:
            self._reasons[node] = reason
            return False
        self._reasons.pop(node, None)
        fused.folded.append(node)
        fused.output = _only_output(node)
        return True


def _rule(node):
    """The function that folds a node, or says why not; `None` if none does."""
    layer = node.layer
    if node.in_training:
        return None
    if type(layer) is keras.layers.BatchNormalization:
        return _fold_normalization
    if _is_add(node):
        return _fold_add
    if _bounds(node) is not None:
        return _fold_bounds
    return None


def _is_foldable(node):
    return _rule(node) is not None


def _fold_normalization(fused, node):
    layer = node.layer
    if fused.residual is not None or fused.is_bounded:
        return _TOO_LATE
    if layer.axis % len(fused.output.shape) != fused.channel_axis:
        return "it does not normalize channels"
    factor, offset = factor_and_offset(layer)
    fused.multiplier = fused.multiplier * factor
    fused.offset = fused.offset * factor + offset
    return None


def _fold_add(fused, node):
    if fused.residual is not None or fused.is_bounded:
        return _TOO_LATE
    terms = node.inputs
    if len(terms) != 2:
        return "it adds more than two tensors"
    (other,) = (term for term in terms if term is not fused.output)
    if other.shape != fused.output.shape:
        return "it adds tensors of different shapes"
    fused.residual = other
    return None


def _fold_bounds(fused, node):
    if fused.is_bounded:
        return _TOO_LATE
    fused.lower, fused.upper = _bounds(node)
    return None


def _is_add(node):
    """Whether it is a sum: a layer, or `keras.ops.add`."""
    if type(node.layer) is keras.layers.Add:
        return True
    return (
        not isinstance(node.layer, keras.layers.Layer)
        and type(node.layer).__name__ == "Add"
        and len(node.inputs) == 2
    )


def _bounds(node):
    """Bounds of a ReLU, ReLU6 and their like, or `None`."""
    layer = node.layer
    if type(layer) is keras.layers.Activation:
        return _bounds_of_function(layer.activation)
    if not isinstance(layer, keras.layers.Layer):
        names = {"Relu": math.inf, "Relu6": 6.0}
        upper = names.get(type(layer).__name__)
        return None if upper is None else (0.0, upper)
    if type(layer) is keras.layers.ReLU:
        if layer.negative_slope or layer.threshold:
            return None
        upper = math.inf if layer.max_value is None else float(layer.max_value)
        return 0.0, upper
    return None


def _bounds_of_function(function):
    if function in (None, keras.activations.linear):
        return -math.inf, math.inf
    if function is keras.activations.relu:
        return 0.0, math.inf
    if function is keras.activations.relu6:
        return 0.0, 6.0
    return None


def _kernel(layer):
    """The filters, as those of a convolution of images."""
    kernel = _numbers(layer.kernel)
    if type(layer) is AdderDense:
        return kernel[None, None]
    if type(layer) is AdderConv1D:
        return kernel[None]
    if type(layer) is AdderDepthwiseConv2D:
        return kernel.reshape(*layer.kernel_size, 1, -1)
    return kernel


def _geometry(layer):
    if type(layer) is AdderDense:
        return {"data_format": "channels_last"}
    # A sequence is an image of one row.
    rows = (1,) if type(layer) is AdderConv1D else ()
    padding = layer.padding
    if padding == "causal":
        before = (layer.kernel_size[0] - 1) * layer.dilation_rate[0]
        padding = ((0, 0), (before, 0))
    return {
        "strides": rows + layer.strides,
        "padding": padding,
        "data_format": layer.data_format,
        "dilation_rate": rows + layer.dilation_rate,
    }


def _pads(node, fused):
    return (
        type(node.layer) is _PADDINGS[type(fused.layer)]
        and node.layer.data_format == fused.layer.data_format
    )


def _with_padding(fused, more):
    """Its padding and more as one, or `None` if a fused layer has no such."""
    padding = fused.geometry["padding"]
    dilated = [
        (size - 1) * rate + 1
        for size, rate in zip(
            fused.kernel.shape, fused.geometry["dilation_rate"]
        )
    ]
    if type(fused.layer) is AdderConv1D:
        more = ((0, 0), more)
    if padding == "valid":
        padding = ((0, 0), (0, 0))
    elif padding == "same":
        # With strides it depends on the size of the images.
        if max(fused.geometry["strides"]) > 1:
            return None
        padding = tuple(
            ((size - 1) // 2, size - 1 - (size - 1) // 2) for size in dilated
        )
    total = tuple(
        tuple(a + b for a, b in zip(*sides)) for sides in zip(padding, more)
    )
    fits = all(max(sides) <= size for sides, size in zip(total, dilated))
    return total if fits else None


def _only_output(node):
    (output,) = values_in(node.outputs)
    return output


def _numbers(variable):
    return keras.ops.convert_to_numpy(variable).astype("float64")


_WEIGHTED = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Dense,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
)


def _reason(node):
    """Why a node stays that no adder layer has been asked about."""
    layer = node.layer
    if isinstance(layer, AdderLayer):
        return f"a subclass of an adder layer ({type(layer).__name__})"
    if isinstance(layer, keras.Model):
        return "a model whose layers' calls are not known"
    if isinstance(layer, _WEIGHTED):
        return "not an adder layer"
    if _is_foldable(node):
        return "not behind an adder layer"
    if type(layer) in _PADDINGS.values():
        return "not before an adder layer"
    return "there is no fused form of it"
