"""What the modules' `preprocess_input` functions share."""

import keras
import numpy as np


def normalize_pixels(x, mean, standard_deviation, data_format=None):
    """Normalizes the pixels of images, channel by channel.

    Args:
        x: `numpy.array` or tensor, 3D or 4D, with values in the range
            [0, 255]. It is not written to.
        mean: tuple of floats, one for each channel, in units of 255.
        standard_deviation: tuple of floats, likewise.
        data_format: `"channels_last"`, `"channels_first"`, or `None` for the
            global setting.

    Returns:
        The normalized array or tensor, of the type of `x` if that is a
        floating-point one, else of type `keras.config.floatx()`.

    Raises:
        ValueError: In case of unknown `data_format` argument, or if `x` has
            not one channel for each mean.
    """
    if data_format is None:
        data_format = keras.config.image_data_format()
    if data_format not in ("channels_first", "channels_last"):
        raise ValueError(
            "Expected data_format to be one of `channels_first` or "
            f"`channels_last`. Received: data_format={data_format}"
        )
    channels_first = data_format == "channels_first"
    channels = len(mean)
    rank = len(x.shape)
    if rank not in (3, 4) or x.shape[-3 if channels_first else -1] != channels:
        raise ValueError(
            "The `x` argument should be 3D or 4D and have "
            f"{channels} channel{'s' if channels > 1 else ''}. "
            f"Received: x.shape={x.shape}, data_format={data_format}"
        )
    shape = (channels, 1, 1) if channels_first else (channels,)
    mean = 255 * np.reshape(mean, shape)
    deviation = 255 * np.reshape(standard_deviation, shape)

    dtype = keras.backend.standardize_dtype(x.dtype)
    if not keras.backend.is_float_dtype(dtype):
        dtype = keras.config.floatx()
    if isinstance(x, np.ndarray):
        x = x.astype(dtype)
        return (x - mean.astype(dtype)) / deviation.astype(dtype)
    x = keras.ops.cast(x, dtype)
    mean = keras.ops.convert_to_tensor(mean, dtype)
    return (x - mean) / keras.ops.convert_to_tensor(deviation, dtype)
