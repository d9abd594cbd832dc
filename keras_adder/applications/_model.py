"""What all builders share: their arguments, checked and documented once."""

import functools
import inspect
import numbers
import os
from collections.abc import Callable
from typing import Any
from typing import NamedTuple
from typing import TypeVar

import keras
import numpy as np
import tensorflow as tf

from keras_adder.applications import _pretrained

Builder = TypeVar("Builder", bound=Callable[..., Any])

ARGUMENTS = """\
Args:
{own}    include_top: whether to include the classifier
        at the top of the network.
    weights: one of `None` (random initialization),
        {weights}or the path to the weights file to be loaded.
    input_tensor: optional Keras tensor
        (i.e. output of `keras.Input()`)
        to use as image input for the model.
    input_shape: optional shape tuple, by default the shape
        of `input_tensor` if given, else `{last}`
        (with `"channels_last"` data format) or
        `{first}` (with `"channels_first"` data format),
        whose width and height are `None` if `include_top` is `False`.
        Width and height should be no smaller than {min_size};
        {any_size}
    pooling: optional pooling mode for feature extraction
        when `include_top` is `False`.
        - `None` means that the output of the model will be
            the 4D tensor output of the
            last convolutional block.
        - `avg` means that global average pooling
            will be applied to the output of the
            last convolutional block, and thus
            the output of the model will be a 2D tensor.
        - `max` means that global max pooling will
            be applied.
    classes: optional number of classes to classify images
        into, only to be specified if `include_top` is `True`.
        Defaults to `{classes}`.
    classifier_activation: A `str` or callable. The activation function to
        use on the "top" layer. Ignored unless `include_top=True`. Set
        `classifier_activation=None` to return the logits of the "top"
        layer. When loading pretrained weights, `classifier_activation`
        can only be `None` or `"softmax"`.
    adder: whether to build the AdderNet. If `False`, the model is its CNN
        twin: the same layers and names, with `keras.layers.Conv2D` and
        `keras.layers.Dense` in place of the adder layers.
    include_preprocessing: whether to have the model take pixels in the range
        [0, 255], and to begin with what `preprocess_input` of its module does
        to them.
    name: The name of the model (string).

Returns:
    A `Model` instance.

Raises:
    ValueError: when an argument is not one of those above."""


class ImageSpec(NamedTuple):
    """The images that a family of models takes.

    Attributes:
        size: int, the default width and height.
        channels: int, the default number of channels.
        min_size: int, the least width and height.
        any_size: bool, whether the classifier takes features of any size, and
            so images of a size that is known only when the model is called.
        mean: tuple of floats, of the pixels of each channel, in units of 255.
        standard_deviation: tuple of floats, likewise.
    """

    size: int
    channels: int
    min_size: int
    any_size: bool
    mean: tuple[float, ...]
    standard_deviation: tuple[float, ...]

    def preprocessing(self):
        """The layer that does what `preprocess_input` does."""
        first = keras.config.image_data_format() == "channels_first"
        shape = (-1, 1, 1) if first else (-1,)
        deviation = np.reshape(self.standard_deviation, shape)
        mean = np.reshape(self.mean, shape)
        return keras.layers.Rescaling(
            scale=(1 / (255 * deviation)).tolist(),
            offset=(-mean / deviation).tolist(),
            name="preprocessing",
        )

    def default_shape(self, dynamic=False):
        size = None if dynamic else self.size
        if keras.config.image_data_format() == "channels_first":
            return (self.channels, size, size)
        return (size, size, self.channels)


def document_arguments(
    images: "ImageSpec", own: str = ""
) -> Callable[[Builder], Builder]:
    """Puts the documentation of the arguments in place of `{arguments}`.

    Args:
        images: `ImageSpec` of the model that the decorated function builds.
        own: string, what goes before the documentation of the arguments that
            all builders have.

    Returns:
        The decorator of a builder.
    """

    def decorate(builder: Builder) -> Builder:
        if builder.__doc__ is None:  # python -OO
            return builder
        size, channels = images.size, images.channels
        parameters = inspect.signature(builder).parameters
        arguments = ARGUMENTS.format(
            own=own,
            last=(size, size, channels),
            first=(channels, size, size),
            min_size=images.min_size,
            any_size="they may be `None`."
            if images.any_size
            else "they may be `None` if `include_top` is `False`.",
            classes=parameters["classes"].default,
            weights=_describe_weights(parameters["name"].default),
        )
        doc = inspect.cleandoc(builder.__doc__)
        builder.__doc__ = doc.replace("{arguments}", arguments)
        return builder

    return decorate


