"""Ways of calling a Keras model that are timed."""

import functools

import measuring
import numpy as np
import tensorflow as tf


class KerasContender:
    """A Keras model, and the ways of calling it."""

    def __init__(self, model):
        self.bytes = sum(
            np.asarray(weight).nbytes for weight in model.get_weights()
        )
        self._model = model
        self._function = tf.function(
            functools.partial(model, training=False), autograph=False
        )

    def predict(self, images, batch_size):
        return self._model.predict(images, batch_size, verbose=0)

    def one(self, call, batch):
        """A function that computes one batch.

        Args:
            call: `on_batch`, for `predict_on_batch`, or `function`, for a
                `tf.function`.
            batch: Array of images.
        """
        if call == "on_batch":
            return lambda: self._model.predict_on_batch(batch)
        batch = tf.constant(batch)
        return lambda: self._function(batch).numpy()

    @staticmethod
    def turn(run):
        return measuring.turn(run)


def time_one(contenders, call, batch, seconds):
    """A `Timing` of each contender's computing one batch, in turns."""
    turns = {
        name: functools.partial(c.turn, c.one(call, batch))
        for name, c in contenders.items()
    }
    for take in turns.values():
        take()
    return measuring.alternate(turns, seconds)
