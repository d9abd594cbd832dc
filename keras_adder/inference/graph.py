"""A Keras model as a list of calls on values, whatever models it nests.

Read by `keras.models.clone_model`, which calls a probe in place of each layer:
the model itself is neither called nor changed. The list can be computed with
the model's own layers (`run`), and new models can be built from it.
"""

import dataclasses
import itertools
from typing import Any

import keras

from keras_adder._calls import Follower
from keras_adder._calls import is_graph
from keras_adder._calls import require_graph

# They hand on what they are given, unless the model is in training.
_NO_OPERATION = (
    keras.layers.ActivityRegularization,
    keras.layers.AlphaDropout,
    keras.layers.Dropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.Identity,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
)


@dataclasses.dataclass(eq=False)
class Value:
    """A tensor of a model: an input, or what a call returns.

    Attributes:
        shape: tuple of integers and `None`s, the batch the first.
        dtype: string.
        name: string, that of the tensor in the model.
        sparse: bool.
    """

    shape: tuple
    dtype: str
    name: str
    sparse: bool = False

    @property
    def is_float(self) -> bool:
        return keras.backend.is_float_dtype(self.dtype)


@dataclasses.dataclass(eq=False)
class Node:
    """One call of a layer, or of a function of `keras.ops`.

    Attributes:
        name: string, the layer's own where no other node has it.
        layer: `keras.Operation`, of which `keras.Layer` is one.
        args, kwargs: arguments of the call, with `Value`s for tensors.
        outputs: what it returns, with `Value`s for tensors.
    """

    name: str
    layer: Any
    args: tuple
    kwargs: dict
    outputs: Any

    @property
    def inputs(self) -> list[Value]:
        return values_in((self.args, self.kwargs))

    @property
    def in_training(self) -> bool:
        """Whether the layer trains whatever the model does."""
        return bool(self.kwargs.get("training"))


@dataclasses.dataclass(eq=False)
class Graph:
    """A model.

    Attributes:
        inputs: list of `Value`.
        outputs: list of `Value`.
        nodes: list of `Node`, each behind those whose outputs it takes.
        input_structure, output_structure: as those of the model, with `Value`s.
    """

    inputs: list[Value]
    outputs: list[Value]
    nodes: list[Node]
    input_structure: Any
    output_structure: Any

    def users(self) -> dict[Value, list[Node | None]]:
        """Of each value, the nodes that take it; `None` for the model's end.

        A node that takes a value twice is there twice.
        """
        users: dict[Value, list[Node | None]] = {v: [] for v in self.inputs}
        for node in self.nodes:
            users |= {value: [] for value in values_in(node.outputs)}
            for value in node.inputs:
                users[value].append(node)
        for value in self.outputs:
            users[value].append(None)
        return users

    def run(self, inputs: list, wanted: list[Value]) -> list:
        """Computes values with the model's own layers, for inference.

        Args:
            inputs: list of tensors, those of `inputs`.
            wanted: list of `Value`.

        Returns:
            A list of tensors.
        """
        # In the scope nothing is written, neither statistics nor losses.
        with keras.StatelessScope():
            return _Runner(self, wanted)(list(inputs), training=False)


def read(model: keras.Model) -> Graph:
    """Reads a functional or sequential model.

    Nested ones are followed inside, but for those that are called with
    `training=True`. What does nothing at inference is left out.

    Args:
        model: `keras.Model`.

    Raises:
        TypeError: If it is not a `keras.Model`.
        ValueError: If its graph is not known.
    """
    require_graph(model)
    reader = _Reader()
    inputs = [_new_input(tensor) for tensor in model.inputs]
    values = [reader.value_of(tensor) for tensor in inputs]
    reader.names.update(value.name for value in values)
    outputs = [
        reader.value_of(tensor) for tensor in reader.follow(model, inputs, "")
    ]
    return Graph(
        values,
        outputs,
        _without_dead_ends(reader.nodes, outputs),
        _like(model, "input", values),
        _like(model, "output", outputs),
    )


def values_in(structure: Any) -> list[Value]:
    """The `Value`s in whatever lists, tuples and dicts."""
    leaves = keras.tree.flatten(structure)
    return [leaf for leaf in leaves if isinstance(leaf, Value)]


def replace_values(structure: Any, tensors: dict[Value, Any]) -> Any:
    """The structure with tensors in place of `Value`s."""
    return keras.tree.map_structure(
        lambda leaf: tensors[leaf] if isinstance(leaf, Value) else leaf,
        structure,
    )


