"""Clones a CNN with adder layers in place of its products."""

import warnings
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import rich.box
import rich.table

from keras_adder._calls import trace
from keras_adder._cloning import Cloner
from keras_adder._cloning import refuse_subclassed_models
from keras_adder._cloning import remade
from keras_adder._printing import print_text
from keras_adder._printing import render
from keras_adder.convert.selection import ADDER_LAYERS
from keras_adder.convert.selection import decide
from keras_adder.convert.selection import normalizations_of_distances
from keras_adder.optimizers import WithALR
from keras_adder.optimizers.adder_sgd import AdderSGD


def to_adder(
    model: keras.Model,
    predicate: Callable[[keras.layers.Layer], bool] | None = None,
    insert_batch_norm: bool = True,
    print_fn: Callable[[str], Any] | None = None,
    also: Sequence[type] = (),
) -> keras.Model:
    """Clones a Keras CNN with adder layers in place of its products.

    Each `keras.layers.Conv2D` that is chosen becomes a
    `keras_adder.AdderConv2D`, each `keras.layers.Dense` a
    `keras_adder.AdderDense`, with the same configuration but for the kernel's
    initializer, which is that of adder layers, N(0, 1). Names stay. All other
    layers, subclasses of the two among them, are cloned with their weights.

    So are depthwise, separable and one-dimensional convolutions, unless their
    classes are named: `also=(keras.layers.DepthwiseConv2D,)`. They are chosen
    as the others are then.

    By default all are chosen but

    - the first and the last layers of the network, which the paper leaves
      ordinary in all but LeNet-5: those with no convolution or dense layer
      before or after them. A network with two heads has two last layers;
    - gates: what leads to a sigmoid that multiplies, and to nothing else, as
      in a squeeze-and-excite block. A gate weighs channels, and between two
      batch normalizations it would have nothing left to weigh by.

    The output of an adder layer is large and never positive, and needs a batch
    normalization right behind it, before any activation: after a ReLU nothing
    would be left. Where there is none, one is inserted, named as the layer and
    `_bn`. The layer then has no bias, and its activation moves behind the batch
    normalization, to a layer named as the layer and `_activation`.

    A batch normalization behind a converted layer keeps its gamma and beta, and
    begins with new moving statistics, since those of products say nothing of
    distances. Both are trainable, whatever was frozen, and a nested model with
    converted layers is no longer called with `training=False`.

    The regularizers of a converted layer's kernels are left out: they are not
    weight decay there, which `keras_adder.ALR(weight_decay=...)` is.

    The new model is compiled as `model` is. Compile it anew: adder filters
    need `keras_adder.ALR`, and what stays is trained well by what trained it
    before, so `keras_adder.WithALR` is for both.

    A table of all layers with weights that multiply is printed: what becomes of
    each, and why.

    Reference:

    - [AdderNet: Do We Really Need Multiplications in Deep Learning?](
        https://arxiv.org/abs/1912.13200) (CVPR 2020), section 4.2

    Args:
        model: A functional or sequential `keras.Model` that has been built.
            Models nested in it are cloned likewise.
        predicate: function of a `keras.layers.Conv2D`, a `keras.layers.Dense`
            or a layer that `also` names that returns whether it becomes an
            adder layer; it is asked for all of them, the first and the last
            too. Defaults to `None`, the choice above.
        insert_batch_norm: bool, whether to insert a
            `keras.layers.BatchNormalization` behind the converted layers that
            have none. If `False`, a warning names them.
        print_fn: function of a string that prints the table. Defaults to
            `None`, which is `print`.
        also: tuple of classes, of the layers to convert besides
            `keras.layers.Conv2D` and `keras.layers.Dense`:
            `keras.layers.DepthwiseConv2D`, `keras.layers.SeparableConv2D`,
            `keras.layers.Conv1D`. They become
            `keras_adder.AdderDepthwiseConv2D`,
            `keras_adder.AdderSeparableConv2D` and `keras_adder.AdderConv1D`.
            Defaults to none.

    Returns:
        A new `keras.Model`.

    Raises:
        TypeError: If `model` is not a `keras.Model`, or `predicate` cannot be
            called.
        ValueError: If `model`, or a model nested in it, is subclassed, if
            `model` has not been built, if `also` is not one of those above, or
            if no layer is chosen.

    Example:

    >>> cnn = keras.applications.MobileNet(weights=None)
    >>> model = keras_adder.convert.to_adder(cnn, print_fn=lambda table: None)
    >>> type(model.get_layer("conv_pw_1")).__name__
    'AdderConv2D'
    >>> type(model.get_layer("conv1")).__name__  # the first one
    'Conv2D'

    With depthwise convolutions:

    >>> depthwise = (keras.layers.DepthwiseConv2D,)
    >>> model = keras_adder.convert.to_adder(
    ...     cnn, also=depthwise, print_fn=lambda table: None)
    >>> type(model.get_layer("conv_dw_1")).__name__
    'AdderDepthwiseConv2D'
    """
    if predicate is not None and not callable(predicate):
        raise TypeError(
            "`predicate` must be a function of a layer, or `None`. "
            f"Received: predicate={predicate} (of type {type(predicate)})"
        )
    calls = trace(model)
    refuse_subclassed_models(model)
    decisions = decide(calls, predicate, also)
    if not insert_batch_norm:
        _warn_of_missing_normalizations(decisions)
    cloner = _AdderCloner(
        decisions,
        normalizations_of_distances(calls, decisions),
        {call.name.rpartition("/")[2] for call in calls},
        insert_batch_norm,
    )
    clone = cloner.clone(model)
    cloner.copy_weights()
    (print_fn or print_text)(_table(decisions, insert_batch_norm))
    if clone.compiled and not isinstance(clone.optimizer, _OPTIMIZERS):
        warnings.warn(
            "`model` was compiled, and the clone is compiled alike, but its "
            "optimizer hardly moves adder filters. Compile it anew, with "
            "`keras_adder.ALR(...)`, or `keras_adder.WithALR(optimizer)` to "
            "keep an optimizer for all else. "
            f"Received: optimizer={type(clone.optimizer).__name__}",
            stacklevel=2,
        )
    return clone


