from typing import Any

import keras

from keras_adder._typing import Activation
from keras_adder._typing import Constraint
from keras_adder._typing import Initializer
from keras_adder._typing import IntOrPair
from keras_adder._typing import Regularizer
from keras_adder._typing import Tensor
from keras_adder.layers.adder_convolution import AdderConvolution
from keras_adder.layers.adder_convolution import check_padding


@keras.saving.register_keras_serializable(package="keras_adder")
class AdderDepthwiseConv2D(AdderConvolution, keras.layers.DepthwiseConv2D):
    """2D depthwise adder convolution layer.

    Where `keras.layers.DepthwiseConv2D` correlates each channel of its input
    with filters of its own, this layer measures how far they are apart: the
    output is the negated l1 distance between a filter and the patch under it,
    in one channel,

    `output(m, n, k * depth_multiplier + t) =
    -sum_{i,j} |input(m+i, n+j, k) - kernel(i, j, k, t)|`

    It takes additions only, no multiplications. Padding is real zeros: a
    padded tap contributes `-|0 - kernel|`.

    The output is never positive, and its variance grows with the number of
    taps. Follow the layer by a `keras.layers.BatchNormalization`, and set
    `use_bias=False`, since the batch normalization has a bias of its own. The
    default `use_bias=True` is that of `keras.layers.DepthwiseConv2D`.

    The gradients are the paper's, not the derivatives of the distance: filters
    receive the full-precision difference `input - kernel`, inputs the clipped
    one, `clip(kernel - input, -1, 1)`. The gradients of adder filters are much
    smaller than those of other weights; train them with `keras_adder.ALR`,
    which finds the filters by `keras_adder.is_adder_filter(layer.kernel)`.

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
        kernel_size: int or tuple/list of 2 integer, specifying the size of the
            convolution window.
        strides: int or tuple/list of 2 integer, specifying the stride length
            of the convolution. They may differ, and be combined with
            `dilation_rate > 1`, which `keras.layers.DepthwiseConv2D` refuses.
        padding: string, either `"valid"` or `"same"` (case-insensitive).
            `"valid"` means no padding. `"same"` results in padding evenly to
            the left/right or up/down of the input. When `padding="same"` and
            `strides=1`, the output has the same size as the input.
        depth_multiplier: The number of filters of each input channel. The
            total number of output channels will be equal to
            `input_channel * depth_multiplier`.
        data_format: string, either `"channels_last"` or `"channels_first"`.
            The ordering of the dimensions in the inputs. `"channels_last"`
            corresponds to inputs with shape
            `(batch_size, height, width, channels)`
            while `"channels_first"` corresponds to inputs with shape
            `(batch_size, channels, height, width)`. Both work on any device.
            It defaults to the `image_data_format` value found in your Keras
            config file at `~/.keras/keras.json`. If you never set it, then it
            will be `"channels_last"`.
        dilation_rate: int or tuple/list of 2 integers, specifying the dilation
            rate to use for dilated convolution.
        activation: Activation function. If `None`, no activation is applied.
            A ReLU lets nothing pass here, as outputs are never positive: it
            belongs behind the batch normalization.
        use_bias: bool, if `True`, bias will be added to the output.
        depthwise_initializer: Initializer for the convolution kernel. If
            `None`, the default initializer, the standard normal
            `RandomNormal(mean=0.0, stddev=1.0)`, will be used.
        bias_initializer: Initializer for the bias vector. If `None`, the
            default initializer (`"zeros"`) will be used.
        depthwise_regularizer: Optional regularizer for the convolution kernel.
            With `keras_adder.ALR` it does not do what it does elsewhere: use
            `ALR(weight_decay=...)`.
        bias_regularizer: Optional regularizer for the bias vector.
        activity_regularizer: Optional regularizer function for the output.
        depthwise_constraint: Optional projection function to be applied to the
            kernel after being updated by an `Optimizer` (e.g. used to implement
            norm constraints or value constraints for layer weights). The
            function must take as input the unprojected variable and must return
            the projected variable (which must have the same shape). Constraints
            are not safe to use when doing asynchronous distributed training.
        bias_constraint: Optional projection function to be applied to the
            bias after being updated by an `Optimizer`.
        filter_gradient: string, either `"full_precision"` or `"sign"`. The
            gradient that the filters receive: `input - kernel`, or its sign,
            which is the paper's ablation.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.
            Quantized dtype policies are not supported.

    Input shape:

    - If `data_format="channels_last"`:
        A 4D tensor with shape: `(batch_size, height, width, channels)`
    - If `data_format="channels_first"`:
        A 4D tensor with shape: `(batch_size, channels, height, width)`

    Output shape:

    - If `data_format="channels_last"`:
        A 4D tensor with shape:
        `(batch_size, new_height, new_width, channels * depth_multiplier)`
    - If `data_format="channels_first"`:
        A 4D tensor with shape:
        `(batch_size, channels * depth_multiplier, new_height, new_width)`

    Returns:
        A 4D tensor representing
        `activation(depthwise_adder_conv2d(inputs, kernel) + bias)`.

    Raises:
        ValueError: when `filter_gradient`, `padding` or `dtype` is not one of
            those above. And from `quantize()`, which is for matrix products:
            see `keras_adder.inference.optimize`.
        NotImplementedError: from `enable_lora()`.

    Example:

    >>> x = np.random.rand(4, 10, 10, 12)
    >>> y = keras_adder.AdderDepthwiseConv2D(3, use_bias=False)(x)
    >>> print(y.shape)
    (4, 8, 8, 12)
    >>> bool(np.max(y) < 0)
    True
    """

    KERNELS = {"kernel": "depthwise"}

    def __init__(
        self,
        kernel_size: IntOrPair,
        strides: IntOrPair = (1, 1),
        padding: str = "valid",
        depth_multiplier: int = 1,
        data_format: str | None = None,
        dilation_rate: IntOrPair = (1, 1),
        activation: Activation = None,
        use_bias: bool = True,
        depthwise_initializer: Initializer = None,
        bias_initializer: Initializer = "zeros",
        depthwise_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        activity_regularizer: Regularizer = None,
        depthwise_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        filter_gradient: str = "full_precision",
        **kwargs: Any,
    ) -> None:
        check_padding(padding)
        super().__init__(
            kernel_size=kernel_size,
            strides=strides,
            padding=padding,
            depth_multiplier=depth_multiplier,
            data_format=data_format,
            dilation_rate=dilation_rate,
            activation=activation,
            use_bias=use_bias,
            depthwise_initializer=depthwise_initializer,
            bias_initializer=bias_initializer,
            depthwise_regularizer=depthwise_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            depthwise_constraint=depthwise_constraint,
            bias_constraint=bias_constraint,
            filter_gradient=filter_gradient,
            **kwargs,
        )

    def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        return self._distances(
            inputs,
            depthwise_filters(kernel),
            strides=self.strides,
            padding=self.padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )


def depthwise_filters(kernel: Tensor) -> Tensor:
    """The kernel as filters of one channel, in as many groups as channels."""
    return keras.ops.reshape(kernel, (*kernel.shape[:2], 1, -1))
