"""Random changes of training images, and the crops that test images get."""

import tensorflow as tf


def crop_and_flip(images, seed, padding=4):
    """Crops images to their own size after padding, and flips half of them.

    The border is black, as in the authors' code, which pads before it
    normalises.

    Args:
        images: Tensor of shape `(batch, height, width, channels)`.
        seed: Integer tensor of shape `(2,)`. Equal seeds make equal crops.
        padding: Integer, rows and columns of border on each side.

    Returns:
        Tensor of the shape and type of `images`.
    """
    batch = tf.shape(images)[0]
    height, width = images.shape[1:3]
    for_top, for_left, for_flip = tf.unstack(tf.random.split(seed, 3))
    offsets = {"minval": 0, "maxval": 2 * padding + 1, "dtype": tf.int32}
    top = tf.random.stateless_uniform([batch, 1], for_top, **offsets)
    left = tf.random.stateless_uniform([batch, 1], for_left, **offsets)
    flip = tf.random.stateless_uniform([batch, 1], for_flip) < 0.5

    border = [padding, padding]
    padded = tf.pad(images, [[0, 0], border, border, [0, 0]])
    columns = tf.range(width)
    columns = tf.where(flip, columns[::-1], columns) + left
    rows = tf.range(height) + top
    cropped = tf.gather(padded, rows, axis=1, batch_dims=1)
    return tf.gather(cropped, columns, axis=2, batch_dims=1)


def random_resized_crop(encoded, seed, size):
    """Decodes a random part of an image to a square, flipped or not.

    The part has from 8 % to 100 % of the area, and from 3/4 to 4/3 of the
    width for its height.

    Args:
        encoded: String tensor, an encoded image.
        seed: Integer tensor of shape `(2,)`.
        size: Integer, width and height of the result.

    Returns:
        Float32 tensor of shape `(size, size, 3)`, in [0, 255].
    """
    for_box, for_flip = tf.unstack(tf.random.split(seed, 2))

    def choose(shape):
        start, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
            shape,
            tf.zeros([1, 0, 4]),
            for_box,
            min_object_covered=0.0,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.08, 1.0),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        return start[:2], extent[:2]

    image = _decode_part(encoded, choose)
    image = tf.image.resize(image, (size, size), antialias=True)
    return tf.image.stateless_random_flip_left_right(image, for_flip)


def central_crop(encoded, size):
    """Decodes the centre of an image to a square.

    It is the part that a square of 224 pixels has of the image when its
    shorter side has 256, as is usual for ImageNet.

    Args:
        encoded: String tensor, an encoded image.
        size: Integer, width and height of the result.

    Returns:
        Float32 tensor of shape `(size, size, 3)`, in [0, 255].
    """

    def choose(shape):
        side = tf.cast(tf.reduce_min(shape[:2]), tf.float32) * (224 / 256)
        side = tf.maximum(tf.cast(tf.round(side), tf.int32), 1)
        return (shape[:2] - side) // 2, tf.stack([side, side])

    image = _decode_part(encoded, choose)
    return tf.image.resize(image, (size, size), antialias=True)


def _decode_part(encoded, choose):
    """Decodes the part of an image that a function of its shape chooses."""

    def of_jpeg():
        # Without decoding the rest.
        window = tf.concat(choose(tf.io.extract_jpeg_shape(encoded)), 0)
        return tf.io.decode_and_crop_jpeg(encoded, window, channels=3)

    def of_other():
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
        (top, left), (height, width) = map(tf.unstack, choose(tf.shape(image)))
        return image[top : top + height, left : left + width]

    image = tf.cond(tf.io.is_jpeg(encoded), of_jpeg, of_other)
    return tf.ensure_shape(image, [None, None, 3])
