"""What `report` says: by hand on one layer, and on networks."""

import builtins
import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from fused_networks import images
from keras import layers

from keras_adder import AdderDense
from keras_adder import inference


def silent(model, fast, *args):
    return inference.report(model, fast, *args, print_fn=lambda text: None)


@pytest.fixture(scope="module")
def fast(model):
    return inference.optimize(model, "int8", images())


def by_hand():
    """Inputs from 0 to 255, of whole numbers, and filters of halves."""
    model = keras.Sequential(
        [keras.Input((2,)), AdderDense(2, name="d", use_bias=False)]
    )
    model.layers[0].kernel.assign([[-3.0, 255.0], [300.0, 7.5]])
    x = np.array([[0, 0], [255, 255], [10, 7], [9, 8]], "float32")
    return model, x


def test_numbers_by_hand():
    model, x = by_hand()
    fast = inference.optimize(model, "int8", x)
    layer = fast.get_layer("d")
    # Two of four are clipped; 7.5 is rounded to the even neighbour.
    np.testing.assert_array_equal(layer.kernel, [[0, 255], [255, 8]])
    exact = np.array([[-303, -262.5], [-303, -247.5], [-306, -245.5]])
    exact = np.append(exact, [[-304, -246.5]], axis=0)
    np.testing.assert_array_equal(model(x), exact)
    rounded = np.array([[-303, -263], [-303, -247], [-306, -246]])
    rounded = np.append(rounded, [[-304, -246]], axis=0)
    # The mean error of the second one is zero.
    np.testing.assert_array_equal(layer.offset, [-3 - 45, 0])
    np.testing.assert_array_equal(fast(x), rounded)
    labels = np.array([1, 1, 0, 1])
    report = silent(model, fast, (x, labels))
    (row,) = report.rows
    assert (row.name, row.low, row.high) == ("d", 0.0, 255.0)
    assert (row.scale, row.zero_point, row.clipped) == (1.0, 0, 0.5)
    assert (row.filter_dtype, row.output_dtype) == ("uint8", "float32")
    assert row.bytes == 4 + 8 + 8
    noise = 4 * 0.5**2
    wanted = 10 * math.log10(np.sum(exact**2) / noise)
    assert row.snr == pytest.approx(wanted) == report.snr
    assert (report.bytes_before, report.bytes_after) == (16, 20)
    assert report.examples == 4 and report.kept == []
    assert report.accuracy_before == report.accuracy_after == 0.75
    assert report.agreement == 1.0


def test_equal_outputs():
    model, x = by_hand()
    fast = inference.optimize(model, "float32")
    (row,) = silent(model, fast, x).rows
    assert row.snr == math.inf
    assert (row.low, row.scale, row.zero_point, row.clipped) == (None,) * 4
    assert (row.filter_dtype, row.bytes) == ("float32", 16 + 16)


def test_a_network(model, fast):
    x = images(100, seed=4)
    labels = np.asarray(model(x)).argmax(-1)
    labels[:30] = (labels[:30] + 1) % 5
    report = silent(model, fast, (x, labels))
    assert [row.name for row in report.rows] == ["a1", "a0", "a2", "b1", "b2"]
    for row in report.rows:
        layer = fast.get_layer(row.name)
        assert row.scale == layer.input_scale
        assert row.high == pytest.approx(255 * row.scale) and row.low == 0
        kernel = np.asarray(model.get_layer(row.name).kernel)
        outside = (kernel < 0) | (kernel > row.high)
        assert row.clipped == np.mean(outside)
        assert 15 < row.snr < 60
    assert report.accuracy_before == 0.7
    right = np.asarray(fast(x)).argmax(-1)
    assert report.accuracy_after == pytest.approx(np.mean(right == labels))
    same = np.mean(right == np.asarray(model(x)).argmax(-1))
    assert report.agreement == pytest.approx(same)
    assert report.bytes_after < report.bytes_before
    assert {kept.name: kept.reason for kept in report.kept} == {
        "stem": "not an adder layer",
        "stem_relu": "not behind an adder layer",
        "pool": "there is no fused form of it",
        "top": "not an adder layer",
    }