def build_model(
    architecture,
    images,
    backbone,
    top,
    include_top,
    weights,
    input_tensor,
    input_shape,
    pooling,
    classes,
    classifier_activation,
    adder,
    include_preprocessing,
    name,
):
    """Builds a model of a family from the arguments of its builder.

    Args:
        architecture: string, the default of `name`, by which the package
            knows its weights.
        images: `ImageSpec`, the images that the family takes.
        backbone: function of the images and `adder` that returns the features,
            a 4D tensor.
        top: function of the features, `classes`, `adder` and the activation
            of the classifier that returns the predictions, a 2D tensor.

    The others are those of the builders.

    Returns:
        A `Model` instance.
    """
    pretrained = _find_weights(architecture, adder, weights)
    if include_top:
        classes = _standardize_classes(classes)
        _validate_activation(classifier_activation, weights)
    elif pooling not in (None, "avg", "max"):
        raise ValueError(
            "The `pooling` argument should be one of `None`, 'avg' or 'max'. "
            f"Received: pooling={pooling}"
        )
    image_shape = _obtain_input_shape(
        images, input_shape, input_tensor, include_top
    )
    if pretrained is not None:
        _validate_pretrained(
            images, image_shape, include_top, classes, weights, pretrained
        )
    preprocessing = None
    if include_preprocessing:
        _validate_preprocessing(images, image_shape)
        preprocessing = images.preprocessing()

    assemble = functools.partial(
        _assemble, backbone=backbone, top=top, adder=adder, name=name
    )
    arguments = {
        "include_top": include_top,
        "input_shape": image_shape,
        "pooling": pooling,
        "classes": classes,
        "classifier_activation": classifier_activation,
    }
    model = assemble(
        **arguments, input_tensor=input_tensor, preprocessing=preprocessing
    )
    if pretrained is not None:
        donor = assemble(
            input_shape=images.default_shape(), classes=pretrained["classes"]
        )
        donor.load_weights(
            _pretrained.verified_path(architecture, adder, weights)
        )
        _copy_weights(donor, model)
    elif weights is not None and include_preprocessing:
        # The file is that of a model without.
        donor = assemble(**arguments)
        donor.load_weights(weights)
        _copy_weights(donor, model)
    elif weights is not None:
        model.load_weights(weights)
    return model


def _assemble(
    backbone,
    top,
    adder,
    name,
    input_shape,
    classes,
    include_top=True,
    input_tensor=None,
    pooling=None,
    classifier_activation=None,
    preprocessing=None,
):
    """Builds a model from arguments that have been validated."""
    if input_tensor is None:
        image = keras.Input(shape=input_shape)
        inputs = image
    else:
        image = input_tensor
        # Ensure that the model takes into account
        # any potential predecessors of `input_tensor`.
        inputs = keras.utils.get_source_inputs(input_tensor)
        # A model of one input takes a tensor, not a list of one.
        inputs = inputs[0] if len(inputs) == 1 else inputs

    if preprocessing is not None:
        image = preprocessing(image)
    x = backbone(image, adder)
    if include_top:
        x = top(x, classes, adder, classifier_activation)
    elif pooling == "avg":
        x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    elif pooling == "max":
        x = keras.layers.GlobalMaxPooling2D(name="max_pool")(x)

    return keras.Model(inputs, x, name=name)


def _describe_weights(architecture):
    """The names of weights and their accuracies, for the documentation."""
    networks = (("AdderNet", True), ("CNN", False))
    accuracies: dict[str, list[str]] = {}
    for network, adder in networks:
        known = _pretrained.known_weights(architecture, adder)
        for data, entry in known.items():
            accuracies.setdefault(data, []).append(
                f"{entry['test_accuracy']:.2%} as {network}"
            )
    return "".join(
        f'`"{data}"` (trained on that data set;\n'
        f"        test accuracy {', '.join(values)}),\n        "
        for data, values in sorted(accuracies.items())
    )


def _find_weights(architecture, adder, weights):
    """Returns the manifest's entry, or None if `weights` is None or a path."""
    known = _pretrained.known_weights(architecture, adder)
    if isinstance(weights, str) and weights in known:
        return known[weights]
    if weights is None:
        return None
    is_path = isinstance(weights, (str, os.PathLike))
    if is_path and tf.io.gfile.exists(weights):
        return None
    names = "".join(f"{name!r}, " for name in sorted(known))
    raise ValueError(
        "The `weights` argument should be either `None` (random "
        f"initialization), {names}or the path to the weights file to be "
        f"loaded. Received: weights={weights}, adder={adder}"
    )


