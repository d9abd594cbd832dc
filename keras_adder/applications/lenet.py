import keras

from keras_adder._typing import Activation
from keras_adder._typing import Shape
from keras_adder._typing import Tensor
from keras_adder.applications._blocks import conv_block
from keras_adder.applications._blocks import dense_block
from keras_adder.applications._blocks import plain_stack
from keras_adder.applications._blocks import predictions
from keras_adder.applications._model import ImageSpec
from keras_adder.applications._model import build_model
from keras_adder.applications._model import document_arguments
from keras_adder.applications._preprocessing import normalize_pixels

__all__ = ["LeNet5", "LeNetPlusPlus", "preprocess_input"]

# Of the pixels of MNIST's training images, in units of 255.
MEAN = (0.1307,)
STANDARD_DEVIATION = (0.3081,)

# Below the least sizes, the last block has nothing left to pool.
LENET5_IMAGES = ImageSpec(
    size=32,
    channels=1,
    min_size=16,
    any_size=False,
    mean=MEAN,
    standard_deviation=STANDARD_DEVIATION,
)
LENET_PLUS_PLUS_IMAGES = LENET5_IMAGES._replace(size=28, min_size=8)


@document_arguments(LENET5_IMAGES)
def LeNet5(
    include_top: bool = True,
    weights: str | None = None,
    input_tensor: Tensor = None,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = 10,
    classifier_activation: Activation = "softmax",
    adder: bool = True,
    include_preprocessing: bool = False,
    name: str = "lenet5",
) -> keras.Model:
    """Instantiates the LeNet-5-BN architecture, as an AdderNet or as a CNN.

    Two 5x5 convolutions of 6 and 16 filters and three dense layers of 120, 84
    and 10 units, each followed by a batch normalization. Every one of the five
    is an adder layer, the first and the last too; none has a bias.

    Reference:

    - [AdderNet: Do We Really Need Multiplications in Deep Learning?](
        https://arxiv.org/abs/1912.13200) (CVPR 2020), section 4.1
    - [Gradient-based learning applied to document recognition](
        https://doi.org/10.1109/5.726791) (Proceedings of the IEEE, 1998)

    The default input size for this model is 32x32, one channel: MNIST,
    resized. Call `keras_adder.applications.lenet.preprocess_input` on the
    images before passing them to the model. Its CNN twin takes 416,520
    multiplications an image, the AdderNet as many additions more, and
    multiplications in the batch normalizations and the softmax alone.

    {arguments}

    Example:

    With the weights that come with the package, on pixels in the range
    [0, 255] (those in the range [0, 1] would give 57 % of MNIST):

    >>> model = keras_adder.applications.LeNet5(weights="mnist")
    >>> digits = np.zeros((4, 28, 28, 1), "uint8")  # or MNIST's
    >>> x = keras.ops.image.resize(digits, (32, 32))
    >>> x = keras_adder.applications.lenet.preprocess_input(x)
    >>> model.predict(x, verbose=0).argmax(-1).shape
    (4,)

    To train:

    >>> model = keras_adder.applications.LeNet5(include_preprocessing=True)
    >>> model.compile(
    ...     keras_adder.ALR(0.1, nesterov=True),
    ...     "sparse_categorical_crossentropy",
    ...     metrics=["accuracy"],
    ... )
    >>> images = np.random.randint(0, 256, (4, 32, 32, 1))
    >>> model.predict(images, verbose=0).shape
    (4, 10)
    """
    return build_model(
        "lenet5",
        LENET5_IMAGES,
        _lenet5_backbone,
        _lenet5_top,
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


@document_arguments(LENET_PLUS_PLUS_IMAGES)
def LeNetPlusPlus(
    include_top: bool = True,
    weights: str | None = None,
    input_tensor: Tensor = None,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = 10,
    classifier_activation: Activation = "softmax",
    adder: bool = True,
    include_preprocessing: bool = False,
    name: str = "lenet_plus_plus",
) -> keras.Model:
    """Instantiates the LeNet++ architecture, as an AdderNet or as a CNN.

    Three pairs of 5x5 convolutions of 32, 64 and 128 filters, each pair
    followed by a pooling; a dense layer of 2 units, whose outputs one can draw
    (the layer `feature_bn`: a CNN's classes separate by angle, an AdderNet's
    gather around centers); and a dense layer of 10 units. Each of the eight is
    followed by a batch normalization, and all but the last two by a ReLU.
    Every one is an adder layer, the first and the last too, as in LeNet-5;
    none has a bias.

    Reference:

    - [AdderNet: Do We Really Need Multiplications in Deep Learning?](
        https://arxiv.org/abs/1912.13200) (CVPR 2020), figure 1
    - [A Discriminative Feature Learning Approach for Deep Face Recognition](
        https://doi.org/10.1007/978-3-319-46478-7_31) (ECCV 2016), whose PReLU
        is a ReLU here

    The default input size for this model is 28x28, one channel: MNIST. Call
    `keras_adder.applications.lenet.preprocess_input` on the images before
    passing them to the model. Its CNN twin takes 80,911,124 multiplications an
    image.

    {arguments}

    Example:

    >>> model = keras_adder.applications.LeNetPlusPlus()
    >>> features = keras.Model(
    ...     model.input, model.get_layer("feature_bn").output
    ... )
    >>> images = np.random.rand(4, 28, 28, 1)
    >>> features.predict(images, verbose=0).shape
    (4, 2)
    """
    return build_model(
        "lenet_plus_plus",
        LENET_PLUS_PLUS_IMAGES,
        _lenet_plus_plus_backbone,
        _lenet_plus_plus_top,
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

    The pixels are scaled between 0 and 1 and normalized with respect to MNIST.
    The size of the images stays: `LeNet5` takes MNIST's resized to 32x32, for
    example by `keras.ops.image.resize(images, (32, 32))`, before or after.

    Args:
        x: `numpy.array` or tensor, 3D or 4D with 1 channel, with values in the
            range [0, 255], white on black. It is not written to.
        data_format: Optional data format of the image tensor/array, either
            `"channels_last"` or `"channels_first"`. Defaults to `None`, which
            means the global setting `keras.config.image_data_format()`.

    Returns:
        The preprocessed array or tensor, of the type of `x` if that is a
        floating-point one, else of type `keras.config.floatx()`.

    Raises:
        ValueError: In case of unknown `data_format` argument, or if there is
            not 1 channel.
    """
    return normalize_pixels(x, MEAN, STANDARD_DEVIATION, data_format)


def _lenet5_backbone(x, adder):
    x = conv_block(x, 6, 5, adder, padding="valid", name="conv1")
    x = keras.layers.MaxPooling2D(2, name="conv1_pool")(x)
    x = conv_block(x, 16, 5, adder, padding="valid", name="conv2")
    return keras.layers.MaxPooling2D(2, name="conv2_pool")(x)


def _lenet5_top(x, classes, adder, activation):
    x = keras.layers.Flatten(name="flatten")(x)
    x = dense_block(x, 120, adder, name="fc1")
    x = dense_block(x, 84, adder, name="fc2")
    x = dense_block(x, classes, adder, activation=None, name="fc3")
    return predictions(x, activation)


def _lenet_plus_plus_backbone(x, adder):
    x = plain_stack(x, 32, 5, adder, first_adder=adder, name="block1")
    x = plain_stack(x, 64, 5, adder, first_adder=adder, name="block2")
    return plain_stack(x, 128, 5, adder, first_adder=adder, name="block3")


def _lenet_plus_plus_top(x, classes, adder, activation):
    x = keras.layers.Flatten(name="flatten")(x)
    x = dense_block(x, 2, adder, activation=None, name="feature")
    x = dense_block(x, classes, adder, activation=None, name="fc")
    return predictions(x, activation)
