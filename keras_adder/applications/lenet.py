import keras
import tensorflow as tf

from keras_adder.layers import AdderConv2D
from keras_adder.layers import AdderDense

# Below this, the second block has nothing left to pool.
MIN_SIZE = 16


def LeNet5(
    include_top=True,
    weights=None,
    input_tensor=None,
    input_shape=None,
    pooling=None,
    classes=10,
    classifier_activation="softmax",
    adder=True,
    name="lenet5",
):
    """Instantiates the LeNet-5-BN architecture, as an AdderNet or as a CNN.

    Two 5x5 convolutions of 6 and 16 filters and three dense layers of 120, 84
    and 10 units, each followed by a batch normalization. Every one of the five
    is an adder layer, the first and the last too; none has a bias.

    Reference:

    - [AdderNet: Do We Really Need Multiplications in Deep Learning?](
        https://arxiv.org/abs/1912.13200) (CVPR 2020), section 4.1
    - [Gradient-based learning applied to document recognition](
        https://doi.org/10.1109/5.726791) (Proceedings of the IEEE, 1998)

    The default input size for this model is 32x32, one channel: MNIST,
    resized. Scale the pixels yourself, e.g. to zero mean and unit variance;
    there is no preprocessing in the model. Its CNN twin takes 416,520
    multiplications an image, the AdderNet as many additions more and no
    multiplications outside the batch normalizations.

    Args:
        include_top: whether to include the 3 fully-connected
            layers at the top of the network.
        weights: one of `None` (random initialization),
            or the path to the weights file to be loaded.
            No pretrained weights are shipped yet.
        input_tensor: optional Keras tensor
            (i.e. output of `keras.Input()`)
            to use as image input for the model.
        input_shape: optional shape tuple, by default `(32, 32, 1)`
            (with `channels_last` data format) or
            `(1, 32, 32)` (with `"channels_first"` data format), or the shape
            of `input_tensor` if given. Width and height should be no smaller
            than 16; they may be `None` if `include_top` is `False`.
            E.g. `(28, 28, 1)` would be one valid value.
        pooling: Optional pooling mode for feature extraction
            when `include_top` is `False`.
            - `None` means that the output of the model will be
                the 4D tensor output of the
                last convolutional block.
            - `avg` means that global average pooling
                will be applied to the output of the
                last convolutional block, and thus
                the output of the model will be a 2D tensor.
            - `max` means that global max pooling will
                be applied.
        classes: optional number of classes to classify images
            into, only to be specified if `include_top` is `True`.
        classifier_activation: A `str` or callable. The activation function to
            use on the "top" layer. Ignored unless `include_top=True`. Set
            `classifier_activation=None` to return the logits of the "top"
            layer.  When loading pretrained weights, `classifier_activation`
            can only be `None` or `"softmax"`.
        adder: whether to build the AdderNet. If `False`, the model is its CNN
            twin: the same layers and names, with `keras.layers.Conv2D` and
            `keras.layers.Dense` in place of the adder layers.
        name: The name of the model (string).

    Returns:
        A `Model` instance.

    Raises:
        ValueError: when an argument is not one of those above.

    Example:

    >>> model = keras_adder.applications.LeNet5()
    >>> model.compile(
    ...     keras_adder.ALR(0.1, nesterov=True),
    ...     "sparse_categorical_crossentropy",
    ...     metrics=["accuracy"],
    ... )
    >>> images = np.random.rand(4, 32, 32, 1)
    >>> model.predict(images, verbose=0).shape
    (4, 10)
    """
    _validate_weights(weights)
    if include_top:
        _validate_classes(classes)
        _validate_activation(classifier_activation, weights)
    elif pooling not in {None, "avg", "max"}:
        raise ValueError(
            "The `pooling` argument should be one of `None`, 'avg' or 'max'. "
            f"Received: pooling={pooling}"
        )
    image_shape = _obtain_input_shape(input_shape, input_tensor, include_top)

    if input_tensor is None:
        image = keras.Input(shape=image_shape)
        inputs = image
    else:
        image = input_tensor
        # Ensure that the model takes into account
        # any potential predecessors of `input_tensor`.
        inputs = keras.utils.get_source_inputs(input_tensor)
        # A model of one input takes a tensor, not a list of one.
        inputs = inputs[0] if len(inputs) == 1 else inputs

    x = _conv_block(image, 6, adder, name="conv1")
    x = _conv_block(x, 16, adder, name="conv2")
    if include_top:
        x = keras.layers.Flatten(name="flatten")(x)
        x = _dense_block(x, 120, adder, name="fc1")
        x = _dense_block(x, 84, adder, name="fc2")
        x = _dense_block(x, classes, adder, None, name="fc3")
        x = keras.layers.Activation(classifier_activation, name="predictions")(
            x
        )
    elif pooling == "avg":
        x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    elif pooling == "max":
        x = keras.layers.GlobalMaxPooling2D(name="max_pool")(x)

    model = keras.Model(inputs, x, name=name)
    if weights is not None:
        model.load_weights(weights)
    return model


