import functools

import keras

from keras_adder._typing import Activation
from keras_adder._typing import Shape
from keras_adder._typing import Tensor
from keras_adder.applications._blocks import basic_block
from keras_adder.applications._blocks import conv_block
from keras_adder.applications._blocks import residual_stack
from keras_adder.applications._blocks import residual_top
from keras_adder.applications._cifar import cifar_images
from keras_adder.applications._cifar import preprocess_input
from keras_adder.applications._model import build_model
from keras_adder.applications._model import document_arguments

__all__ = ["ResNet20", "ResNet32", "preprocess_input"]

# At the least size, the last stage has one position.
IMAGES = cifar_images(min_size=4, any_size=True)


@document_arguments(IMAGES)
def ResNet20(
    include_top: bool = True,
    weights: str | None = None,
    input_tensor: Tensor = None,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = 10,
    classifier_activation: Activation = "softmax",
    adder: bool = True,
    include_preprocessing: bool = False,
    name: str = "resnet20",
) -> keras.Model:
    """Instantiates the ResNet-20 architecture, as an AdderNet or as a CNN.

    A 3x3 convolution of 16 filters; three stages of 3 residual blocks, 16, 32
    and 64 wide, each block two 3x3 convolutions; an average over all
    positions; and a 1x1 convolution to the classes, followed by a batch
    normalization like all others. The first and the last convolution are
    ordinary, those between are adder layers, also the 1x1 ones on the
    shortcuts where the shape changes; none has a bias.

    Reference:

    - [AdderNet: Do We Really Need Multiplications in Deep Learning?](
        https://arxiv.org/abs/1912.13200) (CVPR 2020), section 4.2
    - [Deep Residual Learning for Image Recognition](
        https://arxiv.org/abs/1512.03385) (CVPR 2016), section 4.2; there the
        shortcuts have no weights, here they are those of the AdderNet authors

    The default input size for this model is 32x32: CIFAR. Call
    `keras_adder.applications.resnet_cifar.preprocess_input` on the images
    before passing them to the model. Its CNN twin takes 40,813,184
    multiplications an image.

    {arguments}

    Example:

    With the weights that come with the package, on pixels in the range
    [0, 255]:

    >>> model = keras_adder.applications.ResNet20(weights="cifar10")
    >>> images = np.random.randint(0, 256, (4, 32, 32, 3), "uint8")
    >>> x = keras_adder.applications.resnet_cifar.preprocess_input(images)
    >>> model.predict(x, verbose=0).shape
    (4, 10)
    """
    return build_model(
        "resnet20",
        IMAGES,
        functools.partial(_backbone, blocks=3),
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
def ResNet32(
    include_top: bool = True,
    weights: str | None = None,
    input_tensor: Tensor = None,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = 10,
    classifier_activation: Activation = "softmax",
    adder: bool = True,
    include_preprocessing: bool = False,
    name: str = "resnet32",
) -> keras.Model:
    """Instantiates the ResNet-32 architecture, as an AdderNet or as a CNN.

    It is `keras_adder.applications.ResNet20` with 5 residual blocks a stage
    instead of 3, and the references are the same. Its CNN twin takes
    69,124,736 multiplications an image of the default size, 32x32.

    {arguments}

    Example:

    >>> model = keras_adder.applications.ResNet32(classes=100)
    >>> images = np.random.rand(4, 32, 32, 3)
    >>> model.predict(images, verbose=0).shape
    (4, 100)
    """
    return build_model(
        "resnet32",
        IMAGES,
        functools.partial(_backbone, blocks=5),
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


def _backbone(x, adder, blocks):
    stack = functools.partial(
        residual_stack, block=basic_block, blocks=blocks, adder=adder
    )
    x = conv_block(x, 16, 3, adder=False, name="conv1")
    x = stack(x, filters=16, strides=1, conv_shortcut=False, name="conv2")
    x = stack(x, filters=32, strides=2, name="conv3")
    return stack(x, filters=64, strides=2, name="conv4")


def _top(x, classes, adder, activation):
    return residual_top(x, classes, activation, use_bias=False)
