"""Who is measured: ours, the stock convolution, and what else users have.

A contender is a function of no arguments that does one pass and returns when it
is done. `Work` says how many differences it did, since the formulas that write
out every difference run on fewer images.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable

import measuring
import numpy as np
import roofline
import tensorflow as tf

from keras_adder.ops import adder_conv2d
from keras_adder.ops import fused_adder_conv2d

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


def measure(works, seconds, rounds, min_rounds=3, take=measuring.turn):
    """Timings, and speeds in G differences/s; None among works is left out."""
    works = {name: work for name, work in works.items() if work}
    times = measuring.interleave(
        {name: work.run for name, work in works.items()},
        seconds,
        rounds,
        min_rounds,
        take,
    )
    speeds = {
        name: work.differences / times[name].seconds / 1e9
        for name, work in works.items()
    }
    return times, speeds


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


def stock_depthwise(shape, what, traced=False):
    """TensorFlow's own way to convolve each channel with filters of its own."""

    def operation(inputs, filters):
        return tf.nn.depthwise_conv2d(
            inputs, filters, [1, *[shape.strides] * 2, 1], "SAME"
        )

    multiplier = shape.filters // shape.channels
    filter_shape = (*[shape.kernel] * 2, shape.channels, multiplier)
    return tensorflow_work(operation, shape, what, traced, filter_shape)


def tensorflow_work(operation, shape, what, traced=False, filter_shape=None):
    """One pass of an operation; `traced` runs it inside one tf.function.

    Everything computed is returned, so that nothing is pruned. Filters are of
    `filter_shape` where the operation takes them in another than ours.
    """
    inputs, filters, gradient = data(shape)
    filters = tf.reshape(filters, filter_shape or shape.filter_shape)

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


def integer_data(shape, dtype, seed=0):
    """Arrays: inputs, filters, and multipliers and offsets for the outputs.

    All of a type's values are as frequent as each other; sums are brought to a
    mean of 0 and a deviation of 1.
    """
    generator = np.random.default_rng(seed)
    limits = np.iinfo(dtype)
    inputs, filters = (
        generator.integers(limits.min, limits.max + 1, size, dtype)
        for size in (shape.input_shape, shape.filter_shape)
    )
    # Of the distance of two numbers that are uniform between 0 and 1.
    mean, deviation = 1 / 3, 1 / math.sqrt(18)
    terms = math.prod(shape.filter_shape[:3])
    width = limits.max - limits.min
    multiplier = 1 / (deviation * width * math.sqrt(terms))
    offset = mean * width * terms * multiplier
    vectors = (np.float32([x] * shape.filters) for x in (multiplier, offset))
    return inputs, filters, *vectors


def integer_operation(shape, dtype):
    """Ours of integers, from tensors to the same type, with a ReLU."""

    def operation(*tensors):
        return fused_adder_conv2d(
            *tensors,
            strides=shape.strides,
            padding="same",
            lower=0.0,
            output_dtype=dtype,
            # Four deviations are the largest integer.
            output_scale=4 / np.iinfo(dtype).max,
        )

    return operation


def integer(shape, dtype, traced=False):
    """Ours of integers; in a tf.function all but the inputs is constant."""
    arrays = integer_data(shape, dtype)
    operation = integer_operation(shape, dtype)
    inputs, *constants = map(tf.constant, arrays)
    if traced:
        function = tf.function(
            lambda x: operation(x, *map(tf.constant, arrays[1:])),
            autograph=False,
        )
        return Work(lambda: function(inputs), shape.differences)
    return Work(lambda: operation(inputs, *constants), shape.differences)


def integer_changing(shape, dtype, sets):
    """Ours of integers, with the next of so many sets of filters each time."""
    inputs, _, *vectors = map(tf.constant, integer_data(shape, dtype))
    filters = itertools.cycle(
        [tf.constant(integer_data(shape, dtype, i)[1]) for i in range(sets)]
    )
    operation = integer_operation(shape, dtype)
    return Work(
        lambda: operation(inputs, next(filters), *vectors), shape.differences
    )


def limit(loop, shape, threads):
    """A `roofline.Loop`: what it does that would be of use for this shape."""
    useful = loop.of_each * loop.useful(shape.kernel, shape.strides)
    return Work(
        lambda: loop.run(roofline.REPEATS, threads),
        threads * roofline.REPEATS * useful,
    )


def litert(shape, threads):
    """LiteRT's float32 convolution, which is XNNPACK's. None if not installed.

    The input lies in the interpreter's own memory, and so does the output.
    """
    inputs, filters, _ = data(shape)

    def operation(x):
        return tf.nn.conv2d(x, filters, shape.strides, "SAME")

    return litert_work(shape, operation, inputs.numpy(), threads)


def litert_int8(shape, threads):
    """LiteRT's int8 convolution with a ReLU. None if not installed.

    The converter chooses the scales, one a filter.
    """
    inputs, filters, _ = data(shape)
    inputs = inputs.numpy()

    def operation(x):
        return tf.nn.relu(tf.nn.conv2d(x, filters, shape.strides, "SAME"))

    def quantize(converter):
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: [[inputs]]
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.TFLITE_BUILTINS_INT8
        ]
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8

    generator = np.random.default_rng(0)
    integers = generator.integers(-128, 128, inputs.shape, np.int8)
    return litert_work(shape, operation, integers, threads, quantize)


def litert_work(shape, operation, inputs, threads, prepare=None):
    """An operation of inputs in LiteRT. None if not installed.

    Args:
        shape: `Shape`.
        operation: Function of a float32 tensor.
        inputs: Array, as the converted model takes it.
        threads: Integer.
        prepare: Function that sets a converter's options.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        return None

    class Model(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec(inputs.shape)])
        def __call__(self, x):
            return operation(x)

    model = Model()
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [model.__call__.get_concrete_function()], model
    )
    if prepare is not None:
        prepare(converter)
    interpreter = Interpreter(
        model_content=converter.convert(), num_threads=threads
    )
    interpreter.allocate_tensors()
    (entry,) = interpreter.get_input_details()
    interpreter.set_tensor(entry["index"], inputs)
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
