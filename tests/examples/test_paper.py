"""What the studies of the paper compute, without their trainings."""

import csv

import keras
import numpy as np
import pytest

pytest.importorskip("matplotlib")

import train_mnist  # noqa: E402

from paper import ablation  # noqa: E402
from paper import classification  # noqa: E402
from paper import eta  # noqa: E402
from paper import features  # noqa: E402
from paper import filters  # noqa: E402
from paper import gradients  # noqa: E402
from paper import normalization  # noqa: E402
from paper import operations  # noqa: E402
from paper import page  # noqa: E402
from paper import reproduce  # noqa: E402
from paper import study  # noqa: E402
from paper import train_variant  # noqa: E402
from paper import weights  # noqa: E402
from training import runs  # noqa: E402

ROOT = page.ROOT


def flags(*words, epochs=50, seeds=(1, 2, 3)):
    parser = study.make_parser("", epochs, fast_epochs=2, seeds=list(seeds))
    return study.parse(parser, words)


def test_fast_results_never_take_the_place_of_full_ones():
    full, fast = flags(), flags("--fast")
    assert str(full.results) == "results/paper"
    assert str(fast.results) == "runs/paper-fast"
    assert (full.data, full.epochs, full.seeds) == ("mnist", 50, [1, 2, 3])
    assert (fast.data, fast.epochs, fast.seeds) == ("digits", 2, [1])
    asked = flags("--fast", "--epochs=7", "--seeds", "5", "--results=here")
    assert (asked.epochs, asked.seeds) == (7, [5])
    assert str(asked.results) == "here"


def test_runs_by_the_recipe_are_those_of_reproduce_mnist():
    training = study.lenet5(flags(), "adder", 2)
    assert str(training.folder) == "runs/mnist/adder-seed2"
    held = runs.read_settings(ROOT / "results/mnist/adder-seed2/settings.json")
    asked = vars(train_mnist.parse_arguments(training.flags))
    for name in ("network", "seed", "optimizer", "filter_gradient", "eta"):
        assert asked[name] == held[name], name
    shorter = study.lenet5(flags("--epochs=3"), "adder", 2)
    assert str(shorter.folder) == "runs/mnist-3epochs/adder-seed2"


def test_no_two_recipes_share_a_folder():
    args = flags()
    trainings = [
        study.lenet5(args, "adder", seed, optimizer, gradient, eta_)
        for seed in (1, 2)
        for optimizer in ("alr", "ilr")
        for gradient in ("full_precision", "sign")
        for eta_ in eta.ETAS
    ] + [
        study.variant(args, model, network, 1, normalized, activated)
        for model in train_variant.MODELS
        for network in study.NETWORKS
        for normalized in (True, False)
        for activated in (True, False)
    ]
    assert len({training.folder for training in trainings}) == len(trainings)
    assert len({training.flags for training in trainings}) == len(trainings)


def test_variants_parse_what_is_asked_of_them():
    training = study.variant(flags(), "lenet5", "cnn", 3, normalized=False)
    asked = train_variant.parse_arguments(training.flags)
    assert (asked.model, asked.network, asked.seed) == ("lenet5", "cnn", 3)
    assert (asked.batch_normalization, asked.relu) == (False, True)


def test_means():
    assert study.mean_and_deviation([2.0]) == (2.0, None)
    mean, deviation = study.mean_and_deviation([1.0, 2.0, 6.0])
    assert mean == 3.0
    np.testing.assert_allclose(deviation, np.std([1, 2, 6], ddof=1))
    assert study.percent([0.994]) == "99.40"
    assert study.percent([0.99, 1.0]) == "99.50 ± 0.71"


def test_table():
    assert study.table(["a", "b"], [["c", "1"]]) == (
        "| a | b |\n| --- | ---: |\n| c | 1 |\n"
    )


@pytest.mark.parametrize("name", ["laplace", "gauss"])
def test_fit_finds_the_distribution_that_weights_come_from(name):
    generator = np.random.default_rng(0)
    draw = {"laplace": generator.laplace, "gauss": generator.normal}[name]
    found = weights.fits(draw(3.0, 0.5, (100, 200)).astype("float32"))
    (other,) = found.keys() - {name}
    assert found[name]["log_likelihood"] > found[other]["log_likelihood"] + 0.01
    np.testing.assert_allclose(found[name]["location"], 3.0, rtol=0.01)
    np.testing.assert_allclose(found[name]["scale"], 0.5, rtol=0.02)


