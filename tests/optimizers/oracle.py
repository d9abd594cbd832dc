"""What the optimizers are tested against, and what they are tested on."""

import keras
import numpy as np

from keras_adder.filters import mark_adder_filter


class AuthorsSGD:
    """The authors' update of one variable, transcribed in float64.

    Args:
        rescale: Function applied to the gradient before anything else:
            `alr(eta)` or `ilr(factor)` for adder filters, `None` for others.
    """

    def __init__(self, lr, momentum, nesterov=False, decay=0.0, rescale=None):
        self.lr, self.momentum, self.decay = lr, momentum, decay
        self.nesterov, self.rescale = nesterov, rescale
        self.buffer = 0.0

    def step(self, w, g):
        w, g = np.asarray(w, "float64"), np.asarray(g, "float64")
        if self.rescale is not None:
            g = self.rescale(g)
        g = g + self.decay * w
        self.buffer = self.momentum * self.buffer + g
        step = g + self.momentum * self.buffer if self.nesterov else self.buffer
        return w - self.lr * step


def alr(eta):
    return lambda g: (
        g * eta * np.sqrt(g.size) / max(np.sqrt(np.sum(g**2)), 1e-12)
    )


def ilr(factor):
    return lambda g: g * factor


@keras.saving.register_keras_serializable(package="keras_adder_tests")
class Distance(keras.layers.Layer):
    """A user's adder layer: minus half the squared l2 distance.

    Its derivatives are the full-precision gradients of an adder layer.
    """

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape):
        self.kernel = mark_adder_filter(
            self.add_weight(
                shape=(input_shape[-1], self.units),
                initializer="random_normal",
                name="kernel",
            )
        )

    def call(self, x):
        difference = keras.ops.expand_dims(x, -1) - self.kernel
        return -0.5 * keras.ops.sum(keras.ops.square(difference), axis=-2)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def model(seed=0, jit_compile=False, **compile_args):
    """A convolution's place taken by `Dense`, an adder filter, a head."""
    keras.utils.set_random_seed(seed)
    result = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(4, name="stem"),
            Distance(3, name="adder"),
            keras.layers.Dense(2, name="head"),
        ]
    )
    if compile_args:
        result.compile(loss="mse", jit_compile=jit_compile, **compile_args)
    return result


def data(n=16, seed=1):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 5)).astype("float32")
    # Rows of very different size: a norm per replica is not the norm of all.
    x *= np.linspace(0.1, 1.5, n, dtype="float32")[:, None]
    return x, rng.normal(size=(n, 2)).astype("float32")


def fit(trained, x, y, epochs=1, batch_size=8):
    trained.fit(
        x, y, epochs=epochs, batch_size=batch_size, shuffle=False, verbose=0
    )


def arrays(variables):
    return [np.array(v.numpy()) for v in variables]


def variable(value, adder=True, dtype="float32", name=None):
    result = keras.Variable(np.asarray(value), dtype=dtype, name=name)
    return mark_adder_filter(result) if adder else result


def relative_error(actual, expected):
    actual, expected = np.asarray(actual, "float64"), np.asarray(expected)
    return np.max(np.abs(actual - expected)) / np.max(np.abs(expected))
