import json

import pytest

from training import runs

SETTINGS = {
    "network": "adder",
    "filter_gradient": "full_precision",
    "optimizer": "alr",
    "eta": 0.2,
    "ema": None,
    "mixed_precision": False,
    "strategy": None,
}


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file.json"
    runs.write_json(path, 1)
    with pytest.raises(ZeroDivisionError):
        with runs.replacing(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError
    assert json.loads(path.read_text()) == 1


def test_the_command_hides_where_data_lie(monkeypatch):
    monkeypatch.setattr(
        "sys.argv",
        ["train.py", "--data-dir", "/secret", "--data-dir=/too", "--images=/x"],
    )
    assert runs.command_line() == (
        "python train.py --data-dir DATA_DIR --data-dir=DATA_DIR "
        "--images=IMAGES"
    )


@pytest.mark.parametrize("adder", [True, False])
def test_settings_of_before_the_third_network_are_read(adder, tmp_path):
    path = tmp_path / "settings.json"
    old = SETTINGS | {"adder": adder}
    for name in ("network", "ema", "mixed_precision", "strategy"):
        del old[name]
    runs.write_json(path, old)
    network = "adder" if adder else "cnn"
    assert runs.read_settings(path) == SETTINGS | {"network": network}


def test_settings_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "settings.json"
    settings = SETTINGS | {"network": "bnn", "ema": 0.9}
    runs.write_json(path, settings)
    assert runs.read_settings(path) == settings


@pytest.mark.parametrize(
    "changed, label",
    [
        ({}, "AdderNet"),
        ({"network": "cnn", "optimizer": "ilr"}, "CNN"),
        ({"network": "bnn", "eta": 0.5}, "BNN"),
        ({"eta": 0.05}, "AdderNet, eta 0.05"),
        ({"eta": 0.05, "optimizer": "ilr"}, "AdderNet, ILR"),
        ({"optimizer": "sgd", "ema": 0.99}, "AdderNet, SGD, averaged"),
        ({"network": "cnn", "mixed_precision": True}, "CNN, bfloat16"),
    ],
)
def test_labels(changed, label):
    assert runs.label(SETTINGS | changed) == label
    assert runs.long_label(SETTINGS | changed) == label
    changed = changed | {"model": "resnet20"}
    assert runs.long_label(SETTINGS | changed) == f"resnet20, {label}"


def test_other_metrics_follow_in_the_history(tmp_path):
    path = tmp_path / "history.csv"
    row = dict.fromkeys(runs.HISTORY_FIELDS, 0.5) | {"epoch": 1}
    rows = [row | {"val_top5_accuracy": 0.75, "top5_accuracy": 0.25}]
    runs.write_history(path, rows)
    assert path.read_text().splitlines()[0] == (
        "epoch,loss,accuracy,val_loss,val_accuracy,learning_rate,seconds,"
        "top5_accuracy,val_top5_accuracy"
    )
    assert runs.read_history(path) == rows