def test_all_kinds_of_data(model, fast):
    x, labels = images(100, seed=4), np.arange(100) % 5
    wanted = silent(model, fast, (x, labels)).as_dict()
    one_hot = keras.utils.to_categorical(labels, 5)
    data = tf.data.Dataset.from_tensor_slices((x, labels[:, None])).batch(64)
    for given in ((x, one_hot), data):
        assert silent(model, fast, given).as_dict() == wanted
    without = silent(model, fast, x)
    assert without.accuracy_before is None is without.accuracy_after
    assert without.agreement == wanted["agreement"]
    nothing = silent(model, fast)
    assert nothing.examples == 0 and nothing.snr is None
    assert [row.snr for row in nothing.rows] == [None] * 5
    assert "SNR" in str(nothing) and "Accuracy" not in str(nothing)


def test_few_bits_have_their_range(model):
    fast = inference.optimize(model, "int8", images(), bits=3)
    report = silent(model, fast, images())
    for row in report.rows:
        assert row.high == pytest.approx(7 * row.scale, rel=1e-6)
    shares = [row.clipped for row in report.rows]
    assert shares == [row.clipped for row in silent(model, fast).rows]


def test_after_loading(model, tmp_path):
    """Reasons and ranges are found again."""
    fast = inference.optimize(
        model, "int8", images(), keep_float=lambda layer: layer.name == "b1"
    )
    report = silent(model, fast, images())
    assert {i.name: i.reason for i in report.kept} | {
        "b1": "`keep_float` was true",
        "b1_bn": "not behind an adder layer",
    } == {i.name: i.reason for i in report.kept}
    fast.save(tmp_path / "fast.keras")
    loaded = keras.models.load_model(tmp_path / "fast.keras")
    assert silent(model, loaded, images()).as_dict() == report.as_dict()


def test_outputs_that_are_no_classes():
    inputs = keras.Input((4,))
    x = AdderDense(3, name="d")(inputs)
    model = keras.Model(inputs, [x, layers.Activation("tanh")(x)])
    fast = inference.optimize(model, "int8", images(20, (4,)))
    report = silent(model, fast, images(20, (4,)))
    assert report.agreement is None is report.accuracy_before
    assert report.snr > 20 and report.examples == 20


def test_the_table(model, fast, capsys):
    report = inference.report(model, fast, (images(50), np.zeros(50, int)))
    printed = capsys.readouterr().out
    assert printed == str(report) + "\n"
    for text in (
        "Fused layer",
        "a1",
        "uint8",
        "Clipped",
        "not an adder layer",
        "Accuracy: ",
        "The same class: ",
        f"Weights: {report.bytes_before:,} bytes before",
        "on 50 examples",
    ):
        assert text in printed
    assert all(line == line.rstrip() for line in printed.splitlines())
    json.dumps(report.as_dict())
    texts = []
    inference.report(model, fast, print_fn=texts.append)
    assert len(texts) == 1 and "a1" in texts[0]


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_the_picture(model, precision, tmp_path):
    pytest.importorskip("matplotlib")
    fast = inference.optimize(model, precision, images())
    silent(model, fast, images()).plot(tmp_path / "layers.png")
    assert (tmp_path / "layers.png").read_bytes()[:4] == b"\x89PNG"
    silent(model, fast).plot(str(tmp_path / "layers.svg"))
    assert "a1" in (tmp_path / "layers.svg").read_text()


def test_without_matplotlib(model, fast, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match="`pip install matplotlib`.*=l.png"):
        silent(model, fast).plot("l.png")


def test_what_is_refused(model, fast):
    other, x = by_hand()
    for first, second in ((other, fast), (model, model)):
        with pytest.raises(ValueError, match="`fast` must be what .*optimize"):
            silent(first, second)
    with pytest.raises(TypeError, match="must be a `keras.Model`"):
        silent(model, None)
    with pytest.raises(ValueError, match="`dataset` must hold at least one"):
        silent(model, fast, images(0))
    with pytest.raises(ValueError, match=r"labels of `dataset`.*\(50, 3\)"):
        silent(model, fast, (images(50), np.zeros((50, 3))))
