"""What Keras layers bring and an adder layer cannot honour is an error."""

import keras
import numpy as np
import pytest
from keras import dtype_policies

from keras_adder import AdderConv1D
from keras_adder import AdderConv2D
from keras_adder import AdderDense
from keras_adder import AdderDepthwiseConv2D
from keras_adder import AdderSeparableConv2D

QUANTIZED = [
    "int8_from_float32",
    "int8_from_mixed_bfloat16",
    "int4_from_float32",
    "int4/128_from_float32",
    "float8_from_mixed_bfloat16",
    "gptq/4/128_from_float32",
    "awq/4/128_from_float32",
]
# Those of layers whose Keras layers have LoRA.
WITH_LORA = {
    "AdderConv1D": (lambda **kw: AdderConv1D(4, 3, **kw), (1, 6, 3)),
    "AdderConv2D": (lambda **kw: AdderConv2D(4, 3, **kw), (1, 6, 6, 3)),
    "AdderDense": (lambda **kw: AdderDense(4, **kw), (1, 5)),
}
FACTORIES = {
    **WITH_LORA,
    "AdderDepthwiseConv2D": (
        lambda **kw: AdderDepthwiseConv2D(3, **kw),
        (1, 6, 6, 3),
    ),
    "AdderSeparableConv2D": (
        lambda **kw: AdderSeparableConv2D(4, 3, **kw),
        (1, 6, 6, 3),
    ),
}


@pytest.fixture(params=FACTORIES)
def make(request):
    return FACTORIES[request.param][0]


@pytest.fixture
def inputs(request, make):
    shape = next(s for f, s in FACTORIES.values() if f is make)
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def assert_unharmed(layer, inputs, before):
    assert layer.quantization_mode is None
    np.testing.assert_array_equal(layer(inputs), before)


@pytest.mark.parametrize("dtype", [*QUANTIZED, "int32", "bool", "string"])
def test_dtype_argument(make, dtype):
    with pytest.raises(ValueError, match=f"`dtype`.*dtype={dtype}"):
        make(dtype=dtype)
    with pytest.raises(ValueError, match=f"`dtype`.*dtype={dtype}"):
        make(dtype=dtype_policies.get(dtype))


@pytest.mark.parametrize("dtype", QUANTIZED)
def test_dtype_in_a_config(make, dtype):
    config = make().get_config()
    policy = dtype_policies.serialize(dtype_policies.get(dtype))
    for value in (dtype, policy):
        # Keras turns what goes wrong in `from_config` into a `TypeError`.
        with pytest.raises(TypeError, match=f"`dtype`.*dtype={dtype}"):
            type(make()).from_config({**config, "dtype": value})


@pytest.mark.parametrize("dtype", QUANTIZED)
def test_global_dtype_policy(make, dtype):
    keras.config.set_dtype_policy(dtype)
    try:
        with pytest.raises(ValueError, match=f"`dtype`.*dtype={dtype}"):
            make()
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("dtype", QUANTIZED)
def test_dtype_policy_map(make, inputs, dtype):
    quantized, plain = dtype_policies.get(dtype), dtype_policies.get("float32")
    named = dtype_policies.DTypePolicyMap(plain, {"named": quantized})
    with pytest.raises(ValueError, match="`dtype`.*quantization_mode="):
        make(dtype=named, name="named")(inputs)
    assert make(dtype=named, name="other")(inputs).dtype == "float32"

    default = dtype_policies.DTypePolicyMap(quantized, {"named": plain})
    with pytest.raises(ValueError, match="`dtype`.*quantization_mode="):
        make(dtype=default, name="other")(inputs)
    assert make(dtype=default, name="named")(inputs).dtype == "float32"


@pytest.mark.parametrize("dtype", QUANTIZED)
def test_dtype_policy_set_later(make, inputs, dtype):
    layer = make()
    layer.dtype_policy = dtype
    with pytest.raises(ValueError, match=f"`dtype`.*dtype={dtype}"):
        layer(inputs)

    layer = make()
    before = layer(inputs)
    with pytest.raises((NotImplementedError, ValueError)):
        layer.dtype_policy = dtype
    # Keras has already set it, so that a call must fail as well.
    with pytest.raises(NotImplementedError, match=f"dtype={dtype}"):
        layer(inputs)
    layer.dtype_policy = "float32"
    assert_unharmed(layer, inputs, before)


