"""Who is measured: ours, the stock convolution, and what else users have.

A contender is a function of no arguments that does one pass and returns when it
is done. `Work` says how many differences it did, since the formulas that write
out every difference run on fewer images.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_adder.ops import adder_conv2d

PASSES = ("forward", "backward", "step")

# What one pass computes, in differences of a forward pass: two gradients are
# twice the work.
WORK = {"forward": 1, "backward": 2, "step": 3}

# The most that one array of all differences may take, in bytes.
FORMULA_BYTES = 2**29


@dataclasses.dataclass(frozen=True)
class Work:
    run: Callable
    differences: int


def data(shape, seed=0):
    """Inputs, filters and an output gradient, all N(0, 1)."""
    generator = np.random.default_rng(seed)
    return tuple(
        tf.cast(generator.standard_normal(size, dtype=np.float32), shape.dtype)
        for size in (shape.input_shape, shape.filter_shape, shape.output_shape)
    )


def ours(shape, what, traced=False):
    def operation(inputs, filters):
        return adder_conv2d(
            inputs,
            filters,
            strides=shape.strides,
            padding="same",
            data_format=shape.data_format,
            dilation_rate=shape.dilation,
        )

    return tensorflow_work(operation, shape, what, traced)


def stock(shape, what, traced=False):
    channels_last = shape.data_format == "channels_last"

    def operation(inputs, filters):
        return tf.nn.conv2d(
            inputs,
            filters,
            strides=shape.strides,
            padding="SAME",
            data_format="NHWC" if channels_last else "NCHW",
            dilations=shape.dilation,
        )

    return tensorflow_work(operation, shape, what, traced)


def tensorflow_work(operation, shape, what, traced=False):
    """One pass of an operation; `traced` runs it inside one tf.function.

    Everything computed is returned, so that nothing is pruned.
    """
    inputs, filters, gradient = data(shape)

    def step(inputs, filters, gradient):
        with tf.GradientTape() as tape:
            tape.watch((inputs, filters))
            outputs = operation(inputs, filters)
        return outputs, *tape.gradient(outputs, (inputs, filters), gradient)

    if what == "forward":
        function, arguments = operation, (inputs, filters)
    elif what == "step":
        function, arguments = step, (inputs, filters, gradient)
    else:
        if traced:
            raise ValueError(
                "The backward pass alone needs a tape that outlives a call. "
                f"Received: what={what!r}, traced={traced}"
            )
        # One recording serves any number of backward passes.
        with tf.GradientTape(persistent=True) as tape:
            tape.watch((inputs, filters))
            outputs = operation(inputs, filters)
        function = tape.gradient
        arguments = (outputs, (inputs, filters), gradient)
    if traced:
        function = tf.function(function, autograph=False)
    return Work(lambda: function(*arguments), WORK[what] * shape.differences)


def litert(shape, threads):
    """LiteRT's float32 convolution, which is XNNPACK's. None if not installed.

    The input lies in the interpreter's own memory, and so does the output.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        return None
    inputs, filters, _ = data(shape)

    class Model(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec(inputs.shape)])
        def __call__(self, x):
            return tf.nn.conv2d(x, filters, shape.strides, "SAME")

    model = Model()
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [model.__call__.get_concrete_function()], model
    )
    interpreter = Interpreter(
        model_content=converter.convert(), num_threads=threads
    )
    interpreter.allocate_tensors()
    (entry,) = interpreter.get_input_details()
    interpreter.set_tensor(entry["index"], inputs.numpy())
    return Work(interpreter.invoke, shape.differences)


def formula_shape(shape):
    """`shape`, of no more images than fit with every difference stored."""
    image = shape.but(batch=1).differences * 4
    return shape.but(batch=max(1, min(shape.batch, FORMULA_BYTES // image)))


def broadcast(shape, what):
    """The formula in plain TensorFlow; its gradients are TensorFlow's own."""
    shape = formula_shape(shape)

    def operation(inputs, filters):
        window = [1, shape.kernel, shape.kernel, 1]
        patches = tf.image.extract_patches(
            inputs, window, [1, *[shape.strides] * 2, 1], [1] * 4, "SAME"
        )
        columns = tf.reshape(filters, (-1, shape.filters))
        return -tf.reduce_sum(tf.abs(patches[..., None] - columns), axis=-2)

    return tensorflow_work(operation, shape, what)


def im2col(shape, what, threads):
    """The method of the AdderNet authors' code. None if PyTorch is missing.

    Patches as the columns of a matrix, filters as the rows of another, and all
    differences between them at once; the paper's gradients likewise.
    """
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(threads)
    shape = formula_shape(shape)
    inputs, filters, gradient = (x.numpy() for x in data(shape))
    images = torch.tensor(inputs.transpose(0, 3, 1, 2))
    weights = torch.tensor(filters.transpose(3, 2, 0, 1))
    upstream = torch.tensor(gradient.transpose(0, 3, 1, 2))
    pixels = math.prod(shape.output_size)

    class Distance(torch.autograd.Function):
        @staticmethod
        def forward(context, rows, columns):
            context.save_for_backward(rows, columns)
            return -(rows[:, :, None] - columns).abs().sum(1)

        @staticmethod
        def backward(context, g):
            rows, columns = context.saved_tensors
            g = g[:, None]
            difference = columns - rows[:, :, None]
            towards_columns = (-difference).clamp(-1, 1) * g
            return (difference * g).sum(2), towards_columns.sum(0)

    def forward():
        columns = torch.nn.functional.unfold(
            images, shape.kernel, padding=shape.kernel // 2
        )
        columns = columns.transpose(0, 1).flatten(1)
        distances = Distance.apply(weights.flatten(1), columns)
        return distances.unflatten(1, (shape.batch, pixels)).transpose(0, 1)

    def step():
        images.requires_grad_()
        weights.requires_grad_()
        outputs = forward().reshape(upstream.shape)
        gradients = torch.autograd.grad(outputs, (images, weights), upstream)
        return outputs.detach(), *gradients

    def inference():
        with torch.no_grad():
            return forward().reshape(upstream.shape)

    run = inference if what == "forward" else step
    return Work(run, WORK[what] * shape.differences)
