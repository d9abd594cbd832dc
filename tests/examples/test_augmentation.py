import numpy as np
import pytest
import tensorflow as tf

from training import augmentation


def seed(number):
    return tf.constant([1, number], tf.int64)


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, "uint8")


def test_every_crop_is_one_of_the_padded_image():
    images = noise(200, 8, 6, 3)
    cropped = augmentation.crop_and_flip(images, seed(1), padding=2).numpy()
    assert cropped.shape == images.shape
    assert cropped.dtype == np.uint8
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    found = []
    for image, crop in zip(padded, cropped):
        candidates = {
            (top, left, flipped): image[top : top + 8, left : left + 6][
                :, :: -1 if flipped else 1
            ]
            for top in range(5)
            for left in range(5)
            for flipped in (False, True)
        }
        matches = [
            place
            for place, candidate in candidates.items()
            if np.array_equal(candidate, crop)
        ]
        assert len(matches) == 1
        found += matches
    # All of the places are taken, each about as often: 40 +- 6, 100 +- 7.
    tops, lefts, flips = map(np.bincount, zip(*found))
    assert tops.shape == lefts.shape == (5,)
    assert min(*tops, *lefts) >= 15
    assert 65 <= flips[1] <= 135


def test_crops_depend_on_the_seed_alone():
    images = noise(20, 8, 8, 1)
    first, again, other = (
        augmentation.crop_and_flip(images, seed(number)).numpy()
        for number in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def encoded_ramp(height, width, encode):
    """An image whose pixels tell where they lie: red down, green across."""
    rows, columns = np.mgrid[0:height, 0:width]
    image = np.stack([rows, columns, 0 * rows + 100], -1).astype("uint8")
    return encode(image)


def encode_jpeg(image):
    return tf.io.encode_jpeg(image, quality=100, chroma_downsampling=False)


@pytest.mark.parametrize("encode", [encode_jpeg, tf.io.encode_png])
def test_random_parts_have_the_asked_for_areas_and_shapes(encode):
    encoded = encoded_ramp(180, 240, encode)
    crop = tf.function(augmentation.random_resized_crop)
    areas, ratios, flips = [], [], []
    for number in range(200):
        image = crop(encoded, seed(number), 32).numpy()
        assert image.shape == (32, 32, 3)
        assert image.dtype == np.float32
        # Of the part, from what a pixel of the result spans of it.
        height = 32 / 28 * (image[30, 16, 0] - image[2, 16, 0])
        width = 32 / 28 * (image[16, 30, 1] - image[16, 2, 1])
        areas.append(height * abs(width) / (180 * 240))
        ratios.append(abs(width) / height)
        flips.append(width < 0)
    # To the rounding of pixels, and JPEG's.
    assert 0.07 < min(areas) < 0.15
    assert 0.85 < max(areas) < 1.04
    assert 0.70 < min(ratios) < 0.85
    assert 1.2 < max(ratios) < 1.42
    assert 65 <= sum(flips) <= 135


@pytest.mark.parametrize(
    "encode, atol", [(encode_jpeg, 2), (tf.io.encode_png, 0.1)]
)
def test_the_centre_is_seven_eighths_of_the_shorter_side(encode, atol):
    encoded = encoded_ramp(160, 240, encode)
    image = augmentation.central_crop(encoded, 70).numpy()
    assert image.shape == (70, 70, 3)
    # 140 rows and columns, two for each pixel: 10 and 50 lie before them.
    np.testing.assert_allclose(image[:, 35, 0].mean(), 10 + 69.5, atol=atol)
    np.testing.assert_allclose(image[35, :, 1].mean(), 50 + 69.5, atol=atol)
    np.testing.assert_allclose(
        image[60, 35, 0] - image[10, 35, 0], 100, atol=atol
    )


def test_other_numbers_of_channels_become_three():
    grey = noise(40, 50, 1)
    for encode in (tf.io.encode_png, tf.io.encode_jpeg):
        image = augmentation.central_crop(encode(grey), 16).numpy()
        assert image.shape == (16, 16, 3)
        np.testing.assert_allclose(image[..., 0], image[..., 2])
