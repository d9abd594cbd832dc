"""Batch normalization's statistics, measured anew for the weights as they are.

The steps of `keras_adder.ALR` have a fixed norm, however small the gradient is:
while the learning rate is high, the output of an adder layer moves faster than
the moving averages of the `keras.layers.BatchNormalization` behind it follow.
Training does not notice, since it normalizes by the statistics of each batch;
inference does. With the default momentum of 0.99, a network that has 100 % on
its training data may have 50 % on its test data.
"""

import numbers
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def recalibrate_batch_normalization(
    model: keras.Model,
    data: Any,
    steps: int | None = None,
    batch_size: int = 32,
) -> None:
    """Sets moving statistics to those that the weights give now.

    The model is called on batches of data as in training, and for each
    `keras.layers.BatchNormalization` the `moving_mean` and `moving_variance`
    become the mean and the variance over all of them, whatever the layer's
    momentum. No other variable changes. This is the "precise batch
    normalization" of Wu and Johnson.

    Layers that are not trainable, or are called with `training=False`, and so
    normalize by their moving statistics in training as well, are left alone.
    Of a layer that the model calls more than once, the statistics are those of
    all its calls.

    Reference:

    - [Rethinking "Batch" in BatchNorm](https://arxiv.org/abs/2105.07576),
        section 3

    Args:
        model: A `keras.Model` that has been built.
        data: What the model is trained with: arrays of inputs (which are
            taken in a random order), a `tf.data.Dataset`, a
            `keras.utils.PyDataset`, or a generator of batches. Batches may be
            tuples `(inputs, targets)` or `(inputs, targets, sample_weights)`,
            of which the inputs are used.
        steps: Integer, the number of batches to take, or `None` for all of
            them. Some thousand images are enough.
        batch_size: Integer, the size of a batch where `data` is arrays. Larger
            ones make better estimates.

    Raises:
        ValueError: If `steps` is `None` and `data` has no end, if there is no
            batch, or if `model` has not been built.

    Example:

    >>> model.fit(x, y, epochs=10)
    >>> recalibrate_batch_normalization(model, x)
    >>> model.evaluate(x_test, y_test)
    """
    _check(steps, batch_size)
    _Recalibration(model).run(_batches(data, steps, batch_size))


class RecalibrateBatchNormalization(keras.callbacks.Callback):
    """Renews batch normalization's statistics before they are used.

    That is at the end of each epoch, before the validation, so that
    `val_accuracy` is that of the weights as they are then, and once more at the
    end of the training, when Keras may have put averages in the weights' place.
    The training itself is not affected, but for the time of calling the model
    on `data`, which `steps` can limit.

    A callback that keeps or restores weights, such as
    `keras.callbacks.ModelCheckpoint`, comes after this one.

    Args:
        data: As in `keras_adder.callbacks.recalibrate_batch_normalization`:
            what the model is trained with.
        steps: Integer, the number of batches to take each time, or `None` for
            all of them.
        batch_size: Integer, the size of a batch where `data` is arrays.

    Example:

    >>> model.fit(
    ...     x,
    ...     y,
    ...     epochs=10,
    ...     validation_data=(x_test, y_test),
    ...     callbacks=[keras_adder.callbacks.RecalibrateBatchNormalization(x)],
    ... )
    """

    def __init__(
        self, data: Any, steps: int | None = None, batch_size: int = 32
    ) -> None:
        super().__init__()
        _check(steps, batch_size)
        self.data = data
        self.steps = steps
        self.batch_size = batch_size
        # Whether there was a step since the statistics were renewed.
        self._stale = False
        self._recalibration: _Recalibration | None = None

    def on_train_batch_begin(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        self._stale = True

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self._stale:  # As it is not in an evaluation by itself.
            self._recalibrate()

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        if self._stale:
            self._recalibrate()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        # The weights need not be those that the last epoch left.
        if self._recalibration is not None:
            self._recalibrate()
        self._recalibration = None

    def _recalibrate(self):
        if self._recalibration is None:  # The model is built by now.
            self._recalibration = _Recalibration(self.model)
        self._recalibration.run(
            _batches(self.data, self.steps, self.batch_size)
        )
        self._stale = False


class _Recalibration:
    """Measures the statistics of a model as often as is asked for."""

    def __init__(self, model):
        if not model.built:
            raise ValueError(
                "`model` must have been built. Received: "
                f"model={model} (named '{model.name}')"
            )
        self._model = model
        self._layers = [
            layer
            for layer in _sublayers(model)
            if isinstance(layer, keras.layers.BatchNormalization)
            and layer.trainable
        ]
        self._functions: dict[Any, Any] = {}

    def run(self, batches):
        """Sets the moving statistics to those of some batches of inputs."""
        if not self._layers:
            return
        # A call in training changes more than statistics: seeds, for example.
        variables = self._model.variables
        kept = [keras.ops.convert_to_numpy(variable) for variable in variables]
        try:
            statistics = self._average(batches)
        finally:
            for variable, value in zip(variables, kept):
                variable.assign(value)
        for layer, (mean, variance) in statistics:
            _assign(layer, (mean, np.maximum(variance, 0)))

    def _average(self, batches):
        """Pairs of a layer and its mean and variance over all batches."""
        images = 0
        # Sums of the means, and of the squares, over all images. A mean may be
        # a hundred times the deviation, hence float64.
        sums = [np.zeros((2, *x.moving_mean.shape)) for x in self._layers]
        shares = None
        for inputs in batches:
            if shares is None:
                shares = self._shares(inputs)
            for layer, share in zip(self._layers, shares):
                if share:
                    _assign(layer, np.zeros((2, *layer.moving_mean.shape)))
            size = self._call(inputs)
            for layer, total, share in zip(self._layers, sums, shares):
                if share:
                    mean, variance = _statistics(layer) / share
                    total += size * np.stack([mean, variance + mean**2])
            images += size
        if shares is None:
            raise ValueError("`data` must have at least one batch.")
        return [
            (layer, (mean / images, square / images - (mean / images) ** 2))
            for layer, (mean, square), share in zip(self._layers, sums, shares)
            if share
        ]

    def _shares(self, inputs):
        """How much of a layer's moving averages a call of the model replaces.

        It depends on the momentum, and on how often the model calls the layer:
        not at all, as in training, in a model that is called with
        `training=False`. What is left of a huge variance says how much, in
        whatever way the layer was traced.
        """
        kept = [_statistics(layer) for layer in self._layers]
        huge = [float(_max_of(layer) / 4) for layer in self._layers]
        for layer, (mean, variance), value in zip(self._layers, kept, huge):
            _assign(layer, (mean, np.full(variance.shape, value)))
        self._call(inputs)
        shares = []
        for layer, before, value in zip(self._layers, kept, huge):
            left = np.min(_statistics(layer)[1]) / value
            _assign(layer, before)
            momentum = float(layer.momentum)
            if left > 1e-3 and 0 < momentum < 1:  # To the digits of float16.
                left = momentum ** round(np.log(left) / np.log(momentum))
            shares.append(1 - left if left < 1 else 0)
        return shares

    def _call(self, inputs):
        """Calls the model as in training; returns the size of the batch."""
        flat = [
            keras.ops.convert_to_tensor(array)
            for array in keras.tree.flatten(inputs)
        ]
        specs = tuple(
            tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype)
            for tensor in flat
        )
        if specs not in self._functions:

            def call(*flat):
                packed = keras.tree.pack_sequence_as(inputs, flat)
                self._model(packed, training=True)

            function = tf.function(call)
            self._functions[specs] = function.get_concrete_function(*specs)
        self._functions[specs](*flat)
        return int(flat[0].shape[0])


