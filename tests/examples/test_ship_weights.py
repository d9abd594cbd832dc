import json

import keras
import numpy as np
import pytest
import ship_weights

from keras_adder.applications import ResNet20
from keras_adder.applications import _pretrained

RESULTS = {
    "command": "python examples/train_cifar.py --data=cifar10",
    "data": "cifar10",
    "model": "resnet20",
    "network": "adder",
    "seed": 3,
    "test_accuracy": 0.75,
    "versions": {"keras": keras.__version__},
}


def finished_run(folder, model, **results):
    folder.mkdir()
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.save(folder / "model.keras")
    (folder / "results.json").write_text(json.dumps(RESULTS | results))
    return str(folder)


def test_weights_of_a_run_load_by_name(tmp_path, monkeypatch, capsys):
    models = {adder: ResNet20(adder=adder) for adder in (True, False)}
    folder = tmp_path / "weights"
    for adder, model in models.items():
        network = "adder" if adder else "cnn"
        run = finished_run(tmp_path / network, model, network=network)
        ship_weights.main([run, f"--weights={folder}"])
    assert "resnet20_cnn_cifar10.weights.h5" in capsys.readouterr().out

    manifest = json.loads((folder / _pretrained.MANIFEST).read_text())
    assert list(manifest) == [
        "resnet20_adder_cifar10.weights.h5",
        "resnet20_cnn_cifar10.weights.h5",
    ]
    entry = manifest["resnet20_adder_cifar10.weights.h5"]
    for name in ("command", "seed", "test_accuracy", "versions"):
        assert entry[name] == RESULTS[name]
    assert entry["classes"] == 10

    monkeypatch.setattr(_pretrained, "FOLDER", folder)
    monkeypatch.setattr(_pretrained, "_read_manifest", lambda: manifest)
    for adder, model in models.items():
        loaded = ResNet20(weights="cifar10", adder=adder)
        for ours, theirs in zip(model.weights, loaded.weights, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_what_is_not_shipped(tmp_path, capsys):
    with pytest.raises(SystemExit):
        ship_weights.main([str(tmp_path)])
    assert "not a finished run" in capsys.readouterr().err
    run = finished_run(
        tmp_path / "bnn", keras.Sequential([keras.Input((2,))]), network="bnn"
    )
    with pytest.raises(SystemExit):
        ship_weights.main([run])
    assert "BNN" in capsys.readouterr().err
    # As `reproduce_mnist.py` keeps runs in `results/`.
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    with pytest.raises(SystemExit):
        ship_weights.main([str(tmp_path)])
    assert "does not hold its model.keras" in capsys.readouterr().err
