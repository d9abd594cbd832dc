"""The adder convolution in NumPy float64: slow, plain, and what all else is
compared with. Written from the formulas, one filter tap at a time."""

import numpy as np


def _spatial(shape, data_format):
    return shape[1:3] if data_format == "NHWC" else shape[2:4]


def _paddings(size, kernel, stride, dilation, padding):
    """(zeros before, zeros after, output size) of one axis."""
    dilated = (kernel - 1) * dilation + 1
    if padding == "VALID":
        before = after = 0
    elif padding == "SAME":
        output = -(-size // stride)
        total = max((output - 1) * stride + dilated - size, 0)
        before, after = total // 2, total - total // 2
        return before, after, output
    else:
        before, after = padding
    return before, after, (size + before + after - dilated + stride) // stride


class _Taps:
    """Padded NHWC input and, for each tap, the part that outputs meet."""

    def __init__(self, x, f, strides, padding, dilations, data_format):
        x = np.asarray(x, np.float64)
        self.nchw = data_format == "NCHW"
        self.x = x.transpose(0, 2, 3, 1) if self.nchw else x
        self.f = np.asarray(f, np.float64)
        kernel = self.f.shape[:2]
        axes = []
        for axis in range(2):
            pad = padding if isinstance(padding, str) else padding[axis]
            axes.append(
                _paddings(
                    self.x.shape[1 + axis],
                    kernel[axis],
                    strides[axis],
                    dilations[axis],
                    pad,
                )
            )
        self.pads = [axis[:2] for axis in axes]
        self.size = [axis[2] for axis in axes]
        self.padded = np.pad(self.x, [(0, 0), *self.pads, (0, 0)])
        self.groups = self.x.shape[3] // self.f.shape[2]
        self.taps = [
            (
                i,
                j,
                self._window(0, i, strides, dilations),
                self._window(1, j, strides, dilations),
            )
            for i in range(kernel[0])
            for j in range(kernel[1])
        ]

    def _window(self, axis, tap, strides, dilations):
        start = tap * dilations[axis]
        stop = start + (self.size[axis] - 1) * strides[axis] + 1
        return slice(start, max(stop, start), strides[axis])

    def split(self):
        """For each group: channels of the input and of the output."""
        c, t = self.f.shape[2], self.f.shape[3] // self.groups
        for g in range(self.groups):
            yield slice(g * c, (g + 1) * c), slice(g * t, (g + 1) * t)

    def differences(self, i, j, rows, columns, inputs, outputs):
        """X - F, of shape (n, h, w, channels, filters)."""
        patch = self.padded[:, rows, columns, inputs]
        return patch[..., None] - self.f[i, j, :, outputs]

    def layout(self, y):
        return y.transpose(0, 3, 1, 2) if self.nchw else y

    def nhwc(self, y):
        y = np.asarray(y, np.float64)
        return y.transpose(0, 2, 3, 1) if self.nchw else y


def adder_conv2d(
    x, f, strides=(1, 1), padding="VALID", dilations=(1, 1), data_format="NHWC"
):
    """`padding` is "VALID", "SAME" or ((top, bottom), (left, right))."""
    t = _Taps(x, f, strides, padding, dilations, data_format)
    y = np.zeros((t.x.shape[0], *t.size, t.f.shape[3]))
    for i, j, rows, columns in t.taps:
        for inputs, outputs in t.split():
            d = t.differences(i, j, rows, columns, inputs, outputs)
            y[..., outputs] -= np.abs(d).sum(axis=3)
    return t.layout(y)


def adder_conv2d_input_gradient(
    x,
    f,
    g,
    strides=(1, 1),
    padding="VALID",
    dilations=(1, 1),
    data_format="NHWC",
):
    """sum of g HardTanh(F - X)."""
    t = _Taps(x, f, strides, padding, dilations, data_format)
    g = t.nhwc(g)
    padded = np.zeros_like(t.padded)
    for i, j, rows, columns in t.taps:
        for inputs, outputs in t.split():
            d = t.differences(i, j, rows, columns, inputs, outputs)
            slope = np.clip(-d, -1, 1)
            padded[:, rows, columns, inputs] += np.einsum(
                "nhwct,nhwt->nhwc", slope, g[..., outputs]
            )
    (top, bottom), (left, right) = t.pads
    height, width = padded.shape[1:3]
    return t.layout(padded[:, top : height - bottom, left : width - right])


def adder_conv2d_filter_gradient(
    x,
    f,
    g,
    strides=(1, 1),
    padding="VALID",
    dilations=(1, 1),
    data_format="NHWC",
    mode="full_precision",
):
    """sum of g (X - F), or of g sign(X - F)."""
    t = _Taps(x, f, strides, padding, dilations, data_format)
    g = t.nhwc(g)
    result = np.zeros_like(t.f)
    for i, j, rows, columns in t.taps:
        for inputs, outputs in t.split():
            d = t.differences(i, j, rows, columns, inputs, outputs)
            slope = np.sign(d) if mode == "sign" else d
            result[i, j, :, outputs] += np.einsum(
                "nhwct,nhwt->ct", slope, g[..., outputs]
            )
    return result
