"""What the models for CIFAR share."""

from keras_adder._typing import Tensor
from keras_adder.applications._model import ImageSpec
from keras_adder.applications._preprocessing import normalize_pixels

# Of the red, green and blue pixels of the training images, in units of 255.
MEAN = (0.4914, 0.4822, 0.4465)
STANDARD_DEVIATION = (0.2023, 0.1994, 0.2010)


def cifar_images(min_size, any_size):
    return ImageSpec(
        size=32,
        channels=3,
        min_size=min_size,
        any_size=any_size,
        mean=MEAN,
        standard_deviation=STANDARD_DEVIATION,
    )


def preprocess_input(x: Tensor, data_format: str | None = None) -> Tensor:
    """Preprocesses a tensor or NumPy array encoding a batch of images.

    The pixels are scaled between 0 and 1, and each channel is normalized with
    respect to CIFAR-10, as the authors do for CIFAR-100 too.

    Args:
        x: `numpy.array` or tensor, 3D or 4D with 3 color channels, with values
            in the range [0, 255]. It is not written to.
        data_format: Optional data format of the image tensor/array, either
            `"channels_last"` or `"channels_first"`. Defaults to `None`, which
            means the global setting `keras.config.image_data_format()`.

    Returns:
        The preprocessed array or tensor, of the type of `x` if that is a
        floating-point one, else of type `keras.config.floatx()`.

    Raises:
        ValueError: In case of unknown `data_format` argument, or if there are
            not 3 channels.

    Example:

    >>> images = np.random.randint(0, 256, (4, 32, 32, 3), "uint8")
    >>> model = keras_adder.applications.ResNet20()
    >>> x = keras_adder.applications.resnet_cifar.preprocess_input(images)
    >>> model.predict(x, verbose=0).shape
    (4, 10)
    """
    return normalize_pixels(x, MEAN, STANDARD_DEVIATION, data_format)