class _Runner(keras.layers.Layer):
    """Calls all that a graph is made of.

    A layer, since layers that are called within another one learn from it
    whether they are in training.
    """

    def __init__(self, graph, wanted):
        super().__init__(autocast=False, name="runner")
        # In a function, or Keras would take the layers in it for its own.
        self._parts = lambda: (graph, wanted)

    def call(self, inputs):
        graph, wanted = self._parts()
        tensors = dict(zip(graph.inputs, inputs))
        for node in graph.nodes:
            outputs = node.layer(
                *replace_values(node.args, tensors),
                **replace_values(node.kwargs, tensors),
            )
            for value, tensor in zip(
                keras.tree.flatten(node.outputs), keras.tree.flatten(outputs)
            ):
                tensors[value] = tensor
        return [tensors[value] for value in wanted]


class _Reader(Follower):
    """Collects nodes, and remembers which value a tensor stands for."""

    def __init__(self):
        super().__init__()
        self.nodes = []
        self.names = set()

    def call(self, layer, prefix, args, kwargs):
        """Reads one call; returns its outputs."""
        nested = is_graph(layer) and not kwargs.get("training")
        if nested:
            return self._call_nested(
                layer, f"{prefix}{layer.name}_", (args, kwargs)
            )
        args, kwargs = keras.tree.map_structure(self._in_place, (args, kwargs))
        if _does_nothing(layer, kwargs):
            (value,) = values_in((args, kwargs))
            return self._stand_in(value)
        outputs = layer.compute_output_spec(
            *_symbolic(args), **_symbolic(kwargs)
        )
        node = Node(
            self._new_name(layer.name, prefix),
            layer,
            args,
            kwargs,
            keras.tree.map_structure(self._new_value, outputs),
        )
        self.nodes.append(node)
        return keras.tree.map_structure(
            lambda x: self._stand_in(x) if isinstance(x, Value) else x,
            node.outputs,
        )

    def value_of(self, tensor):
        if self.known(tensor) is None:
            self.remember(tensor, self._new_value(tensor))
        return self.known(tensor)

    def _call_nested(self, model, prefix, arguments):
        outer = [
            tensor
            for tensor in keras.tree.flatten(arguments)
            if isinstance(tensor, keras.KerasTensor)
        ]
        inner = [_new_input(tensor) for tensor in outer]
        for new, tensor in zip(inner, outer):
            self.remember(new, self.value_of(tensor))
        outputs = self.follow(model, inner, prefix)
        # New tensors, as these have their places in the inner graph.
        return _like(
            model, "output", [self._stand_in(self.value_of(x)) for x in outputs]
        )

    def _new_value(self, tensor):
        if not isinstance(tensor, keras.KerasTensor):
            return tensor
        return Value(
            tuple(tensor.shape),
            keras.backend.standardize_dtype(tensor.dtype),
            tensor.name,
            bool(getattr(tensor, "sparse", False)),
        )

    def _in_place(self, leaf):
        is_tensor = isinstance(leaf, keras.KerasTensor)
        return self.value_of(leaf) if is_tensor else leaf

    def _stand_in(self, value):
        (tensor,) = _symbolic([value])
        self.remember(tensor, value)
        return tensor

    def _new_name(self, name, prefix):
        """The name, that with those of the models around it, or a number."""
        names = itertools.chain(
            [name, f"{prefix}{name}"],
            (f"{name}_{count}" for count in itertools.count(1)),
        )
        new = next(name for name in names if name not in self.names)
        self.names.add(new)
        return new


def _new_input(tensor):
    return keras.Input(
        batch_shape=tensor.shape,
        dtype=tensor.dtype,
        name=tensor.name,
        sparse=bool(getattr(tensor, "sparse", False)),
    )


def _symbolic(structure):
    """New symbolic tensors in place of `Value`s."""
    return keras.tree.map_structure(
        lambda leaf: (
            keras.KerasTensor(
                leaf.shape, leaf.dtype, sparse=leaf.sparse, name=leaf.name
            )
            if isinstance(leaf, Value)
            else leaf
        ),
        structure,
    )


def _like(model, attribute, flat):
    """Puts a flat list into the structure of a model's input or output."""
    if isinstance(model, keras.Sequential):
        return flat[0] if len(flat) == 1 else flat
    return keras.tree.pack_sequence_as(getattr(model, attribute), flat)


def _does_nothing(layer, kwargs):
    if kwargs.get("training"):
        return False
    linear = type(layer) is keras.layers.Activation and (
        layer.activation is keras.activations.linear
    )
    return linear or type(layer) in _NO_OPERATION


def _without_dead_ends(nodes, outputs):
    """The nodes that outputs come from."""
    live = set(outputs)
    kept = []
    for node in reversed(nodes):
        if live.intersection(values_in(node.outputs)):
            kept.append(node)
            live.update(node.inputs)
    return kept[::-1]
