"""Accuracy against bits: the obvious way by hand, and the command itself."""

import pathlib

import keras
import numpy as np
import pytest

pytest.importorskip("matplotlib")

import quantize  # noqa: E402

from keras_adder import AdderDense  # noqa: E402

from training import runs  # noqa: E402

DIGITS = (
    pathlib.Path(__file__).parents[1] / "applications/data/mnist_test_240.npz"
)


def model_of(kernel):
    inputs = keras.Input((2,))
    layer = AdderDense(2, use_bias=False, name="d")
    model = keras.Model(inputs, layer(inputs))
    layer.kernel.assign(kernel)
    return model


def test_one_scale_by_hand():
    """The levels of 2 bits from -100 to 200 are these, 0 and 100."""
    model = model_of([[-100.0, 30.0], [200.0, 70.0]])
    made = quantize.with_one_scale(model, {"d": (0.0, 90.0)}, 2)
    np.testing.assert_allclose(
        made.get_layer("d").kernel, [[-100, 0], [200, 100]], rtol=1e-6
    )
    # Inputs that are 0 and 100, once rounded.
    x = np.array([[40.0, 60.0]], "float32")
    np.testing.assert_allclose(made(x), [[-200, 0]], rtol=1e-6)
    # The model itself stays.
    np.testing.assert_allclose(model(x), [[-280, -20]], rtol=1e-6)


@pytest.mark.parametrize("low, high", [(0.0, 7.4), (-49.0, 97.0), (-5.0, -1.0)])
def test_zero_is_on_every_grid(low, high):
    for bits in (2, 8):
        step, lowest, highest = quantize.grid(low, high, bits)
        assert highest - lowest == 2**bits - 1
        assert lowest <= 0 <= highest
        assert abs(lowest * step - min(low, 0)) <= 0.5 * step
        assert abs(highest * step - max(high, 0)) <= 0.5 * step


def test_tries_do_not_take_the_place_of_results():
    assert str(quantize.parse([]).output) == "results/inference/resnet20"
    args = quantize.parse(["--model=lenet5", "--images=5"])
    assert str(args.output) == "runs/inference/lenet5"
    assert quantize.parse(["--bits", "4", "8", "4"]).bits == [8, 4]
    for words in (["--bits=9"], ["--percentiles", "100"], ["--images=0"]):
        with pytest.raises(SystemExit):
            quantize.parse(words)


@pytest.fixture
def mnist(monkeypatch):
    """The first 240 test images of MNIST in place of the whole of it."""
    with np.load(DIGITS) as digits:
        images = quantize.data_lib.resize(digits["images"], 32)
        labels = digits["labels"]

    def load(name, data_dir, size):
        assert (name, size) == ("mnist", 32)
        parts = (images[:120], labels[:120], images[120:], labels[120:])
        normalisation = quantize.data_lib.NORMALISATION[name]
        return quantize.data_lib.ImageData(
            name, *parts, *map(np.array, normalisation)
        )

    monkeypatch.setattr(quantize.data_lib, "load", load)


def test_the_command(mnist, tmp_path, capsys):
    quantize.main(
        [
            *("--model=lenet5", "--calibration=100", "--seed=3"),
            *("--bits", "3", "8", "--percentiles", "99.9"),
            f"--output={tmp_path}",
        ]
    )
    results = runs.read_json(tmp_path / "quantization.json")
    found = quantize.accuracies(results)
    exact = found.pop("float")[32]
    assert list(found) == [
        quantize.MAXIMUM,
        "percentile 99.9",
        quantize.ONE_SCALE,
    ]
    assert exact > 0.98
    assert abs(found[quantize.MAXIMUM][16] - exact) < 0.01
    assert abs(found[quantize.MAXIMUM][8] - exact) < 0.02
    assert found["percentile 99.9"][3] > found[quantize.ONE_SCALE][3] + 0.2
    assert results["seed"] == 3 and results["calibration"] == 100
    first, *_ = results["layers"]
    assert first["name"] == "conv1_conv" and len(results["layers"]) == 5
    inputs = first["inputs"][quantize.MAXIMUM]
    assert inputs["low"] < 0 < inputs["high"]
    low, high = first["filters"]
    assert low < inputs["low"] and high > inputs["high"]
    assert 0 < inputs["filters_clipped"] < 1

    table = (tmp_path / "table.md").read_text("utf-8")
    assert f"{100 * exact:.2f} % in float32" in table
    assert "| 3 | " in table and table in capsys.readouterr().out
    assert table in (tmp_path / "log.txt").read_text("utf-8")
    assert "conv2_conv" in (tmp_path / "report.txt").read_text("utf-8")
    for name in ("accuracy", "ranges", "report"):
        # The picture, and not an empty sheet.
        assert (tmp_path / f"{name}.png").stat().st_size > 20_000
