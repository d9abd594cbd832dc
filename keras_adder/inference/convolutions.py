"""Batch normalizations of convolutions, which stay in floating point."""

from collections import Counter
from typing import Any

import keras
import numpy as np

from keras_adder.inference.graph import Graph
from keras_adder.inference.graph import Node
from keras_adder.inference.graph import values_in

_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Dense,
    keras.layers.DepthwiseConv2D,
)


def fold_normalizations(graph: Graph) -> Graph:
    """Takes batch normalizations into the convolutions before them.

    A convolution is linear, so that `gamma * (y - mean) / deviation + beta` is
    one of other filters and another bias. It is folded where nothing else
    takes what the convolution gives, and all is in float32.

    Args:
        graph: `Graph` of a model, which stays as it is.

    Returns:
        Another one, with a layer of its own for each convolution that has
        taken one in.
    """
    users = graph.users()
    calls = Counter(id(node.layer) for node in graph.nodes)
    folded: dict[Node, Node] = {}
    taken = set()
    for node in graph.nodes:
        normalization = _normalization_of(node, users)
        if normalization is not None and calls[id(node.layer)] == 1:
            folded[node] = normalization
            taken.add(normalization)
    nodes = [
        _merged(node, folded[node]) if node in folded else node
        for node in graph.nodes
        if node not in taken
    ]
    return Graph(
        graph.inputs,
        graph.outputs,
        nodes,
        graph.input_structure,
        graph.output_structure,
    )


def _normalization_of(node, users):
    layer = node.layer
    if type(layer) not in _CONVOLUTIONS or not _is_plain(layer):
        return None
    (output,) = values_in(node.outputs)
    if len(users[output]) != 1 or users[output][0] is None:
        return None
    (user,) = users[output]
    if type(user.layer) is not keras.layers.BatchNormalization:
        return None
    if user.in_training or user.layer.compute_dtype != "float32":
        return None
    first = getattr(layer, "data_format", None) == "channels_first"
    rank = len(output.shape)
    axis = 1 if first else rank - 1
    return user if user.layer.axis % rank == axis else None


def _is_plain(layer):
    return (
        layer.activation in (None, keras.activations.linear)
        and layer.compute_dtype == "float32"
        and layer.quantization_mode is None
        and not getattr(layer, "lora_enabled", False)
    )


def _merged(node, normalization):
    """The node of a convolution that has taken a normalization in."""
    layer = node.layer
    factor, offset = factor_and_offset(normalization.layer)
    kernel = keras.ops.convert_to_numpy(layer.kernel).astype("float64")
    bias = 0.0
    if layer.use_bias:
        bias = keras.ops.convert_to_numpy(layer.bias).astype("float64")
    config = layer.get_config()
    config["use_bias"] = True
    (source,) = values_in((node.args, node.kwargs))
    merged = type(layer).from_config(config)
    merged.build(source.shape)
    # Of a depthwise one, channels and those that each becomes are two axes.
    axes = 2 if type(layer) is keras.layers.DepthwiseConv2D else 1
    factors = factor.reshape(kernel.shape[-axes:])
    merged.kernel.assign((kernel * factors).astype("float32"))
    merged.bias.assign((bias * factor + offset).astype("float32"))
    return Node(
        node.name, merged, node.args, node.kwargs, normalization.outputs
    )


def factor_and_offset(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """What a batch normalization multiplies by and then adds, at inference.

    Args:
        layer: `keras.layers.BatchNormalization`.

    Returns:
        Two float64 arrays, a number for each channel.
    """

    def numbers(variable):
        return keras.ops.convert_to_numpy(variable).astype("float64")

    factor = 1 / np.sqrt(numbers(layer.moving_variance) + layer.epsilon)
    if layer.scale:
        factor = factor * numbers(layer.gamma)
    offset = -numbers(layer.moving_mean) * factor
    if layer.center:
        offset = offset + numbers(layer.beta)
    return factor, offset