@pytest.mark.parametrize("name", ["laplace", "gauss"])
def test_log_likelihood_is_that_of_the_density_and_the_greatest(name):
    sample = np.random.default_rng(0).uniform(-1, 4, 1000)
    fit = weights.fits(sample)[name]
    likelihood = np.log(weights.density(name, fit, sample)).mean()
    np.testing.assert_allclose(fit["log_likelihood"], likelihood, rtol=1e-9)
    for field in ("location", "scale"):
        for factor in (0.97, 1.03):
            other = fit | {field: fit[field] * factor}
            changed = np.log(weights.density(name, other, sample)).mean()
            assert changed < likelihood
    x = np.linspace(-60, 60, 200_001)
    area = np.trapezoid(weights.density(name, fit, x), x)
    np.testing.assert_allclose(area, 1, rtol=1e-3)


def blobs(centers, scale):
    """A blob around each center, stretched by random lengths if asked."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(centers)), 200)
    points = np.array(centers)[labels]
    noise = 0.05 * generator.normal(size=points.shape)
    lengths = generator.uniform(*scale, size=(len(points), 1))
    return points * lengths + noise, labels


def test_separation_tells_sectors_from_centers():
    angles = np.arange(10) * 2 * np.pi / 10
    sectors = np.stack([np.cos(angles), np.sin(angles)], 1)
    found = features.separation(*2 * blobs(sectors, (1, 30)))
    assert found["by_direction"] > 0.98
    assert found["by_distance"] < 0.9

    line = [[0.5 * (i + 1), 0.5 * (i + 1)] for i in range(10)]
    found = features.separation(*2 * blobs(line, (1, 1)))
    assert found["by_direction"] < 0.5
    assert found["by_distance"] > 0.98
    np.testing.assert_allclose(found["centers"], line, atol=0.05)


def test_filters_are_shown_as_they_lie_in_the_kernel():
    kernel = np.arange(2 * 3 * 1 * 4).reshape(2, 3, 1, 4) - 3.0
    images = filters.filter_images(kernel)
    assert images.shape == (4, 2, 3)
    np.testing.assert_array_equal(images[2], kernel[:, :, 0, 2])
    same = np.repeat(kernel[..., :1], 2, axis=-1)
    np.testing.assert_allclose(filters.summary(same)["cosine"], 1)


def test_gradient_norms_are_those_of_the_loss():
    model = train_variant.build_network("lenet5", "adder", classes=10)
    model.compile(keras.optimizers.SGD(0.1))
    layers = gradients.filter_layers(model)
    assert [layer.name for layer in layers] == [
        "conv1_conv",
        "conv2_conv",
        "fc1_dense",
        "fc2_dense",
        "fc3_dense",
    ]
    generator = np.random.default_rng(0)
    images = generator.normal(size=(32, 32, 32, 1)).astype("float32")
    labels = generator.integers(0, 10, 32)
    before = [layer.kernel.numpy() for layer in layers]
    norms = gradients.make_step(model, layers)(images, labels).numpy()
    # Plain SGD: how far a filter went is what its gradient was.
    steps = [
        np.linalg.norm(layer.kernel.numpy() - old) / 0.1
        for layer, old in zip(layers, before)
    ]
    np.testing.assert_allclose(norms, steps, rtol=1e-2)


def test_gradient_summary():
    norms = [np.array([[1.0, 4.0], [2.0, 5.0], [9.0, 6.0]]), np.ones((3, 2))]
    assert gradients.summary(norms) == {
        "first_step": [1.0, 2.5],
        "median_of_epoch": [1.5, 3.0],
    }


@pytest.mark.parametrize("network", ["adder", "cnn"])
def test_variances_of_noise_are_what_the_formulas_expect(network):
    model = train_variant.build_network("lenet5", network, classes=10)
    noise = np.random.default_rng(0).normal(size=(64, 32, 32, 1))
    layers = normalization.layer_variances(model, noise.astype("float32"))
    assert [row["terms"] for row in layers] == [25, 150, 400, 120, 84]
    np.testing.assert_allclose(
        layers[0]["output"], layers[0]["formula"], rtol=0.25
    )
    # One set of filters is drawn, and so fc3's ten are few.
    for row in layers[:4]:
        np.testing.assert_allclose(
            row["noise_output"], row["formula"], rtol=0.4, err_msg=row["layer"]
        )


def test_nothing_passes_the_relus_of_an_adder_net_without_normalization():
    model = train_variant.build_network(
        "lenet5", "adder", classes=10, normalized=False
    )
    kinds = {type(layer) for layer in model.layers}
    assert keras.layers.BatchNormalization not in kinds
    images = np.random.default_rng(0).normal(size=(8, 32, 32, 1))
    layers = normalization.layer_variances(model, images.astype("float32"))
    assert layers[0]["input"] > 0
    assert [row["input"] for row in layers[1:]] == [0, 0, 0, 0]
    without_relu = train_variant.build_network(
        "lenet5", "adder", classes=10, normalized=False, activated=False
    )
    names = [layer.name for layer in without_relu.layers]
    assert not [name for name in names if name.endswith(("_bn", "_relu"))]
    assert len(names) == len(model.layers) - 4


def test_operation_counts():
    counted = {
        adder: operations.count(operations.MODELS["LeNet-5-BN"](adder=adder))
        for adder in (True, False)
    }
    assert counted[False]["weighted"]["multiplications"] == 416_520
    assert counted[True]["weighted"]["multiplications"] == 0
    assert counted[True]["weighted"]["additions"] == 2 * 416_520
    assert counted[True]["weighted"]["cycles"] == 4 * 416_520
    # Of the batch normalizations and the softmax.
    assert counted[True]["total"]["multiplications"] > 0
    assert operations.short(416_520) == "417K"
    assert operations.short(0) == "0"


def result(**changes):
    base = {
        "data": "cifar10",
        "model": "resnet20",
        "network": "adder",
        "filter_gradient": "full_precision",
        "epochs": 400,
        "batch_size": 256,
        "learning_rate": 0.1,
        "weight_decay": 5e-4,
        "optimizer": "alr",
        "eta": 0.2,
        "seed": 1,
        "test_accuracy": 0.9,
    }
    return base | changes


def test_classification_takes_the_longest_runs_by_the_recipe():
    found = [
        result(epochs=30, test_accuracy=0.99),
        result(seed=2, test_accuracy=0.92),
        result(),
        result(seed=2, test_accuracy=0.5),  # The same run, found again.
        result(seed=3, filter_gradient="sign"),
        result(seed=3, optimizer="ilr"),
        result(seed=3, batch_size=32),
        result(seed=3, mixed_precision=True),
        result(seed=3, model="resnet32"),
        result(seed=3, network="cnn", eta=1.0),
    ]
    assert classification.find(found, "cifar10", "resnet20", "adder") == {
        "epochs": 400,
        "batch_size": 256,
        "seeds": [1, 2],
        "test_accuracies": [0.9, 0.92],
    }
    # Eta is nothing to a CNN.
    twin = classification.find(found, "cifar10", "resnet20", "cnn")
    assert twin["seeds"] == [3]
    assert classification.find(found, "cifar10", "resnet20", "bnn") is None


def test_classification_table_tells_what_was_run():
    found = [
        result(epochs=20, test_accuracy=0.7),
        result(epochs=30, test_accuracy=0.8, batch_size=128),
    ]
    found.append(
        result(
            data="imagenet2012",
            model="resnet18",
            weight_decay=1e-4,
            epochs=150,
            test_accuracy=0.67,
            test_top5_accuracy=0.876,
        )
    )
    rows = classification.assemble(found)
    notes = {"cifar10": "images re-encoded"}
    text = classification.markdown({"rows": rows, "notes": notes})
    lines = {
        tuple(cell.strip() for cell in line.split("|")[1:3]): line
        for line in text.splitlines()
        if line.startswith("|")
    }
    assert lines["CIFAR-10", "ResNet-20"].endswith(
        "| 91.84 | 80.00 | 84.87 | - | CNN, BNN: not run; "
        "AdderNet: 30 of 400 epochs, 1 seed, batches of 128 |"
    )
    assert "67.0 / 87.6 | 67.00 / 87.60 |" in lines["ImageNet", "ResNet-18"]
    assert lines["CIFAR-100", "ResNet-32"].endswith("| not run |")
    assert text.endswith("\nCIFAR-10 here: images re-encoded.\n")


def test_classification_finds_the_runs_that_are_kept():
    found = classification.collect([ROOT / "results"])
    for network in ("adder", "cnn"):
        row = classification.find(found, "mnist", "lenet5", network)
        assert row["epochs"] == 50
        assert row["seeds"] == [1, 2, 3]


def finished_run(training, accuracy, epochs):
    """Leaves what a run leaves of its curves and its end."""
    runs.write_json(
        training.folder / runs.RESULTS,
        {"network": "adder", "epochs": epochs, "test_accuracy": accuracy},
    )
    rows = [
        dict.fromkeys(runs.HISTORY_FIELDS, 0.5)
        | {"epoch": epoch, "val_accuracy": accuracy * epoch / epochs}
        for epoch in range(1, epochs + 1)
    ]
    runs.write_history(training.folder / runs.HISTORY, rows)


def test_ablation_is_drawn_from_finished_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--epochs=4", "--seeds", "1", "2"]
    args = flags(*words)
    for gradient, optimizer, paper in ablation.SCHEMES:
        for seed in args.seeds:
            training = study.lenet5(args, "adder", seed, optimizer, gradient)
            finished_run(training, paper - 0.001 * seed, epochs=4)
    ablation.main(words)
    found = runs.read_json("results/paper/ablation.json")
    assert found["schemes"][3]["optimizer"] == "ilr"
    assert found["schemes"][3]["filter_gradient"] == "sign"
    np.testing.assert_allclose(
        found["schemes"][3]["test_accuracies"], [0.9762, 0.9752]
    )
    assert "| sign | ILR | 97.72 | 97.57 ± 0.07 |" in ablation.markdown(found)
    with open("results/paper/ablation.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 2 * 4
    assert (tmp_path / "results/paper/ablation.png").stat().st_size > 10_000


def test_eta_is_drawn_from_finished_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--epochs=2", "--seeds", "4", "--etas", "1", "0.2"]
    args = flags(*words[:3])
    for value, accuracy in ((1.0, 0.98), (0.2, 0.99)):
        training = study.lenet5(args, "adder", 4, eta=value)
        finished_run(training, accuracy, epochs=2)
    eta.main(words)
    found = runs.read_json("results/paper/eta.json")
    assert found["etas"] == [
        {"eta": 1.0, "test_accuracies": [0.98]},
        {"eta": 0.2, "test_accuracies": [0.99]},
    ]
    assert (tmp_path / "results/paper/eta.png").exists()


@pytest.mark.slow
def test_a_failed_run_ends_a_study(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    args = flags("--data=digits", "--epochs=1")
    training = study.Training(
        "train_mnist.py", tmp_path / "run", ("--eta=nothing",)
    )
    with pytest.raises(SystemExit, match="Some runs failed"):
        study.train([training, training], args)
    printed = capsys.readouterr().out
    assert printed.count("run: failed, see") == 1
    assert "--eta" in printed


def test_a_run_of_another_length_is_not_taken(tmp_path, capsys):
    args = flags("--data=digits", "--epochs=50")
    training = study.Training("train_mnist.py", tmp_path, ())
    finished_run(training, 0.9, epochs=3)
    with pytest.raises(SystemExit, match="Some runs failed"):
        study.train([training], args)
    assert "failed, holds a run of 3 epochs" in capsys.readouterr().out


def test_each_item_takes_the_flags_that_it_is_given(monkeypatch):
    words = [
        *("--fast", "--data-dir=x", "--epochs=2", "--jobs=2"),
        *("--seeds", "1", "2", "--runs=r", "--results=q"),
    ]
    args = reproduce.parse_arguments(words)
    for item in reproduce.ITEMS:
        script, *given = reproduce.command_of(item, args)
        assert script.endswith(f"/{item}.py")
        parsed = []

        def parse(parser, argv, parsed=parsed):
            parsed.append(parser.parse_args(argv))
            raise KeyboardInterrupt

        monkeypatch.setattr(study, "parse", parse)
        module = __import__(f"paper.{item}", fromlist=["main"])
        with pytest.raises(KeyboardInterrupt):
            module.main(given)
        assert parsed[0].fast
        assert str(parsed[0].results) == "q"


def test_unknown_items_are_refused(capsys):
    with pytest.raises(SystemExit):
        reproduce.parse_arguments(["features", "colours"])
    assert "no item colours" in capsys.readouterr().err


def test_page_is_in_step_with_the_results():
    page.main(["--check"])


def test_page_is_written_between_its_markers(tmp_path):
    path = tmp_path / "paper.md"
    old = (ROOT / "docs/paper.md").read_text("utf-8")
    path.write_text(old, "utf-8")
    # No results: no figures, and everything else as it was.
    page.main([f"--page={path}", f"--results={tmp_path}"])
    new = path.read_text("utf-8")
    assert new.count("Not run in full yet.") == len(reproduce.ITEMS)
    assert new.startswith(old[: old.index("<!--")])
    with pytest.raises(SystemExit, match="out of step"):
        page.main([f"--page={path}", "--check"])
    page.main([f"--page={path}"])
    assert path.read_text("utf-8") == old
    with pytest.raises(SystemExit, match="needs these two lines"):
        page.replaced("no markers", "eta", "")
