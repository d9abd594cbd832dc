"""Runs the example on a small folder of images."""

import numpy as np
import pytest
import train_imagenet

from training import loop
from training import runs


@pytest.mark.slow
def test_a_folder_of_images_from_end_to_end(
    image_folder, tmp_path, interrupted_in_second_epoch
):
    command = [
        *(f"--images={image_folder}", "--image-size=32", "--batch-size=16"),
        *("--epochs=2", "--verbose=0", f"--output={tmp_path}"),
    ]
    with interrupted_in_second_epoch():
        train_imagenet.main(command)
    first = runs.read_history(tmp_path / "history.csv")
    assert len(first) == 1
    train_imagenet.main(command)

    history = runs.read_history(tmp_path / "history.csv")
    assert [row["epoch"] for row in history] == [1, 2]
    assert history[0] == first[0]
    assert {"top5_accuracy", "val_top5_accuracy"} <= history[0].keys()
    results = runs.read_settings(tmp_path / "results.json")
    assert results["data"] == "colours"
    assert results["image_size"] == 32
    assert "images" not in results
    assert (results["training_images"], results["test_images"]) == (33, 12)
    # All three classes are among the first five.
    assert results["test_top5_accuracy"] == 1
    np.testing.assert_allclose(
        results["test_accuracy"], history[-1]["val_accuracy"], atol=1e-6
    )
    served = results["served_without_keras_adder"]
    assert served["images"] == 12
    assert served["max_difference"] <= served["tolerance"]


@pytest.mark.parametrize("model", train_imagenet.MODELS)
def test_models(model):
    title, builder = train_imagenet.MODELS[model]
    assert builder.__name__.lower() == model
    assert title.lower().replace("-", "") == model


def test_the_recipe_is_the_papers():
    args = train_imagenet.parse_arguments([])
    assert (args.data, args.model, args.network) == (
        *("imagenet2012", "resnet18"),
        "adder",
    )
    assert (args.epochs, args.batch_size, args.image_size) == (150, 256, 224)
    assert (args.learning_rate, args.weight_decay) == (0.1, 1e-4)
    args.data = "imagenet2012"
    assert loop.run_name(args) == "imagenet2012-resnet18-adder-seed1"


def test_images_too_small_are_refused(capsys):
    with pytest.raises(SystemExit):
        train_imagenet.parse_arguments(["--image-size=31"])
    assert "--image-size: must be at least 32" in capsys.readouterr().err
