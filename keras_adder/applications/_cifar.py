"""What the models for CIFAR share."""

import keras
import numpy as np

from keras_adder.applications._model import ImageSpec

# Of the red, green and blue pixels of the training images, in units of 255.
MEAN = (0.4914, 0.4822, 0.4465)
STANDARD_DEVIATION = (0.2023, 0.1994, 0.2010)


def cifar_images(min_size, any_size):
    return ImageSpec(size=32, channels=3, min_size=min_size, any_size=any_size)


def preprocess_input(x, data_format=None):
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
    if data_format is None:
        data_format = keras.config.image_data_format()
    if data_format not in ("channels_first", "channels_last"):
        raise ValueError(
            "Expected data_format to be one of `channels_first` or "
            f"`channels_last`. Received: data_format={data_format}"
        )
    channels_first = data_format == "channels_first"
    rank = len(x.shape)
    if rank not in (3, 4) or x.shape[-3 if channels_first else -1] != 3:
        raise ValueError(
            "The `x` argument should be 3D or 4D and have 3 channels. "
            f"Received: x.shape={x.shape}, data_format={data_format}"
        )
    shape = (3, 1, 1) if channels_first else (3,)
    mean = 255 * np.reshape(MEAN, shape)
    deviation = 255 * np.reshape(STANDARD_DEVIATION, shape)

    dtype = keras.backend.standardize_dtype(x.dtype)
    if not keras.backend.is_float_dtype(dtype):
        dtype = keras.config.floatx()
    if isinstance(x, np.ndarray):
        x = x.astype(dtype)
        return (x - mean.astype(dtype)) / deviation.astype(dtype)
    x = keras.ops.cast(x, dtype)
    mean = keras.ops.convert_to_tensor(mean, dtype)
    return (x - mean) / keras.ops.convert_to_tensor(deviation, dtype)
