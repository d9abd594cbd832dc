import warnings
from collections.abc import Callable
from typing import Any

import keras

from keras_adder._calls import trace
from keras_adder.layers import AdderConv2D
from keras_adder.layers import AdderDense

_ADDER_LAYERS: dict[type[keras.layers.Layer], Any] = {
    keras.layers.Conv2D: AdderConv2D,
    keras.layers.Dense: AdderDense,
}

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
    keras.layers.AveragePooling2D,
    keras.layers.Concatenate,
    keras.layers.Cropping2D,
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.Identity,
    keras.layers.MaxPooling2D,
    keras.layers.Permute,
    keras.layers.Reshape,
    keras.layers.SpatialDropout2D,
    keras.layers.UpSampling2D,
    keras.layers.ZeroPadding2D,
)


def to_adder(
    model: keras.Model,
    predicate: Callable[[keras.layers.Layer], bool] | None = None,
) -> keras.Model:
    """Clones a Keras CNN with adder layers in place of its products.

    Each `keras.layers.Conv2D` that is chosen becomes a
    `keras_adder.AdderConv2D`, each `keras.layers.Dense` a
    `keras_adder.AdderDense`, with the same configuration but for the kernel's
    initializer, which is that of adder layers, N(0, 1). Names stay. All other
    layers, subclasses of the two among them, are cloned as they are.

    By default all are chosen but the first and the last layers of the network,
    which the paper leaves ordinary in all but LeNet-5: those with no
    convolution or dense layer before or after them. A network with two heads
    has two last layers.

    As with `keras.models.clone_model`, which does the cloning, the new model
    has newly initialized weights, also in the layers that stay (so that a
    `Normalization` is to be adapted again), and is compiled as `model` is.
    Compile it anew: adder layers are trained by `keras_adder.ALR`.

    An adder layer's output is large and never positive, and needs a batch
    normalization right behind it, before any activation: after a ReLU nothing
    would be left. A warning names the layers that have none.

    Reference:

    - [AdderNet: Do We Really Need Multiplications in Deep Learning?](
        https://arxiv.org/abs/1912.13200) (CVPR 2020), section 4.2

    Args:
        model: A functional or sequential `keras.Model` that has been built.
            Models nested in it are cloned likewise.
        predicate: function of a `keras.layers.Conv2D` or `keras.layers.Dense`
            of `model` that returns whether it becomes an adder layer; it is
            asked for all of them, the first and the last too. Defaults to
            `None`, the choice above.

    Returns:
        A new `keras.Model`.

    Raises:
        TypeError: If `model` is not a `keras.Model`, or `predicate` cannot be
            called.
        ValueError: If `model`, or a model nested in it, is subclassed, if
            `model` has not been built, or if no layer is chosen.

    Example:

    >>> cnn = keras.applications.MobileNet(weights=None)
    >>> model = keras_adder.convert.to_adder(cnn)
    >>> type(model.get_layer("conv_pw_1")).__name__
    'AdderConv2D'
    >>> type(model.get_layer("conv1")).__name__  # the first one
    'Conv2D'
    """
    if predicate is not None and not callable(predicate):
        raise TypeError(
            "`predicate` must be a function of a layer, or `None`. "
            f"Received: predicate={predicate} (of type {type(predicate)})"
        )
    calls = trace(model)
    _refuse_subclassed_models(calls)
    chosen = _choose(calls, predicate)
    _warn_of_missing_normalizations(calls, chosen)

    def clone(layer):
        config = layer.get_config()
        if id(layer) not in chosen:
            return type(layer).from_config(config)
        del config["kernel_initializer"]
        return _ADDER_LAYERS[type(layer)].from_config(config)

    return keras.models.clone_model(
        model,
        input_tensors=_clone_inputs(model),
        clone_function=clone,
        recursive=True,
    )


def _clone_inputs(model):
    """New inputs of a functional model, by the names of its input layers.

    `clone_model` would name them by their tensors. It does right by sequential
    models.
    """
    if isinstance(model, keras.Sequential):
        return None
    layers = {
        id(layer.output): layer
        for layer in model.layers
        if isinstance(layer, keras.layers.InputLayer)
    }

    def clone(tensor):
        layer = layers[id(tensor)]
        return type(layer).from_config(layer.get_config()).output

    return keras.tree.map_structure(clone, model.input)


def _refuse_subclassed_models(calls):
    for call in calls:
        if isinstance(call.layer, keras.Model):
            raise ValueError(
                "`model` must be made of functional and sequential models; the "
                "layers in a subclassed one cannot be replaced. Received: "
                f"model with '{call.name}' of type {type(call.layer)}"
            )


def _choose(calls, predicate):
    """Returns the ids of the layers that become adder layers."""
    # A layer that is called more than once is asked for once.
    layers = {
        id(call.layer): call.layer
        for call in calls
        if type(call.layer) in _ADDER_LAYERS
    }
    if predicate is None:
        chosen = set(layers) - _first_and_last(calls)
    else:
        chosen = {key for key, layer in layers.items() if predicate(layer)}
    if not chosen:
        raise ValueError(
            "`model` must have a `keras.layers.Conv2D` or `keras.layers.Dense` "
            "that becomes an adder layer, which without a `predicate` is one "
            "between the first and the last. Received: model with "
            f"{[layer.name for layer in layers.values()]}, "
            f"predicate={predicate}"
        )
    return chosen


def _first_and_last(calls):
    """Ids of the layers with nothing weighted before, or after, them."""
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
    return {
        id(call.layer)
        for call, before, after in zip(calls, has_before, has_after)
        if not (before and after)
    }


def _warn_of_missing_normalizations(calls, chosen):
    takers: list[list[int]] = [[] for _ in calls]
    for index, call in enumerate(calls):
        for source in call.sources:
            takers[source].append(index)

    # Of each call: whether all that takes its output normalizes it.
    is_normalized = [False] * len(calls)
    for index in reversed(range(len(calls))):
        is_normalized[index] = bool(takers[index]) and all(
            isinstance(calls[taker].layer, _NORMALIZATIONS)
            or isinstance(calls[taker].layer, _TRANSPARENT_LAYERS)
            and is_normalized[taker]
            for taker in takers[index]
        )

    missing = {}
    for index, call in enumerate(calls):
        if id(call.layer) not in chosen:
            continue
        activation = keras.activations.serialize(call.layer.activation)
        if activation != "linear":
            missing[call.name] = f"'{call.name}' (activation={activation})"
        elif not is_normalized[index]:
            missing[call.name] = f"'{call.name}'"
    if missing:
        warnings.warn(
            "The output of an adder layer is large and never positive, and "
            "should go to a batch normalization first, before any activation. "
            f"In `model` it does not for: {', '.join(missing.values())}.",
            stacklevel=3,
        )
