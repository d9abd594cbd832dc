"""The residual networks of the AdderNet authors, written out in NumPy.

They take weights by the names, and in the order of axes, of the authors'
PyTorch code: https://github.com/huawei-noah/AdderNet.
"""

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

# The number of blocks of each stage, whether they are bottlenecks, whether the
# stem is that for ImageNet.
NETWORKS = {
    "ResNet20": ((3, 3, 3), False, False),
    "ResNet32": ((5, 5, 5), False, False),
    "ResNet18": ((2, 2, 2, 2), False, True),
    "ResNet34": ((3, 4, 6, 3), False, True),
    "ResNet50": ((3, 4, 6, 3), True, True),
    "ResNet101": ((3, 4, 23, 3), True, True),
}


def random_state_dict(network, classes, adder=True, seed=0):
    """Random weights, in the order of the authors' `state_dict()`."""
    blocks, bottleneck, imagenet = NETWORKS[network]
    rng = np.random.default_rng(seed)
    state = {}

    def conv(name, kind, channels, filters, size):
        # Such that a sum of products neither vanishes nor grows.
        scale = 1 if kind == "adder" else (channels * size**2) ** -0.5
        shape = (filters, channels, size, size)
        state[f"{name}.{kind}"] = scale * rng.normal(size=shape)

    def norm(name, channels):
        for part in ("weight", "running_var"):
            state[f"{name}.{part}"] = rng.uniform(0.5, 1.5, channels)
        for part in ("bias", "running_mean"):
            state[f"{name}.{part}"] = rng.uniform(-0.5, 0.5, channels)
        state[f"{name}.num_batches_tracked"] = np.array(7)

    def inner(name, number, channels, filters, size):
        conv(name.format("conv", number), kind, channels, filters, size)
        norm(name.format("bn", number), filters)

    kind = "adder" if adder else "weight"
    width = 64 if imagenet else 16
    channels = width
    conv("conv1", "weight", 3, width, 7 if imagenet else 3)
    norm("bn1", width)
    for stage, number in enumerate(blocks):
        filters = width * 2**stage
        outputs = 4 * filters if bottleneck else filters
        for i in range(number):
            block = f"layer{stage + 1}.{i}"
            name = block + ".{}{}"
            if bottleneck:
                inner(name, 1, channels, filters, 1)
                inner(name, 2, filters, filters, 3)
                inner(name, 3, filters, outputs, 1)
            else:
                inner(name, 1, channels, filters, 3)
                inner(name, 2, filters, filters, 3)
            if i == 0 and (stage > 0 or bottleneck):
                conv(f"{block}.downsample.0", kind, channels, outputs, 1)
                norm(f"{block}.downsample.1", outputs)
            channels = outputs
    conv("fc", "weight", channels, classes, 1)
    if imagenet:
        state["fc.bias"] = rng.normal(size=(classes,))
    norm("bn2", classes)
    return {name: value.astype("float32") for name, value in state.items()}


def calibrated_forward(network, state, x):
    """Returns the logits of images, in float64.

    The moving statistics in `state` are replaced by those that `x` gives: with
    random ones the network would be dead.

    Args:
        network: string, a key of `NETWORKS`.
        state: dict, from `random_state_dict`.
        x: array, channels first.
    """
    blocks, bottleneck, imagenet = NETWORKS[network]

    def conv(x, name, stride=1):
        adder = f"{name}.adder" in state
        kernel = state[f"{name}.adder" if adder else f"{name}.weight"]
        size = kernel.shape[-1]
        pad = (size // 2, size // 2)
        x = np.pad(x, [(0, 0), (0, 0), pad, pad])
        patches = sliding_window_view(x, (size, size), (2, 3))
        patches = patches[:, :, ::stride, ::stride].transpose(0, 2, 3, 1, 4, 5)
        shape = patches.shape[:3]
        patches = patches.reshape(math.prod(shape), -1)
        filters = kernel.reshape(len(kernel), -1).astype("float64")
        if adder:
            # One at a time, since their broadcast would be large.
            y = [-np.abs(patches - filter).sum(1) for filter in filters]
            y = np.stack(y, axis=1)
        else:
            y = patches @ filters.T + state.get(f"{name}.bias", 0)
        return y.reshape(*shape, -1).transpose(0, 3, 1, 2)

    def norm(x, name):
        state[f"{name}.running_mean"] = x.mean((0, 2, 3)).astype("float32")
        state[f"{name}.running_var"] = x.var((0, 2, 3)).astype("float32")
        gamma, beta, mean, variance = (
            state[f"{name}.{part}"].astype("float64").reshape(-1, 1, 1)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta

    def block(x, name, stride):
        # The stride is in the first 3x3, be it the first or the second.
        strides = (1, stride, 1) if bottleneck else (stride, 1)
        y = x
        for i, step in enumerate(strides, 1):
            y = norm(conv(y, f"{name}.conv{i}", step), f"{name}.bn{i}")
            y = np.maximum(y, 0) if i < len(strides) else y
        if f"{name}.downsample.1.weight" in state:
            x = conv(x, f"{name}.downsample.0", stride)
            x = norm(x, f"{name}.downsample.1")
        return np.maximum(x + y, 0)

    x = conv(x.astype("float64"), "conv1", 2 if imagenet else 1)
    x = np.maximum(norm(x, "bn1"), 0)
    if imagenet:
        x = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)])
        x = sliding_window_view(x, (3, 3), (2, 3))[:, :, ::2, ::2].max((4, 5))
    for stage, number in enumerate(blocks):
        for i in range(number):
            stride = 2 if stage > 0 and i == 0 else 1
            x = block(x, f"layer{stage + 1}.{i}", stride)
    x = x.mean((2, 3), keepdims=True)
    return norm(conv(x, "fc"), "bn2")[:, :, 0, 0]