# By which adder filters are trained.
_OPTIMIZERS = (AdderSGD, WithALR)


class _AdderCloner(Cloner):
    """Clones models with adder layers where they were decided on."""

    def __init__(self, decisions, normalizations, names, insert_batch_norm):
        super().__init__()
        self._normalizations = normalizations
        self._converted = {id(d.layer) for d in decisions if d.converts}
        self._bare = {
            id(d.layer)
            for d in decisions
            if d.needs_normalization and insert_batch_norm
        }
        self._names = names
        self._inserted = {}  # By the id of the clone that they stand behind.

    def _new_layer(self, layer):
        if id(layer) in self._converted:
            return self._convert(layer)
        config = layer.get_config()
        if id(layer) in self._normalizations:
            config["trainable"] = True
        return remade(layer, config)

    def _weights(self, original, clone):
        if id(original) in self._converted:
            return None
        weights = original.get_weights()
        # Statistics of products say nothing of distances.
        if id(original) in self._normalizations and isinstance(
            original, keras.layers.BatchNormalization
        ):
            weights[-2:] = clone.get_weights()[-2:]
        return weights

    def _behind(self, clone):
        return self._inserted.get(id(clone), ())

    def _convert(self, layer):
        adder_layer = ADDER_LAYERS[type(layer)]
        config = layer.get_config() | {"trainable": True}
        for prefix in adder_layer.KERNELS.values():
            del config[f"{prefix}_initializer"], config[f"{prefix}_regularizer"]
        bare = id(layer) in self._bare
        if bare:
            config |= {"activation": "linear", "use_bias": False}
        clone = adder_layer.from_config(config)
        if bare:
            self._inserted[id(clone)] = self._layers_behind(layer)
        return clone

    def _layers_behind(self, layer):
        first = getattr(layer, "data_format", None) == "channels_first"
        behind = [
            keras.layers.BatchNormalization(
                axis=1 if first else -1,
                dtype=layer.dtype_policy,
                name=self._new_name(f"{layer.name}_bn"),
            )
        ]
        if layer.activation is not keras.activations.linear:
            behind.append(
                keras.layers.Activation(
                    layer.activation,
                    dtype=layer.dtype_policy,
                    name=self._new_name(f"{layer.name}_activation"),
                )
            )
        return behind

    def _new_name(self, name):
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name

    def _call(self, layer, *args, **kwargs):
        if kwargs.get("training") is False and self._has_converted(layer):
            del kwargs["training"]
        return super()._call(layer, *args, **kwargs)

    def _has_converted(self, clone):
        """Whether the clone of a nested model has adder layers."""
        adder_layers = tuple(ADDER_LAYERS.values())
        return isinstance(clone, keras.Model) and any(
            isinstance(layer, adder_layers) or self._has_converted(layer)
            for layer in clone.layers
        )


def _warn_of_missing_normalizations(decisions):
    missing = []
    for decision in decisions:
        if not decision.needs_normalization:
            continue
        activation = keras.activations.serialize(decision.layer.activation)
        missing.append(
            f"'{decision.name}'"
            if activation == "linear"
            else f"'{decision.name}' (activation={activation})"
        )
    if missing:
        warnings.warn(
            "The output of an adder layer is large and never positive, and "
            "should go to a batch normalization first, before any activation. "
            f"In `model` it does not for: {', '.join(missing)}.",
            stacklevel=3,
        )


def _table(decisions, insert_batch_norm):
    """What becomes of each layer, and why."""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    for title in ("layer", "type", "becomes", "why"):
        table.add_column(title)
    for decision in decisions:
        kind = type(decision.layer)
        becomes, reasons = "the same", [decision.reason]
        if decision.converts:
            becomes, reasons = ADDER_LAYERS[kind].__name__, []
            if decision.needs_normalization and insert_batch_norm:
                becomes += " + BatchNormalization"
                reasons.append("no batch normalization was behind it")
            reasons += [
                f"its {argument} is left out: ALR(weight_decay=)"
                for argument in _regularizers(decision.layer)
            ]
        name = rich.markup.escape(decision.name)
        table.add_row(name, kind.__name__, becomes, "; ".join(reasons))
    return render(table)


def _regularizers(layer):
    """Names of the arguments that regularize the kernels of a layer."""
    prefixes = ADDER_LAYERS[type(layer)].KERNELS.values()
    arguments = [f"{prefix}_regularizer" for prefix in prefixes]
    return [name for name in arguments if getattr(layer, name) is not None]
