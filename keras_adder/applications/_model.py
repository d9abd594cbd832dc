"""What all builders share: their arguments, checked and documented once."""

import inspect
from typing import NamedTuple

import keras
import tensorflow as tf

ARGUMENTS = """\
Args:
    include_top: whether to include the classifier
        at the top of the network.
    weights: one of `None` (random initialization),
        or the path to the weights file to be loaded.
        No pretrained weights are shipped yet.
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
    """

    size: int
    channels: int
    min_size: int
    any_size: bool

    def default_shape(self, dynamic=False):
        size = None if dynamic else self.size
        if keras.config.image_data_format() == "channels_first":
            return (self.channels, size, size)
        return (size, size, self.channels)


def document_arguments(images):
    """Puts the documentation of the arguments in place of `{arguments}`.

    Args:
        images: `ImageSpec` of the model that the decorated function builds.

    Returns:
        The decorator of a builder.
    """

    def decorate(builder):
        if builder.__doc__ is None:  # python -OO
            return builder
        size, channels = images.size, images.channels
        arguments = ARGUMENTS.format(
            last=(size, size, channels),
            first=(channels, size, size),
            min_size=images.min_size,
            any_size="they may be `None`."
            if images.any_size
            else "they may be `None` if `include_top` is `False`.",
            classes=inspect.signature(builder).parameters["classes"].default,
        )
        doc = inspect.cleandoc(builder.__doc__)
        builder.__doc__ = doc.replace("{arguments}", arguments)
        return builder

    return decorate


def build_model(
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
    name,
):
    """Builds a model of a family from the arguments of its builder.

    Args:
        images: `ImageSpec`, the images that the family takes.
        backbone: function of the images and `adder` that returns the features,
            a 4D tensor.
        top: function of the features, `classes` and `adder` that returns the
            logits, a 2D tensor.

    The others are those of the builders.

    Returns:
        A `Model` instance.
    """
    _validate_weights(weights)
    if include_top:
        _validate_classes(classes)
        _validate_activation(classifier_activation, weights)
    elif pooling not in (None, "avg", "max"):
        raise ValueError(
            "The `pooling` argument should be one of `None`, 'avg' or 'max'. "
            f"Received: pooling={pooling}"
        )
    image_shape = _obtain_input_shape(
        images, input_shape, input_tensor, include_top
    )

    if input_tensor is None:
        image = keras.Input(shape=image_shape)
        inputs = image
    else:
        image = input_tensor
        # Ensure that the model takes into account
        # any potential predecessors of `input_tensor`.
        inputs = keras.utils.get_source_inputs(input_tensor)
        # A model of one input takes a tensor, not a list of one.
        inputs = inputs[0] if len(inputs) == 1 else inputs

    x = backbone(image, adder)
    if include_top:
        x = top(x, classes, adder)
        x = keras.layers.Activation(classifier_activation, name="predictions")(
            x
        )
    elif pooling == "avg":
        x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    elif pooling == "max":
        x = keras.layers.GlobalMaxPooling2D(name="max_pool")(x)

    model = keras.Model(inputs, x, name=name)
    if weights is not None:
        model.load_weights(weights)
    return model


def _validate_weights(weights):
    if weights is None or tf.io.gfile.exists(weights):
        return
    raise ValueError(
        "The `weights` argument should be either `None` (random "
        "initialization) or the path to the weights file to be loaded; no "
        f"pretrained weights are known by name yet. Received: weights={weights}"
    )


def _validate_classes(classes):
    if not _is_positive_integer(classes):
        raise ValueError(
            "The `classes` argument should be a positive integer. "
            f"Received: classes={classes}"
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
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
