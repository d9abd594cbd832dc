"""What all adder layers share."""

import warnings
from typing import Any
from typing import ClassVar
from typing import NoReturn

import keras
import numpy as np
import tensorflow as tf

from keras_adder._typing import Shape
from keras_adder.filters import mark_adder_filter
from keras_adder.ops import FILTER_GRADIENTS
from keras_adder.ops import adder_conv2d

FLOAT_DTYPES = ("bfloat16", "float16", "float32", "float64")


class AdderLayer(keras.layers.Layer):
    """Mix-in that turns a Keras layer with kernels into an adder layer.

    It stands before the Keras layer among the bases, draws the kernels from
    N(0, 1) by default, marks them as adder filters for the optimizers, and
    refuses what the Keras layer offers but computes as a matrix product:
    quantization and LoRA.

    Attributes:
        KERNELS: dict of strings, the names of the kernels, and with what the
            names of their arguments begin: `"depthwise"` for
            `depthwise_initializer`.

    Args:
        filter_gradient: string, the gradient that the filters receive,
            `"full_precision"` or `"sign"`.
        *args: Positional arguments of the Keras layer.
        **kwargs: Keyword arguments of the Keras layer.
    """

    KERNELS: ClassVar[dict[str, str]] = {"kernel": "kernel"}

    def __init__(
        self,
        *args: Any,
        filter_gradient: str = "full_precision",
        **kwargs: Any,
    ) -> None:
        for name in ("lora_rank", "lora_alpha", "quantization_config"):
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"`{type(self).__name__}` does not support the `{name}` "
                    "argument: LoRA and quantization are defined for matrix "
                    "products, not for distances. "
                    f"Received: {name}={kwargs[name]}"
                )
        if filter_gradient not in FILTER_GRADIENTS:
            raise ValueError(
                "The `filter_gradient` argument must be one of "
                f"{FILTER_GRADIENTS}. "
                f"Received: filter_gradient={filter_gradient}"
            )
        for prefix in self.KERNELS.values():
            if kwargs.get(f"{prefix}_initializer") is None:
                kwargs[f"{prefix}_initializer"] = _standard_normal()
        super().__init__(*args, **kwargs)
        self.filter_gradient = filter_gradient
        _warn_of_what_fails_silently(self)
        # The op has no XLA kernel; with this, Keras's `jit_compile="auto"`
        # does not try one.
        self.supports_jit = False
        # A map resolves by the layer's path, known only in `build()`.
        if not isinstance(
            self.dtype_policy, keras.dtype_policies.DTypePolicyMap
        ):
            self._check_dtype_policy()

    def build(self, input_shape: Shape) -> None:
        self._check_dtype_policy()
        super().build(input_shape)
        for name in self.KERNELS:
            mark_adder_filter(getattr(self, name))

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.update({"filter_gradient": self.filter_gradient})
        return config

    def quantize(
        self,
        mode: str | None = None,
        type_check: bool = True,
        config: Any = None,
    ) -> NoReturn:
        # Of a `NotImplementedError`, `keras.Model.quantize()` makes a warning,
        # and passes over the layer.
        raise ValueError(
            f"`{type(self).__name__}` does not support `quantize()`, which is "
            "for matrix products. `keras_adder.inference.optimize(model, "
            '"int8", calibration=images)` makes a model with integers of one '
            "with adder layers; to quantize other layers alone, pass "
            "`filters=` to `model.quantize()`. The layers before this one may "
            "have been quantized already. "
            f"Received: mode={mode} (layer '{self.name}')"
        )

    def quantized_build(self, *args: Any, **kwargs: Any) -> NoReturn:
        policy = self.dtype_policy.name
        raise NotImplementedError(
            self._unsupported("`quantized_build()`", dtype=policy)
        )

    def quantized_call(self, *args: Any, **kwargs: Any) -> NoReturn:
        policy = self.dtype_policy.name
        raise NotImplementedError(
            self._unsupported("a quantized `dtype`", dtype=policy)
        )

    def enable_lora(self, rank: int, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(
            self._unsupported("`enable_lora()`", rank=rank)
        )

    def _unsupported(self, what, **received):
        ((name, value),) = received.items()
        return (
            f"`{type(self).__name__}` does not support {what}: LoRA and "
            "quantization are defined for matrix products, not for distances. "
            f"Received: {name}={value} (layer '{self.name}')"
        )

    def _check_dtype_policy(self):
        dtypes = (self.compute_dtype, self.variable_dtype)
        if self.quantization_mode is None and set(dtypes) <= set(FLOAT_DTYPES):
            return
        raise ValueError(
            f"The `dtype` argument of `{type(self).__name__}` must be a "
            "floating-point type or policy, one of "
            f"{FLOAT_DTYPES + ('mixed_bfloat16', 'mixed_float16')}; an adder "
            "layer has no quantized computation. "
            f"Received: dtype={self.dtype_policy.name} (compute_dtype="
            f"{dtypes[0]}, variable_dtype={dtypes[1]}, quantization_mode="
            f"{self.quantization_mode})"
        )

    def _distances(self, inputs, filters, **geometry):
        """The op. What else computes the same takes this method's place."""
        return adder_conv2d(
            inputs, filters, filter_gradient=self.filter_gradient, **geometry
        )

    def _promote(self, *tensors):
        """Brings inputs and kernels to their common dtype, as Keras ops do."""
        inputs = tensors[0]
        if isinstance(inputs, (tf.SparseTensor, tf.RaggedTensor)):
            raise TypeError(
                f"The `inputs` of `{type(self).__name__}` must be a dense "
                "tensor: the distance to a zero is not zero. Received: "
                f"inputs={inputs} (of type {type(inputs).__name__})"
            )
        dtype = keras.backend.result_type(*(x.dtype for x in tensors))
        return [keras.ops.cast(x, dtype) for x in tensors]


# What was said already.
_said: set[str] = set()


def _warn_of_what_fails_silently(layer):
    """Warns of arguments that train, and to nothing."""
    name = type(layer).__name__
    for prefix in layer.KERNELS.values():
        argument = f"{prefix}_regularizer"
        regularizer = getattr(layer, argument)
        if regularizer is None or "regularizer" in _said:
            continue
        _said.add("regularizer")
        warnings.warn(
            f"`{argument}` on an adder layer is not weight decay: "
            "`keras_adder.ALR` rescales the gradient of adder filters, the "
            "penalty's included, to a fixed norm, so that the penalty decides "
            "its direction and filters shrink until they tell nothing apart. "
            "Use `keras_adder.ALR(weight_decay=...)` instead, which decays "
            "them after the rescaling, as the paper does. This is said once. "
            f"Received: {argument}={regularizer} "
            f"({name} '{layer.name}')",
            stacklevel=4,
        )
    if _lets_nothing_pass(layer.activation):
        # Not serialized, which would warn of a function without a name.
        activation = getattr(layer.activation, "__name__", layer.activation)
        known = layer.activation is getattr(
            keras.activations, str(activation), None
        )
        behind = f"Activation({activation!r})" if known else "Activation(...)"
        warnings.warn(
            "Nothing will pass this layer: the output of an adder layer is "
            f"never positive, and activation={activation} is 0 for all that is "
            "not. Put the activation behind a batch normalization: "
            f"`{name}(..., use_bias=False)`, "
            "`keras.layers.BatchNormalization()`, "
            f"`keras.layers.{behind}`. "
            f"Received: activation={activation} ({name} '{layer.name}')",
            stacklevel=4,
        )


def _lets_nothing_pass(activation):
    """Whether a function is 0 for all that is never positive."""
    if activation in (None, keras.activations.linear):
        return False
    distances = -np.logspace(-3, 4, 50, dtype="float32").reshape(5, 10)
    try:
        # Whatever graph the layer is made in, the answer is needed now.
        with tf.init_scope():
            values = keras.ops.convert_to_numpy(activation(distances))
    except Exception:  # A function of its own kind, of which nothing is known.
        return False
    return bool(np.all(values == 0))


def _standard_normal():
    """The initializer of adder filters, N(0, 1), a new one for each layer.

    One instance gives the same values on each call, so a shared default would
    give all layers of a model the same filters.
    """
    return keras.initializers.RandomNormal(mean=0.0, stddev=1.0)
