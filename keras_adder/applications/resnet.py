import functools

import keras

from keras_adder._typing import Activation
from keras_adder._typing import Shape
from keras_adder._typing import Tensor
from keras_adder.applications._blocks import basic_block
from keras_adder.applications._blocks import bottleneck_block
from keras_adder.applications._blocks import conv_block
from keras_adder.applications._blocks import residual_stack
from keras_adder.applications._blocks import residual_top
from keras_adder.applications._model import ImageSpec
from keras_adder.applications._model import build_model
from keras_adder.applications._model import document_arguments

__all__ = [
    "ResNet18",
    "ResNet34",
    "ResNet50",
    "ResNet101",
    "decode_predictions",
    "preprocess_input",
]

# At the least size, which is Keras's too, the last stage has one position.
IMAGES = ImageSpec(
    size=224,
    channels=3,
    min_size=32,
    any_size=True,
    # Those of PyTorch, and of `preprocess_input`.
    mean=(0.485, 0.456, 0.406),
    standard_deviation=(0.229, 0.224, 0.225),
)


@document_arguments(IMAGES)
def ResNet18(
    include_top: bool = True,
    weights: str | None = None,
    input_tensor: Tensor = None,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Activation = "softmax",
    adder: bool = True,
    include_preprocessing: bool = False,
    name: str = "resnet18",
) -> keras.Model:
    """Instantiates the ResNet-18 architecture, as an AdderNet or as a CNN.

    A 7x7 convolution of 64 filters with stride 2 and a 3x3 pooling; four
    stages of 2 residual blocks, 64, 128, 256 and 512 wide, each block two 3x3
    convolutions; an average over all positions; and a 1x1 convolution to the
    classes, followed by a batch normalization like all others. The first and
    the last convolution are ordinary, those between are adder layers, also the
    1x1 ones on the shortcuts where the shape changes. Only the last has a
    bias, as in the authors' code.

    Reference:

    - [AdderNet: Do We Really Need Multiplications in Deep Learning?](
        https://arxiv.org/abs/1912.13200) (CVPR 2020), section 4.3
    - [Deep Residual Learning for Image Recognition](
        https://arxiv.org/abs/1512.03385) (CVPR 2016)

    The default input size for this model is 224x224: ImageNet. Call
    `keras_adder.applications.resnet.preprocess_input` on the images before
    passing them to the model. Its CNN twin takes 1,814,073,344 multiplications
    an image.

    {arguments}

    Example:

    >>> model = keras_adder.applications.ResNet18(
    ...     include_top=False, pooling="avg"
    ... )
    >>> images = np.random.rand(1, 64, 64, 3)
    >>> model.predict(images, verbose=0).shape
    (1, 512)
    """
    return build_model(
        "resnet18",
        IMAGES,
        functools.partial(_backbone, block=basic_block, blocks=(2, 2, 2, 2)),
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


@document_arguments(IMAGES)
def ResNet34(
    include_top: bool = True,
    weights: str | None = None,
    input_tensor: Tensor = None,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Activation = "softmax",
    adder: bool = True,
    include_preprocessing: bool = False,
    name: str = "resnet34",
) -> keras.Model:
    """Instantiates the ResNet-34 architecture, as an AdderNet or as a CNN.

    It is `keras_adder.applications.ResNet18` with stages of 3, 4, 6 and 3
    residual blocks, and the references are the same. Its CNN twin takes
    3,663,761,408 multiplications an image of the default size, 224x224.

    {arguments}

    Example:

    >>> model = keras_adder.applications.ResNet34(
    ...     include_top=False, pooling="avg"
    ... )
    >>> images = np.random.rand(1, 64, 64, 3)
    >>> model.predict(images, verbose=0).shape
    (1, 512)
    """
    return build_model(
        "resnet34",
        IMAGES,
        functools.partial(_backbone, block=basic_block, blocks=(3, 4, 6, 3)),
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


@document_arguments(IMAGES)
def ResNet50(
    include_top: bool = True,
    weights: str | None = None,
    input_tensor: Tensor = None,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Activation = "softmax",
    adder: bool = True,
    include_preprocessing: bool = False,
    name: str = "resnet50",
) -> keras.Model:
    """Instantiates the ResNet-50 architecture, as an AdderNet or as a CNN.

    A 7x7 convolution of 64 filters with stride 2 and a 3x3 pooling; four
    stages of 3, 4, 6 and 3 bottleneck blocks; an average over all positions;
    and a 1x1 convolution to the classes, followed by a batch normalization
    like all others. The first and the last convolution are ordinary, those
    between are adder layers, also the 1x1 ones on the shortcuts where the
    shape changes.

    Reference:

    - [AdderNet: Do We Really Need Multiplications in Deep Learning?](
        https://arxiv.org/abs/1912.13200) (CVPR 2020), section 4.3
    - [Deep Residual Learning for Image Recognition](
        https://arxiv.org/abs/1512.03385) (CVPR 2016)

    It is the model of the authors' PyTorch code, and differs from
    `keras.applications.ResNet50`, whose layers of the same names have kernels
    of the same shapes, in this:

    - The first block of a stage has its stride in the 3x3 convolution, not in
      the first 1x1 one ("v1.5", as in torchvision), and pads it by a layer of
      its own, e.g. `conv3_block1_2_pad`. That is why the CNN twin takes
      4,089,184,256 multiplications an image of the default size, not the 3.9
      billion of the first version.
    - Convolutions have no biases, except for the last one.
    - The classifier, `fc_conv`, is a 1x1 convolution, and the batch
      normalization `fc_bn` follows it.
    - Batch normalizations have `momentum=0.9` and `epsilon=1e-5`.

    Call `keras_adder.applications.resnet.preprocess_input` on the images
    before passing them to the model. It is not the preprocessing of
    `keras.applications.resnet`.

    {arguments}

    Example:

    >>> model = keras_adder.applications.ResNet50(
    ...     include_top=False, pooling="avg"
    ... )
    >>> images = np.random.rand(1, 64, 64, 3)
    >>> model.predict(images, verbose=0).shape
    (1, 2048)
    """
    return build_model(
        "resnet50",
        IMAGES,
        functools.partial(
            _backbone, block=bottleneck_block, blocks=(3, 4, 6, 3)
        ),
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


@document_arguments(IMAGES)
def ResNet101(
    include_top: bool = True,
    weights: str | None = None,
    input_tensor: Tensor = None,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Activation = "softmax",
    adder: bool = True,
    include_preprocessing: bool = False,
    name: str = "resnet101",
) -> keras.Model:
    """Instantiates the ResNet-101 architecture, as an AdderNet or as a CNN.

    It is `keras_adder.applications.ResNet50` with 23 blocks instead of 6 in
    the third stage, and the references and the differences from Keras's are
    the same. Its CNN twin takes 7,801,405,440 multiplications an image of the
    default size, 224x224.

    {arguments}

    Example:

    >>> model = keras_adder.applications.ResNet101(
    ...     include_top=False, pooling="avg"
    ... )
    >>> images = np.random.rand(1, 64, 64, 3)
    >>> model.predict(images, verbose=0).shape
    (1, 2048)
    """
    return build_model(
        "resnet101",
        IMAGES,
        functools.partial(
            _backbone, block=bottleneck_block, blocks=(3, 4, 23, 3)
        ),
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

    The pixels are scaled between 0 and 1, and each channel is normalized with
    respect to the ImageNet dataset: the mode `"torch"` of
    `keras.applications.imagenet_utils.preprocess_input`, since the models are
    those of PyTorch. (`keras.applications.resnet` has the mode `"caffe"`.)

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
    return keras.applications.imagenet_utils.preprocess_input(
        x, data_format=data_format, mode="torch"
    )


def decode_predictions(
    preds: Tensor, top: int = 5
) -> list[list[tuple[str, str, float]]]:
    """Decodes the prediction of an ImageNet model.

    It is `keras.applications.imagenet_utils.decode_predictions`, which
    downloads the names of the classes when it is called for the first time.

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
    return keras.applications.imagenet_utils.decode_predictions(preds, top=top)


def _backbone(x, adder, block, blocks):
    stack = functools.partial(residual_stack, block=block, adder=adder)
    x = conv_block(x, 64, 7, adder=False, strides=2, name="conv1")
    # Zeros do, as after a ReLU nothing is less.
    x = keras.layers.ZeroPadding2D(1, name="pool1_pad")(x)
    x = keras.layers.MaxPooling2D(3, strides=2, name="pool1_pool")(x)
    x = stack(
        x,
        filters=64,
        blocks=blocks[0],
        strides=1,
        conv_shortcut=block is bottleneck_block,
        name="conv2",
    )
    x = stack(x, filters=128, blocks=blocks[1], strides=2, name="conv3")
    x = stack(x, filters=256, blocks=blocks[2], strides=2, name="conv4")
    return stack(x, filters=512, blocks=blocks[3], strides=2, name="conv5")


def _top(x, classes, adder, activation):
    # The bias is the authors', though the batch normalization makes it idle.
    return residual_top(x, classes, activation, use_bias=True)