def _sublayers(layer):
    """A layer and all that it is made of, each once."""
    found, queue = {}, [layer]
    while queue:
        value = queue.pop()
        if isinstance(value, keras.layers.Layer):
            if id(value) in found:
                continue
            found[id(value)] = value
            queue.extend(vars(value).values())
        elif isinstance(value, dict):
            queue.extend(value.values())
        elif isinstance(value, (list, tuple, set, frozenset)):
            queue.extend(value)
    return list(found.values())


def _check(steps, batch_size):
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        whole = isinstance(value, numbers.Integral)
        valid = whole and not isinstance(value, bool) and value > 0
        if not valid and not (name == "steps" and value is None):
            or_none = " or `None`" if name == "steps" else ""
            raise ValueError(
                f"`{name}` must be a positive integer{or_none}. "
                f"Received: {name}={value}"
            )


def _batches(data, steps, batch_size):
    """Iterates over the inputs of batches."""
    if isinstance(data, keras.utils.PyDataset):
        count = data.num_batches
        count = steps if count is None else min(steps or count, count)
        if count is None:
            raise _endless(data)
        batches = (data[index] for index in range(count))
    elif isinstance(data, tf.data.Dataset):
        if steps is None and data.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise _endless(data)
        batches = iter(data if steps is None else data.take(steps))
    elif hasattr(data, "__next__"):
        if steps is None:
            raise _endless(data)
        batches = (batch for batch, _ in zip(data, range(steps)))
    else:
        return _batches_of_arrays(data, steps, batch_size)
    return (keras.utils.unpack_x_y_sample_weight(batch)[0] for batch in batches)


def _batches_of_arrays(arrays, steps, batch_size):
    flat = keras.tree.flatten(arrays)
    if not all(hasattr(array, "shape") for array in flat):
        raise ValueError(
            "`data` must be arrays, a `tf.data.Dataset`, a "
            "`keras.utils.PyDataset` or a generator of batches. "
            f"Received: data of type {type(arrays)}"
        )
    size = len(flat[0])
    if any(len(array) != size for array in flat):
        raise ValueError(
            "`data` must be arrays of one length. Received: lengths "
            f"{[len(array) for array in flat]}"
        )
    # As in training: what lies sorted by its classes makes batches of one.
    order = np.random.default_rng(0).permutation(size)
    firsts = range(0, size, batch_size)[:steps]

    def batch(first):
        chosen = order[first : first + batch_size]
        return keras.tree.map_structure(
            lambda array: np.take(array, chosen, 0), arrays
        )

    return map(batch, firsts)


def _endless(data):
    return ValueError(
        "`steps` must be given where `data` does not say how many batches it "
        f"has. Received: steps=None, data={data}"
    )


def _statistics(layer):
    return np.stack(
        [
            keras.ops.convert_to_numpy(variable).astype("float64")
            for variable in (layer.moving_mean, layer.moving_variance)
        ]
    )


def _assign(layer, statistics):
    layer.moving_mean.assign(statistics[0])
    layer.moving_variance.assign(statistics[1])


def _max_of(layer):
    return tf.as_dtype(layer.moving_variance.dtype).max
