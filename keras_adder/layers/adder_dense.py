import math
from typing import Any

import keras

from keras_adder._typing import Activation
from keras_adder._typing import Constraint
from keras_adder._typing import Initializer
from keras_adder._typing import Regularizer
from keras_adder._typing import Tensor
from keras_adder.layers.adder_layer import AdderLayer


@keras.saving.register_keras_serializable(package="keras_adder")
class AdderDense(AdderLayer, keras.layers.Dense):
    """Densely-connected adder layer.

    Where `keras.layers.Dense` computes the dot product of its input with each
    column of the kernel, this layer measures how far they are apart: the
    output is the negated l1 distance,

    `output(t) = -sum_k |input(k) - kernel(k, t)|`

    It takes additions only, no multiplications.

    The output is never positive, and large: its variance grows with the size
    of the input. Follow the layer by a `keras.layers.BatchNormalization`, and
    set `use_bias=False`, since the batch normalization has a bias of its own.
    The default `use_bias=True` is that of `keras.layers.Dense`.

    The gradients are the paper's, not the derivatives of the distance: the
    kernel receives the full-precision difference `input - kernel`, inputs the
    clipped one, `clip(kernel - input, -1, 1)`. The gradients of adder kernels
    are much smaller than those of other weights; train them with
    `keras_adder.ALR`, which finds the kernels by
    `keras_adder.is_adder_filter(layer.kernel)`.

    Note: If the input to the layer has a rank greater than 2, the distances
    are taken along the last axis of the `inputs` and axis 0 of the `kernel`.
    For example, if input has dimensions `(batch_size, d0, d1)`, then we create
    a `kernel` with shape `(d1, units)`, and the output has shape
    `(batch_size, d0, units)`.

    Note on batch normalization: `keras_adder.ALR` moves the output of this
    layer by steps of a fixed norm, which the moving averages of a
    `keras.layers.BatchNormalization` with its default momentum of 0.99 do not
    follow while the learning rate is high, or over some hundred steps. Where
    validation is far worse than training, measure them anew:
    `keras_adder.callbacks.RecalibrateBatchNormalization` does it in `fit()`.

    Note on half precision: sums are accumulated in float32 and then rounded to
    the layer's `compute_dtype`. Distances are large numbers with small
    differences: of a distance near 5000, `"mixed_float16"` keeps steps of 4
    and `"mixed_bfloat16"` steps of 32.

    Reference:

    - [AdderNet: Do We Really Need Multiplications in Deep Learning?](
        https://arxiv.org/abs/1912.13200) (CVPR 2020), equations 2, 5 and 6

    Args:
        units: Positive integer, dimensionality of the output space.
        activation: Activation function to use.
            If you don't specify anything, no activation is applied
            (ie. "linear" activation: `a(x) = x`). A ReLU lets nothing pass
            here, as outputs are never positive: it belongs behind the batch
            normalization.
        use_bias: Boolean, whether the layer uses a bias vector.
        kernel_initializer: Initializer for the `kernel` weights matrix. If
            `None`, the default initializer, the standard normal
            `RandomNormal(mean=0.0, stddev=1.0)`, will be used.
        bias_initializer: Initializer for the bias vector.
        kernel_regularizer: Regularizer function applied to
            the `kernel` weights matrix. With `keras_adder.ALR` it does not do
            what it does elsewhere: use `ALR(weight_decay=...)`.
        bias_regularizer: Regularizer function applied to the bias vector.
        activity_regularizer: Regularizer function applied to
            the output of the layer (its "activation").
        kernel_constraint: Constraint function applied to
            the `kernel` weights matrix.
        bias_constraint: Constraint function applied to the bias vector.
        lora_rank: Not supported, must be `None`. It is here so that the
            arguments are those of `keras.layers.Dense`, in their order.
        lora_alpha: Not supported, must be `None`.
        quantization_config: Not supported, must be `None`.
        filter_gradient: string, either `"full_precision"` or `"sign"`. The
            gradient that the kernel receives: `input - kernel`, or its sign,
            which is the paper's ablation.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.
            Quantized dtype policies are not supported.

    Input shape:
        N-D tensor with shape: `(batch_size, ..., input_dim)`.
        The most common situation would be
        a 2D input with shape `(batch_size, input_dim)`.

    Output shape:
        N-D tensor with shape: `(batch_size, ..., units)`.
        For instance, for a 2D input with shape `(batch_size, input_dim)`,
        the output would have shape `(batch_size, units)`.

    Raises:
        ValueError: when `lora_rank`, `lora_alpha` or `quantization_config` is
            given, and when `filter_gradient` or `dtype` is not one of those
            above. And from `quantize()`, which is for matrix products: see
            `keras_adder.inference.optimize`.
        NotImplementedError: from `enable_lora()`.

    Example:

    >>> x = np.random.rand(4, 128)
    >>> y = keras_adder.AdderDense(32, use_bias=False)(x)
    >>> print(y.shape)
    (4, 32)
    >>> bool(np.max(y) < 0)
    True
    """

    def __init__(
        self,
        units: int,
        activation: Activation = None,
        use_bias: bool = True,
        kernel_initializer: Initializer = None,
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        activity_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        lora_rank: None = None,
        lora_alpha: None = None,
        quantization_config: None = None,
        filter_gradient: str = "full_precision",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            units=units,
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            lora_rank=lora_rank,
            lora_alpha=lora_alpha,
            quantization_config=quantization_config,
            filter_gradient=filter_gradient,
            **kwargs,
        )

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        x = self._distance_op(inputs, self.kernel)
        if self.bias is not None:
            x = keras.ops.add(x, self.bias)
        if self.activation is not None:
            x = self.activation(x)
        return x

    def _distance_op(self, inputs, kernel):
        """The negated l1 distances, as a convolution of 1x1 images."""
        inputs, kernel = self._promote(inputs, kernel)
        input_dim, units = kernel.shape
        leading_shape = keras.ops.shape(inputs)[:-1]
        outputs = self._distances(
            keras.ops.reshape(
                inputs, (math.prod(leading_shape), 1, 1, input_dim)
            ),
            keras.ops.reshape(kernel, (1, 1, input_dim, units)),
            data_format="channels_last",
        )
        return keras.ops.reshape(outputs, leading_shape + (units,))
