"""Separable adder convolutions as the two layers that they are made of."""

import dataclasses
from collections.abc import Container

from keras_adder.inference.graph import Graph
from keras_adder.inference.graph import Node
from keras_adder.inference.graph import Value
from keras_adder.layers import AdderConv2D
from keras_adder.layers import AdderDepthwiseConv2D
from keras_adder.layers import AdderSeparableConv2D


def split(graph: Graph, kept: Container[Node]) -> Graph:
    """Makes a depthwise and a pointwise layer of each separable one.

    What goes from one to the other is a tensor of the graph then, with a range
    and integers of its own. The pointwise layer has the name.

    Args:
        graph: `Graph` of a model, which stays as it is.
        kept: those of its nodes that are not to be split.

    Returns:
        Another one of the same inputs and outputs.
    """
    names = {value.name for value in graph.inputs}
    names |= {node.name for node in graph.nodes}
    nodes: list[Node] = []
    for node in graph.nodes:
        if type(node.layer) is AdderSeparableConv2D and node not in kept:
            nodes += _parts(node, names)
        else:
            nodes.append(node)
    return dataclasses.replace(graph, nodes=nodes)


def _parts(node, names):
    layer = node.layer
    (source,) = node.inputs
    shared = {"data_format": layer.data_format, "dtype": layer.dtype_policy}
    depthwise = AdderDepthwiseConv2D(
        layer.kernel_size,
        layer.strides,
        layer.padding,
        layer.depth_multiplier,
        dilation_rate=layer.dilation_rate,
        use_bias=False,
        **shared,
    )
    depthwise.build(source.shape)
    depthwise.kernel.assign(layer.depthwise_kernel)
    name = f"{node.name}_depthwise"
    while name in names:
        name += "_"
    names.add(name)
    between = Value(
        depthwise.compute_output_shape(source.shape), layer.compute_dtype, name
    )
    pointwise = AdderConv2D(layer.filters, 1, use_bias=layer.use_bias, **shared)
    # Not an argument, whose check would warn of it a second time.
    pointwise.activation = layer.activation
    pointwise.build(between.shape)
    pointwise.kernel.assign(layer.pointwise_kernel)
    if layer.use_bias:
        pointwise.bias.assign(layer.bias)
    return [
        Node(name, depthwise, node.args, node.kwargs, between),
        Node(node.name, pointwise, (between,), {}, node.outputs),
    ]