def _conv_block(x, filters, adder, name):
    """A 5x5 convolution, batch normalization, ReLU and 2x2 pooling."""
    conv = AdderConv2D if adder else keras.layers.Conv2D
    x = conv(filters, 5, use_bias=False, name=name + "_conv")(x)
    x = _batch_normalization(_channel_axis(), name + "_bn")(x)
    x = keras.layers.Activation("relu", name=name + "_relu")(x)
    return keras.layers.MaxPooling2D(2, name=name + "_pool")(x)


def _dense_block(x, units, adder, activation="relu", name=None):
    """A dense layer, batch normalization and, if given, an activation."""
    dense = AdderDense if adder else keras.layers.Dense
    x = dense(units, use_bias=False, name=name + "_dense")(x)
    x = _batch_normalization(-1, name + "_bn")(x)
    if activation is None:
        return x
    return keras.layers.Activation(activation, name=f"{name}_{activation}")(x)


def _batch_normalization(axis, name):
    # PyTorch's defaults, in Keras's terms, which the authors train with.
    return keras.layers.BatchNormalization(
        axis=axis, momentum=0.9, epsilon=1e-5, name=name
    )


def _channel_axis():
    channels_first = keras.config.image_data_format() == "channels_first"
    return 1 if channels_first else -1


def _validate_weights(weights):
    if weights is None or tf.io.gfile.exists(weights):
        return
    raise ValueError(
        "The `weights` argument should be either `None` (random "
        "initialization) or the path to the weights file to be loaded; no "
        f"pretrained weights are known by name yet. Received: weights={weights}"
    )


def _validate_classes(classes):
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
        raise ValueError(
            "The `classes` argument should be a positive integer. "
            f"Received: classes={classes}"
        )


def _validate_activation(classifier_activation, weights):
    if weights is None:
        return
    activation = keras.activations.get(classifier_activation)
    if activation not in {
        keras.activations.softmax,
        keras.activations.linear,
    }:
        raise ValueError(
            "Only `None` and `softmax` activations are allowed "
            "for the `classifier_activation` argument when using "
            "pretrained weights, with `include_top=True`; Received: "
            f"classifier_activation={classifier_activation}"
        )


def _obtain_input_shape(input_shape, input_tensor, include_top):
    """Validates the shape of one image, as given or as default."""
    channels_first = keras.config.image_data_format() == "channels_first"
    if input_tensor is not None:
        input_shape = _shape_of_tensor(input_tensor, input_shape)
    elif input_shape is None:
        input_shape = (1, 32, 32) if channels_first else (32, 32, 1)
    input_shape = tuple(input_shape)

    if len(input_shape) != 3:
        raise ValueError(
            "`input_shape` must be a tuple of three integers. "
            f"Received: input_shape={input_shape}"
        )
    sizes = input_shape[1:] if channels_first else input_shape[:2]
    if any(size is not None and size < MIN_SIZE for size in sizes):
        raise ValueError(
            f"Input size must be at least {MIN_SIZE}x{MIN_SIZE}; Received: "
            f"input_shape={input_shape}"
        )
    if include_top and None in input_shape:
        raise ValueError(
            "If `include_top` is True, "
            "you should specify a static `input_shape`. "
            f"Received: input_shape={input_shape}"
        )
    return input_shape


def _shape_of_tensor(input_tensor, input_shape):
    if not isinstance(input_tensor, keras.KerasTensor):
        raise ValueError(
            "Argument `input_tensor` must be a KerasTensor. "
            f"Received invalid type: input_tensor={input_tensor} "
            f"(of type {type(input_tensor)})"
        )
    shape = tuple(input_tensor.shape[1:])
    if input_shape is not None and tuple(input_shape) != shape:
        raise ValueError(
            "When providing the `input_tensor` argument, you cannot provide "
            "an incompatible `input_shape` argument. Received: "
            f"input_shape={input_shape}, input_tensor.shape="
            f"{input_tensor.shape}"
        )
    return shape