OTHER_CALL = r"quantize\(\).*keras_adder\.inference\.optimize.*"


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
@pytest.mark.parametrize("type_check", [True, False])
def test_quantize(make, inputs, mode, type_check):
    layer = make()
    before = layer(inputs)
    with pytest.raises(ValueError, match=f"{OTHER_CALL}mode={mode}"):
        layer.quantize(mode, type_check=type_check)
    assert_unharmed(layer, inputs, before)


def test_quantize_by_config(make, inputs):
    layer = make()
    before = layer(inputs)
    for config in (
        keras.quantizers.Int8QuantizationConfig(),
        keras.quantizers.Int4QuantizationConfig(block_size=2),
    ):
        with pytest.raises(ValueError, match=f"{OTHER_CALL}mode=int"):
            layer.quantize(config=config)
    assert_unharmed(layer, inputs, before)


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
@pytest.mark.parametrize("type_check", [True, False])
def test_quantizing_a_model_is_an_error(make, inputs, mode, type_check):
    layer = make(name="adder")
    model = keras.Sequential([layer, keras.layers.Dense(2)])
    model(inputs)
    before = layer(inputs)
    with pytest.raises(ValueError, match=f"{OTHER_CALL}mode={mode}.*'adder'"):
        model.quantize(mode, type_check=type_check)
    assert model.layers[-1].quantization_mode is None
    assert_unharmed(layer, inputs, before)


def test_quantizing_what_is_no_adder_layer(make, inputs):
    layer = make(name="adder")
    model = keras.Sequential([layer, keras.layers.Dense(2, name="last")])
    model(inputs)
    before = layer(inputs)
    model.quantize("int8", filters="last")
    assert model.layers[-1].quantization_mode == "int8"
    assert_unharmed(layer, inputs, before)
    assert np.all(np.isfinite(model(inputs)))


class Tokenizer:
    def tokenize(self, text):
        return np.arange(8)


@pytest.mark.parametrize("name", ["GPTQConfig", "AWQConfig"])
def test_structured_quantization_of_a_model(name):
    layer = AdderDense(4, name="adder")
    model = keras.Sequential([keras.Input((None, 5)), layer])
    inputs = np.ones((1, 2, 5), "float32")
    before = layer(inputs)
    config = getattr(keras.quantizers, name)(
        dataset=["a text"],
        tokenizer=Tokenizer(),
        weight_bits=4,
        num_samples=1,
        sequence_length=4,
        group_size=-1,
        quantization_layer_structure={
            "pre_block_layers": [keras.layers.Embedding(20, 5)],
            "sequential_blocks": [model],
        },
    )
    with pytest.raises(ValueError, match=f"quantize.*mode={config.mode}"):
        model.quantize(config.mode, config=config)
    assert_unharmed(layer, inputs, before)


def test_quantized_build(make):
    with pytest.raises(NotImplementedError, match="quantized_build"):
        make().quantized_build((5, 4), "int8")


@pytest.mark.parametrize("name", ["lora_rank", "lora_alpha"])
def test_lora_arguments(make, name):
    with pytest.raises(ValueError, match=f"`{name}` argument.*{name}=2"):
        make(**{name: 2})
    with pytest.raises(TypeError, match=f"`{name}` argument.*{name}=2"):
        type(make()).from_config({**make().get_config(), name: 2})


@pytest.mark.parametrize("name", ["lora_rank", "lora_alpha"])
@pytest.mark.parametrize("layer", WITH_LORA)
def test_lora_arguments_that_ask_for_nothing(layer, name):
    make, _ = WITH_LORA[layer]
    assert make(**{name: None}).get_config() is not None


def test_quantization_config_argument(make):
    config = keras.quantizers.Int8QuantizationConfig()
    with pytest.raises(ValueError, match="`quantization_config` argument"):
        make(quantization_config=config)
    serialized = keras.saving.serialize_keras_object(config)
    with pytest.raises(TypeError, match="quantization_config"):
        type(make()).from_config(
            {**make().get_config(), "quantization_config": serialized}
        )


def test_enable_lora(make, inputs):
    layer = make()
    before = layer(inputs)
    weights = layer.weights
    with pytest.raises(NotImplementedError, match="enable_lora.*rank=2"):
        layer.enable_lora(2, lora_alpha=4)
    assert layer.trainable_weights == weights
    assert_unharmed(layer, inputs, before)
