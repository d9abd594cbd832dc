import functools
import math
import numbers

import keras

from keras_adder._typing import Activation
from keras_adder._typing import Shape
from keras_adder._typing import Tensor
from keras_adder.applications._blocks import channel_axis
from keras_adder.applications._model import ImageSpec
from keras_adder.applications._model import build_model
from keras_adder.applications._model import document_arguments
from keras_adder.layers import AdderConv2D
from keras_adder.layers import AdderDepthwiseConv2D

__all__ = ["MobileNetV2", "decode_predictions", "preprocess_input"]

# At the least size, which is Keras's too, the last stages have one position.
IMAGES = ImageSpec(
    size=224,
    channels=3,
    min_size=32,
    any_size=True,
    # Between -1 and 1, as `preprocess_input` does.
    mean=(0.5, 0.5, 0.5),
    standard_deviation=(0.5, 0.5, 0.5),
)

ALPHA = """\
    alpha: float, the width of the network. Every convolution has `alpha` times
        the filters of the paper, rounded to a multiple of 8; the last one has
        never fewer than 1280. Defaults to `1.0`.
"""

# The paper's table 2: expansion, filters, blocks, and the strides of the first
# of them.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


@document_arguments(IMAGES, ALPHA)
def MobileNetV2(
    input_shape: Shape | None = None,
    alpha: float = 1.0,
    include_top: bool = True,
    weights: str | None = None,
    input_tensor: Tensor = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Activation = "softmax",
    adder: bool = True,
    include_preprocessing: bool = False,
    name: str = "mobilenetv2",
) -> keras.Model:
    """Instantiates the MobileNetV2 architecture, as an AdderNet or as a CNN.

    A 3x3 convolution of 32 filters with stride 2; 17 inverted residual blocks,
    each a 1x1 convolution that expands, a depthwise 3x3 and a 1x1 that
    projects; a 1x1 convolution of 1280 filters; an average over all positions;
    and a dense layer to the classes. The first convolution and the dense layer
    are ordinary, those between are adder layers, also the depthwise ones. Only
    the dense layer has a bias. A batch normalization follows every
    convolution, and a ReLU up to 6 each of them but those that project.

    Reference:

    - [MobileNetV2: Inverted Residuals and Linear Bottlenecks](
        https://arxiv.org/abs/1801.04381) (CVPR 2018)
    - [AdderNet: Do We Really Need Multiplications in Deep Learning?](
        https://arxiv.org/abs/1912.13200) (CVPR 2020), which has no such
        network; its rules for the first and the last layer are followed

    The CNN twin is `keras.applications.MobileNetV2`, layer by layer, and takes
    its files of weights. Batch normalizations have `momentum=0.9` where
    Keras's have 0.999, which would be too slow for adder layers in training.

    The default input size for this model is 224x224: ImageNet. Images of
    32x32, as in CIFAR, are down to 2x2 positions from block 6 on, and to a
    single one from block 13 on. Call
    `keras_adder.applications.mobilenet_v2.preprocess_input` on the images
    before passing them to the model. Its CNN twin takes 300,774,272
    multiplications an image.

    {arguments}

    Example:

    >>> model = keras_adder.applications.MobileNetV2(
    ...     input_shape=(32, 32, 3), alpha=0.35, classes=10
    ... )
    >>> images = np.random.rand(4, 32, 32, 3)
    >>> model.predict(images, verbose=0).shape
    (4, 10)
    """
    _check_alpha(alpha)
    return build_model(
        "mobilenetv2",
        IMAGES,
        functools.partial(_backbone, alpha=alpha),
        _top,
        include_top=include_top,
        weights=weights,
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        adder=adder,
        include_preprocessing=include_preprocessing,
        name=name,
    )


def preprocess_input(x: Tensor, data_format: str | None = None) -> Tensor:
    """Preprocesses a tensor or NumPy array encoding a batch of images.

    The pixels are scaled between -1 and 1, as
    `keras.applications.mobilenet_v2.preprocess_input` does.

    Args:
        x: A floating point `numpy.array` or a tensor, 3D or 4D with 3 color
            channels, with values in the range [0, 255]. An array is written
            to if it holds floating-point numbers; to avoid this,
            `numpy.copy(x)` can be used.
        data_format: Optional data format of the image tensor/array, either
            `"channels_last"` or `"channels_first"`. Defaults to `None`, which
            means the global setting `keras.config.image_data_format()`.

    Returns:
        The preprocessed array or tensor.

    Raises:
        ValueError: In case of unknown `data_format` argument.
    """
    return keras.applications.mobilenet_v2.preprocess_input(
        x, data_format=data_format
    )