def _validate_pretrained(
    images, image_shape, include_top, classes, weights, pretrained
):
    if include_top and classes != pretrained["classes"]:
        raise ValueError(
            f"If using `weights='{weights}'` with `include_top=True`, "
            f"`classes` should be {pretrained['classes']}. "
            f"Received: classes={classes}"
        )
    default_shape = images.default_shape()
    if include_top and not images.any_size and image_shape != default_shape:
        raise ValueError(
            "When setting `include_top=True` and loading "
            f"`weights='{weights}'`, `input_shape` should be {default_shape}. "
            f"Received: input_shape={image_shape}"
        )
    axis = 0 if keras.config.image_data_format() == "channels_first" else -1
    if image_shape[axis] != images.channels:
        raise ValueError(
            f"The input must have {images.channels} "
            f"channel{'s' if images.channels > 1 else ''} with "
            f"`weights='{weights}'`. Received: input_shape={image_shape}"
        )


def _copy_weights(donor, model):
    """Copies those of the layers that both have, by their names.

    A file of weights goes by the order of the layers, and so fits neither a
    model without the top nor one that begins before `input_tensor`.
    """
    names = {layer.name for layer in model.layers}
    for layer in donor.layers:
        if layer.name in names:
            model.get_layer(layer.name).set_weights(layer.get_weights())


def _standardize_classes(classes):
    if not _is_positive_integer(classes):
        raise ValueError(
            "The `classes` argument should be a positive integer. "
            f"Received: classes={classes!r}"
        )
    return int(classes)  # Such as NumPy's, of labels that were counted.


def _validate_preprocessing(images, image_shape):
    axis = 0 if keras.config.image_data_format() == "channels_first" else -1
    if image_shape[axis] != images.channels:
        raise ValueError(
            f"The input must have {images.channels} "
            f"channel{'s' if images.channels > 1 else ''} with "
            "`include_preprocessing=True`. "
            f"Received: input_shape={image_shape}"
        )


def _validate_activation(classifier_activation, weights):
    if weights is None:
        return
    activation = keras.activations.get(classifier_activation)
    if activation not in {
        keras.activations.softmax,
        keras.activations.linear,
    }:
        raise ValueError(
            "Only `None` and `softmax` activations are allowed "
            "for the `classifier_activation` argument when using "
            "pretrained weights, with `include_top=True`; Received: "
            f"classifier_activation={classifier_activation}"
        )


def _obtain_input_shape(images, input_shape, input_tensor, include_top):
    """Returns the shape of one image, as given or as default, validated."""
    if input_tensor is not None:
        input_shape = _shape_of_tensor(input_tensor, input_shape)
    elif input_shape is None:
        input_shape = images.default_shape(dynamic=not include_top)

    if not isinstance(input_shape, (tuple, list)) or len(input_shape) != 3:
        raise ValueError(
            "`input_shape` must be a tuple of three integers. "
            f"Received: input_shape={input_shape}"
        )
    input_shape = tuple(input_shape)
    if keras.config.image_data_format() == "channels_first":
        channels, *sizes = input_shape
    else:
        *sizes, channels = input_shape
    known = [channels] + [size for size in sizes if size is not None]
    if not all(map(_is_positive_integer, known)):
        raise ValueError(
            "`input_shape` must hold positive integers; a width or height, "
            "but not the number of channels, may be `None`. "
            f"Received: input_shape={input_shape}"
        )
    if min(known[1:], default=images.min_size) < images.min_size:
        raise ValueError(
            f"Input size must be at least {images.min_size}x{images.min_size}; "
            f"Received: input_shape={input_shape}"
        )
    if include_top and None in sizes and not images.any_size:
        raise ValueError(
            "If `include_top` is True, "
            "you should specify a static `input_shape`. "
            f"Received: input_shape={input_shape}"
        )
    return input_shape


def _shape_of_tensor(input_tensor, input_shape):
    if not isinstance(input_tensor, keras.KerasTensor):
        raise ValueError(
            "Argument `input_tensor` must be a KerasTensor. "
            f"Received invalid type: input_tensor={input_tensor} "
            f"(of type {type(input_tensor)})"
        )
    shape = tuple(input_tensor.shape[1:])
    if input_shape is not None and tuple(input_shape) != shape:
        raise ValueError(
            "When providing the `input_tensor` argument, you cannot provide "
            "an incompatible `input_shape` argument. Received: "
            f"input_shape={input_shape}, input_tensor.shape="
            f"{input_tensor.shape}"
        )
    return shape


def _is_positive_integer(value):
    whole = isinstance(value, numbers.Integral)
    return whole and not isinstance(value, bool) and value > 0
