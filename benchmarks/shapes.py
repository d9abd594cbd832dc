"""The convolutions that are measured."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Shape:
    """A convolution of SAME padding, named by what differs from plain."""

    batch: int
    height: int
    width: int
    channels: int
    filters: int
    kernel: int = 3
    strides: int = 1
    dilation: int = 1
    groups: int = 1
    data_format: str = "channels_last"
    dtype: str = "float32"

    def __str__(self):
        return (
            f"{self.batch},{self.height},{self.width},"
            f"{self.channels},{self.filters}"
        )

    @property
    def output_size(self):
        return -(-self.height // self.strides), -(-self.width // self.strides)

    @property
    def input_shape(self):
        size = (self.height, self.width)
        if self.data_format == "channels_first":
            return (self.batch, self.channels, *size)
        return (self.batch, *size, self.channels)

    @property
    def filter_shape(self):
        per_group = self.channels // self.groups
        return (self.kernel, self.kernel, per_group, self.filters)

    @property
    def output_shape(self):
        if self.data_format == "channels_first":
            return (self.batch, self.filters, *self.output_size)
        return (self.batch, *self.output_size, self.filters)

    @property
    def differences(self):
        """Differences, or a convolution's multiply-adds, of a forward pass.

        Taps in the padding count, as if nobody skipped them.
        """
        height, width = self.output_size
        taps = self.kernel**2 * self.channels // self.groups
        return self.batch * height * width * self.filters * taps

    def but(self, **changes):
        return dataclasses.replace(self, **changes)


@dataclasses.dataclass(frozen=True)
class Configuration:
    """A shape beside the 3x3 of like size, and how much slower it may be.

    `limit` bounds the time per difference over that of `like`, None where it is
    only reported.
    """

    name: str
    shape: Shape
    like: Shape
    limit: float | None


# Small and deep: the stages of ResNet-20 at batch 128 and of ResNet-18 at 16.
MAIN = (
    Shape(128, 32, 32, 16, 16),
    Shape(128, 16, 16, 32, 32),
    Shape(128, 8, 8, 64, 64),
    Shape(16, 56, 56, 64, 64),
    Shape(16, 28, 28, 128, 128),
    Shape(16, 14, 14, 256, 256),
    Shape(16, 7, 7, 512, 512),
)

# Those of 1x1 filters of ResNet-50, and the largest of MobileNetV2, at 224x224.
POINTWISE = tuple(
    Shape(16, size, size, channels, filters, kernel=1)
    for size, channels, filters in (
        (56, 64, 64),
        (56, 64, 256),
        (56, 256, 64),
        (28, 128, 512),
        (28, 512, 128),
        (14, 256, 1024),
        (14, 1024, 256),
        (7, 512, 2048),
        (7, 2048, 512),
        (112, 32, 16),
        (112, 16, 96),
        (56, 24, 144),
        (28, 192, 32),
        (14, 96, 576),
        (14, 576, 96),
        (7, 160, 960),
        (7, 960, 320),
    )
)

# Those of 3x3 at the batch size that fills a large GPU.
GPU = tuple(shape.but(batch=256) for shape in MAIN)

QUICK = (Shape(2, 8, 8, 16, 16), Shape(2, 4, 4, 32, 32))

# Large enough that two threads should halve the time.
LARGE = MAIN[3:6]

# Too small for a second thread: what remains is the cost of a call.
SMALL = (Shape(1, 1, 1, 1, 1, kernel=1), Shape(1, 8, 8, 16, 16))


def plain(shape):
    """The configuration of a 3x3 that differs in nothing."""
    return Configuration("3x3", shape, shape, None)


def _configurations():
    """Every other configuration that the op accepts.

    The 3x3 of like size has stride 1, no dilation, one group, channels last and
    float32; the same number of output pixels in images about as wide; and as
    many channels and filters, rounded to the nearest multiple of 16 that is not
    0.
    """
    plain = Shape(16, 28, 28, 64, 64)
    deep = Shape(16, 14, 14, 256, 256)
    small = Shape(128, 16, 16, 32, 32)

    def row(name, shape, like, limit=2.5):
        return Configuration(name, shape, like, limit)

    def doubled(shape):
        return shape.but(height=2 * shape.height, width=2 * shape.width)

    yield row("1x1", plain.but(kernel=1), plain)
    yield row("1x1, deep", deep.but(kernel=1), deep)
    yield row(
        "1x1, 4x wider",
        deep.but(kernel=1, filters=1024),
        deep.but(filters=1024),
    )
    yield row("1x1, stride 2", doubled(plain).but(kernel=1, strides=2), plain)
    yield row(
        "1x1, stride 2, deep", doubled(deep).but(kernel=1, strides=2), deep
    )
    yield row("5x5", plain.but(kernel=5), plain)
    yield row("7x7", plain.but(kernel=7), plain)
    yield row(
        "7x7, stride 2, 3 channels",
        Shape(16, 112, 112, 3, 64, kernel=7, strides=2),
        Shape(16, 56, 56, 16, 64),
    )
    yield row("stride 2", doubled(plain).but(strides=2), plain)
    yield row("dilation 2", plain.but(dilation=2), plain)
    yield row("4 groups of 16", plain.but(groups=4), plain)
    yield row("8 groups of 32", deep.but(groups=8), deep)
    yield row("channels first", plain.but(data_format="channels_first"), plain)
    yield row(
        "channels first, deep", deep.but(data_format="channels_first"), deep
    )
    for channels, like in ((3, 16), (17, 16), (65, 64)):
        yield row(
            f"{channels} channels",
            plain.but(channels=channels),
            plain.but(channels=like),
        )
    for filters, like in ((17, 16), (65, 64)):
        yield row(
            f"{filters} filters",
            plain.but(filters=filters),
            plain.but(filters=like),
        )
    yield row(
        "17 channels, 65 filters",
        plain.but(channels=17, filters=65),
        plain.but(channels=16),
    )
    for width, like in ((13, 14), (30, 28)):
        yield row(
            f"{width} wide", plain.but(width=width), plain.but(width=like)
        )
    yield row(
        "batch 1, 1024x1024",
        Shape(1, 1024, 1024, 16, 16),
        Shape(64, 128, 128, 16, 16),
    )
    yield row("batch 1, 28x28", plain.but(batch=1), plain)
    for dtype, limit in (("float16", 2.5), ("bfloat16", 2.5), ("float64", 3.0)):
        yield row(dtype, plain.but(dtype=dtype), plain, limit)
    # Only reported from here on.
    yield row("4 filters", plain.but(filters=4), plain.but(filters=16), None)
    yield row("1 filter", plain.but(filters=1), plain.but(filters=16), None)
    yield row("64 groups of 1", plain.but(groups=64), plain, None)
    yield row("4x4 images", small.but(height=4, width=4), small, None)
    yield row("2x2 images", small.but(height=2, width=2), small, None)
    yield row("1x1 images", small.but(height=1, width=1), small, None)


CONFIGURATIONS = tuple(_configurations())

# What is measured in integers: the 3x3 ones, and those whose columns do not
# slide over each other.
INTEGER_MAIN = tuple(map(plain, MAIN))
INTEGER_OTHERS = tuple(
    configuration
    for configuration in CONFIGURATIONS
    if configuration.shape.kernel == 1 or configuration.shape.strides == 2
)

# Small images, next to which their filters are large.
FILTERS = (Shape(1, 8, 8, 64, 64), Shape(1, 7, 7, 512, 512))


def depthwise(batch, size, channels, strides=1, kernel=3):
    """A convolution of square images with one filter a channel."""
    return Shape(
        *(batch, size, size, channels, channels, kernel, strides),
        groups=channels,
    )


def _depthwise():
    """Those of MobileNetV2 at 224x224, and some of them with filters of 5x5."""
    for batch in (16, 1):
        for size, channels, strides in (
            (112, 32, 1),
            (112, 96, 2),
            (56, 144, 1),
            (56, 144, 2),
            (28, 192, 1),
            (28, 192, 2),
            (14, 384, 1),
            (14, 576, 1),
            (14, 576, 2),
            (7, 960, 1),
        ):
            yield depthwise(batch, size, channels, strides)
        for size, channels, strides in (
            (112, 32, 1),
            (56, 144, 2),
            (28, 192, 1),
            (14, 576, 2),
            (7, 960, 1),
        ):
            yield depthwise(batch, size, channels, strides, kernel=5)


DEPTHWISE = tuple(_depthwise())

QUICK_DEPTHWISE = (
    depthwise(2, 8, 16),
    depthwise(1, 8, 16, strides=2, kernel=5),
)


def _few_filters():
    """Between depthwise and plain: groups have few filters, or few channels.

    Of like size is the depthwise one of as many output pixels and channels.
    """
    like = depthwise(16, 28, 64)
    for groups in (32, 16, 8):
        yield Configuration(
            f"{groups} groups of {64 // groups}",
            like.but(groups=groups),
            like,
            3.0,
        )
    yield Configuration("multiplier 2", like.but(filters=128), like, 3.0)


FEW_FILTERS = tuple(_few_filters())

QUICK_CONFIGURATIONS = (
    Configuration("1x1", QUICK[0].but(kernel=1), QUICK[0], 2.5),
    Configuration("4 filters", QUICK[0].but(filters=4), QUICK[0], None),
)