def decode_predictions(
    preds: Tensor, top: int = 5
) -> list[list[tuple[str, str, float]]]:
    """Decodes the prediction of an ImageNet model.

    It is `keras.applications.mobilenet_v2.decode_predictions`, which downloads
    the names of the classes when it is called for the first time.

    Args:
        preds: NumPy array encoding a batch of predictions.
        top: Integer, how many top-guesses to return. Defaults to `5`.

    Returns:
        A list of lists of top class prediction tuples
        `(class_name, class_description, score)`.
        One list of tuples per sample in batch input.

    Raises:
        ValueError: In case of invalid shape of the `preds` array
            (must be 2D, of 1000 classes).
    """
    return keras.applications.mobilenet_v2.decode_predictions(preds, top=top)


def _check_alpha(alpha):
    is_number = isinstance(alpha, numbers.Real)
    if not is_number or not 0 < alpha < math.inf:
        raise ValueError(
            "The `alpha` argument should be a positive number. "
            f"Received: alpha={alpha!r}"
        )


def _backbone(x, adder, alpha):
    x = keras.layers.Conv2D(
        _round_filters(32 * alpha),
        3,
        strides=2,
        padding="same",
        use_bias=False,
        name="Conv1",
    )(x)
    x = _normalize(x, "bn_Conv1", "Conv1_relu")
    names = ["expanded_conv", *(f"block_{i}" for i in range(1, 17))]
    for expansion, filters, blocks, strides in STAGES:
        # The fraction goes before filters are rounded, as in Keras.
        filters = _round_filters(int(filters * alpha))
        for i in range(blocks):
            x = _inverted_residual_block(
                x,
                expansion,
                filters,
                adder,
                strides if i == 0 else 1,
                names.pop(0),
            )
    x = _pointwise(x, _round_filters(1280 * max(alpha, 1)), adder, "Conv_1")
    return _normalize(x, "Conv_1_bn", "out_relu")


def _top(x, classes, adder, activation):
    x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    return keras.layers.Dense(
        classes, activation=activation, name="predictions"
    )(x)


def _inverted_residual_block(x, expansion, filters, adder, strides, name):
    shortcut = x
    channels = x.shape[channel_axis()]
    if expansion > 1:
        x = _pointwise(x, expansion * channels, adder, f"{name}_expand")
        x = _normalize(x, f"{name}_expand_BN", f"{name}_expand_relu")
    if strides > 1:
        x = _pad(x, f"{name}_pad")
    depthwise = AdderDepthwiseConv2D if adder else keras.layers.DepthwiseConv2D
    x = depthwise(
        3,
        strides=strides,
        padding="valid" if strides > 1 else "same",
        use_bias=False,
        name=f"{name}_depthwise",
    )(x)
    x = _normalize(x, f"{name}_depthwise_BN", f"{name}_depthwise_relu")
    x = _pointwise(x, filters, adder, f"{name}_project")
    x = _normalize(x, f"{name}_project_BN")
    if strides > 1 or channels != filters:
        return x
    return keras.layers.Add(name=f"{name}_add")([shortcut, x])


def _pointwise(x, filters, adder, name):
    convolution = AdderConv2D if adder else keras.layers.Conv2D
    return convolution(filters, 1, use_bias=False, name=name)(x)


def _normalize(x, name, relu=None):
    x = keras.layers.BatchNormalization(
        axis=channel_axis(), momentum=0.9, epsilon=1e-3, name=name
    )(x)
    return x if relu is None else keras.layers.ReLU(6.0, name=relu)(x)


def _pad(x, name):
    """The zeros of "same"; a size that is not known counts as even."""
    sizes = x.shape[2:] if channel_axis() == 1 else x.shape[1:3]
    padding = tuple(((size or 0) % 2, 1) for size in sizes)
    return keras.layers.ZeroPadding2D(padding, name=name)(x)


def _round_filters(filters):
    """The multiple of 8 next to `filters`, and not less by more than 10 %."""
    rounded = max(8, int(filters + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * filters else rounded
