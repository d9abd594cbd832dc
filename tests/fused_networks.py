"""Small networks, and what they compute in NumPy."""

import keras
import numpy as np

from keras_adder import AdderConv1D
from keras_adder import AdderConv2D
from keras_adder import AdderDense
from keras_adder import AdderDepthwiseConv2D
from keras_adder import AdderSeparableConv2D
from keras_adder.callbacks import recalibrate_batch_normalization
from keras_adder.layers.adder_layer import AdderLayer

SHAPE = (8, 7, 3)


def images(count=32, shape=SHAPE, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(count, *shape)).astype("float32")


def ready(model, *data, seed=1, tame=False, beta=0.3):
    """Gives batch normalizations what they have in a trained model.

    Deep networks of random weights amplify whatever is off; less so if they are
    `tame`, and if with a larger `beta` less ends at a ReLU.
    """
    data = data or (images(shape=model.input_shape[1:]),)
    generator = np.random.default_rng(seed)
    for layer in flat_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.moving_mean.shape
            if layer.scale:  # Some of them negative.
                gamma = generator.normal(0.2, 1.0, shape)
                layer.gamma.assign(0.5 * np.ones(shape) if tame else gamma)
            if layer.center:
                layer.beta.assign(generator.normal(beta, 0.5, shape))
        elif getattr(layer, "use_bias", False):
            # Distances of some 30, of which a ReLU shall leave something.
            is_adder = isinstance(layer, AdderLayer)
            mean, deviation = (30, 5) if is_adder else (0, 0.3)
            layer.bias.assign(
                generator.normal(mean, deviation, layer.bias.shape)
            )
    data = data[0] if len(data) == 1 else data
    recalibrate_batch_normalization(model, data)
    return model


def flat_layers(model):
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from flat_layers(layer)
        else:
            yield layer


def block(x, filters=6, size=3, name=None, relu=True, **arguments):
    arguments = {"padding": "same", "use_bias": False} | arguments
    x = AdderConv2D(filters, size, **arguments, name=name)(x)
    x = keras.layers.BatchNormalization(name=name and f"{name}_bn")(x)
    return keras.layers.ReLU()(x) if relu else x


def residual(stride=2, filters=6):
    """A stem, a block with a shortcut of its own, one without, and a top."""
    inputs = keras.Input(SHAPE, name="images")
    x = keras.layers.Conv2D(4, 3, padding="same", name="stem")(inputs)
    x = keras.layers.ReLU(name="stem_relu")(x)
    shortcut = block(x, filters, 1, "a0", relu=False, strides=stride)
    x = block(x, filters, 3, "a1", strides=stride)
    x = block(x, filters, 3, "a2", relu=False)
    x = keras.layers.Add(name="a_add")([shortcut, x])
    shortcut = x = keras.layers.ReLU(name="a_relu")(x)
    x = block(x, filters, 3, "b1")
    x = block(x, filters, 3, "b2", relu=False)
    x = keras.layers.Add(name="b_add")([x, shortcut])
    x = keras.layers.ReLU(name="b_relu")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return ready(keras.Model(inputs, keras.layers.Dense(5, name="top")(x)))


def normalized(layer, x, relu=True):
    x = keras.layers.BatchNormalization(name=f"{layer.name}_bn")(layer(x))
    return keras.layers.ReLU(6.0)(x) if relu else x


def padded(x, name):
    """On two sides, as before the layers of MobileNetV2 with strides."""
    return keras.layers.ZeroPadding2D(((0, 1), (1, 1)), name=f"{name}_pad")(x)


def inverted_residual(x, name, strides=1, depth_multiplier=1):
    shortcut = x
    layer = AdderConv2D(8, 1, use_bias=False, name=f"{name}_expand")
    x = normalized(layer, x)
    if strides > 1:
        x = padded(x, f"{name}_depthwise")
    layer = AdderDepthwiseConv2D(
        3,
        strides,
        "same" if strides == 1 else "valid",
        depth_multiplier,
        use_bias=False,
        name=f"{name}_depthwise",
    )
    x = normalized(layer, x)
    layer = AdderConv2D(6, 1, use_bias=False, name=f"{name}_project")
    x = normalized(layer, x, relu=False)
    return x if strides > 1 else keras.layers.Add()([shortcut, x])


def mobile():
    """Two inverted residual blocks, a separable layer, and two of sequences."""
    inputs = keras.Input(SHAPE, name="images")
    x = keras.layers.Conv2D(4, 3, padding="same", name="stem")(inputs)
    x = keras.layers.ReLU(6.0, name="stem_relu")(x)
    x = inverted_residual(x, "a", strides=2, depth_multiplier=2)
    x = inverted_residual(x, "b")
    layer = AdderSeparableConv2D(
        5, 3, padding="same", depth_multiplier=2, name="c"
    )
    x = keras.layers.Reshape((-1, 5), name="sequence")(normalized(layer, x))
    x = normalized(AdderConv1D(6, 3, padding="causal", name="d1"), x)
    layer = AdderConv1D(6, 2, padding="same", groups=2, name="d2")
    x = keras.layers.Add()([normalized(layer, x, relu=False), x])
    x = keras.layers.GlobalAveragePooling1D(name="pool")(x)
    return ready(keras.Model(inputs, keras.layers.Dense(5, name="top")(x)))


def depthwise():
    """A layer with each multiplier, stride and padding, and one that adds."""
    inputs = keras.Input(SHAPE)
    outputs = []
    for multiplier in (1, 2):
        for strides in (1, 2):
            for padding in ("valid", "same", "explicit"):
                name = f"x{multiplier}_by{strides}_{padding}"
                x = padded(inputs, name) if padding == "explicit" else inputs
                layer = AdderDepthwiseConv2D(
                    3,
                    strides,
                    "same" if padding == "same" else "valid",
                    multiplier,
                    name=name,
                )
                outputs.append(normalized(layer, x))
    layer = AdderDepthwiseConv2D(3, padding="same", name="adds")
    x = normalized(layer, inputs, relu=False)
    outputs.append(keras.layers.Add()([x, inputs]))
    return ready(keras.Model(inputs, outputs))


def dense(**arguments):
    """Dense adder layers from the first to the last."""
    return ready(
        keras.Sequential(
            [
                keras.Input((12,)),
                AdderDense(9, name="d1", **arguments),
                keras.layers.BatchNormalization(),
                keras.layers.Activation("relu"),
                AdderDense(7, name="d2", **arguments),
                keras.layers.BatchNormalization(),
                keras.layers.Activation("relu6"),
                AdderDense(5, name="d3", **arguments),
                keras.layers.BatchNormalization(),
            ]
        )
    )


def kinds(model):
    return {layer.name: type(layer).__name__ for layer in model.layers}


def difference(fast, model, x):
    """The largest difference, where the outputs' spread is 1."""
    ours, theirs = (
        [np.asarray(y, "float64") for y in keras.tree.flatten(m(x))]
        for m in (fast, model)
    )
    return max(np.abs(a - b).max() / np.ptp(b) for a, b in zip(ours, theirs))


def outputs_of(model, names, x):
    """What layers hand on, by their names."""
    tensors = [model.get_layer(name).output for name in names]
    inputs = model.inputs[0] if len(model.inputs) == 1 else model.inputs
    found = keras.Model(inputs, tensors)(x)
    return dict(zip(names, [np.asarray(y) for y in keras.tree.flatten(found)]))
