import keras

from keras_adder._typing import Activation
from keras_adder._typing import Shape
from keras_adder._typing import Tensor
from keras_adder.applications._blocks import dense_block
from keras_adder.applications._blocks import plain_stack
from keras_adder.applications._blocks import predictions
from keras_adder.applications._cifar import cifar_images
from keras_adder.applications._cifar import preprocess_input
from keras_adder.applications._model import build_model
from keras_adder.applications._model import document_arguments

__all__ = ["VGGSmall", "preprocess_input"]

# Below the least size, the last block has nothing left to pool.
IMAGES = cifar_images(min_size=8, any_size=False)


@document_arguments(IMAGES)
def VGGSmall(
    include_top: bool = True,
    weights: str | None = None,
    input_tensor: Tensor = None,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = 10,
    classifier_activation: Activation = "softmax",
    adder: bool = True,
    include_preprocessing: bool = False,
    name: str = "vgg_small",
) -> keras.Model:
    """Instantiates the VGG-small architecture, as an AdderNet or as a CNN.

    Three pairs of 3x3 convolutions of 128, 256 and 512 filters, each with
    batch normalization and ReLU, each pair followed by a pooling; and one
    dense layer on their 8192 features, followed by a batch normalization. The
    first convolution and the dense layer are ordinary, those between are adder
    layers; none has a bias.

    Reference:

    - [AdderNet: Do We Really Need Multiplications in Deep Learning?](
        https://arxiv.org/abs/1912.13200) (CVPR 2020), section 4.2
    - [Deep Learning with Low Precision by Half-wave Gaussian Quantization](
        https://arxiv.org/abs/1702.00953) (CVPR 2017)

    The default input size for this model is 32x32: CIFAR. Call
    `keras_adder.applications.vgg_small.preprocess_input` on the images before
    passing them to the model. Its CNN twin takes 607,600,640 multiplications
    an image.

    {arguments}

    Example:

    >>> model = keras_adder.applications.VGGSmall(classes=100)
    >>> images = np.random.rand(4, 32, 32, 3)
    >>> model.predict(images, verbose=0).shape
    (4, 100)
    """
    return build_model(
        "vgg_small",
        IMAGES,
        _backbone,
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


def _backbone(x, adder):
    x = plain_stack(x, 128, 3, adder, first_adder=False, name="block1")
    x = plain_stack(x, 256, 3, adder, first_adder=adder, name="block2")
    return plain_stack(x, 512, 3, adder, first_adder=adder, name="block3")


def _top(x, classes, adder, activation):
    x = keras.layers.Flatten(name="flatten")(x)
    x = dense_block(x, classes, adder=False, activation=None, name="fc")
    return predictions(x, activation)
