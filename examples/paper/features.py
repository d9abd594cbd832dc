"""The two features of a LeNet++: by angle in a CNN, by distance in an AdderNet.

    python examples/paper/features.py

Trains LeNet++, whose last layer but one has two units, as an AdderNet and as a
CNN, and draws the outputs of these units (normalized) for all test images.

A CNN classifies by products, so its classes should be told apart by the
direction of the features alone; an AdderNet classifies by l1 distances, so its
classes should gather around centers. Both are put to the test: every test
image is given to the class whose mean training feature is nearest, in
direction and in l1 distance.

Writes features.json and features.png.
"""

import os
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from paper import study  # noqa: E402
from paper.study import plt  # noqa: E402

NAME = "features"
LAYER = "feature_bn"
SIZE = 28


def main(argv=None):
    parser = study.make_parser(__doc__, epochs=10, fast_epochs=8, seeds=[1])
    args = study.parse(parser, argv)
    # One seed: a second picture would show nothing else.
    seed = args.seeds[0]
    trainings = {
        network: study.variant(args, "lenet_plus_plus", network, seed)
        for network in study.NETWORKS
    }
    study.train(trainings.values(), args)

    # Only now: TensorFlow is not to hold memory while others train.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from training import data as data_lib

    data = data_lib.load(args.data, args.data_dir, size=SIZE)
    figure, panels = plt.subplots(1, 2, figsize=(11, 5.4), layout="constrained")
    results = {"data": args.data, "epochs": args.epochs, "seed": seed}
    for axes, (network, training) in zip(panels, trainings.items()):
        extract = make_extractor(training)
        train_features = extract(data.normalise(data.train_images))
        test_features = extract(data.normalise(data.test_images))
        found = {
            "test_accuracy": study.results_of(training)["test_accuracy"],
            **separation(
                train_features,
                data.train_labels,
                test_features,
                data.test_labels,
            ),
        }
        results[network] = found
        draw(axes, study.NETWORKS[network], test_features, data.test_labels)
    figure.suptitle(
        f"{study.data_title(args.data)}: features of the test images in "
        f"LeNet++, {args.epochs} epochs"
    )
    study.write(args, NAME, results, figure)
    print(markdown(results), end="")


def make_extractor(training):
    """A function from normalised images to their two features, `(n, 2)`."""
    import keras

    model = study.load_model(training)
    extractor = keras.Model(model.inputs, model.get_layer(LAYER).output)

    def extract(images):
        return extractor.predict(images, batch_size=1000, verbose=0)

    return extract


def separation(train_features, train_labels, test_features, test_labels):
    """How well the nearest class mean classifies, by angle and by distance.

    Args:
        train_features, test_features: Arrays of shape `(n, 2)`.
        train_labels, test_labels: Integer arrays of shape `(n,)`.

    Returns:
        A dict: `"by_direction"`, the accuracy on the test images if the class
        is that of the mean direction with the largest cosine;
        `"by_distance"`, if it is that of the mean feature at the least l1
        distance; `"centers"`, the mean features.
    """
    classes = range(int(train_labels.max()) + 1)
    centers = np.array(
        [train_features[train_labels == label].mean(0) for label in classes]
    )
    directions = normalized(
        np.array(
            [
                normalized(train_features[train_labels == label]).mean(0)
                for label in classes
            ]
        )
    )
    cosines = normalized(test_features) @ directions.T
    distances = np.abs(test_features[:, None] - centers).sum(-1)
    return {
        "by_direction": float(np.mean(cosines.argmax(1) == test_labels)),
        "by_distance": float(np.mean(distances.argmin(1) == test_labels)),
        "centers": centers.round(4).tolist(),
    }


def normalized(vectors):
    """Vectors of length 1; those of length 0 stay so."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths == 0, 1, lengths)


def draw(axes, title, features, labels):
    for label in range(int(labels.max()) + 1):
        of_class = features[labels == label]
        axes.scatter(*of_class.T, s=2, c=f"C{label}", rasterized=True)
        # The label stands where the class is, so no legend is needed.
        axes.annotate(
            str(label),
            np.median(of_class, axis=0),
            ha="center",
            va="center",
            weight="bold",
            bbox={"boxstyle": "circle,pad=0.15", "fc": "w", "alpha": 0.75},
        )
    # Where the features are: the origin may lie far from all of them.
    low, high = np.percentile(features, (0.2, 99.8), axis=0)
    middle, half = (low + high) / 2, 0.56 * max(high - low)
    axes.set(
        xlim=(middle[0] - half, middle[0] + half),
        ylim=(middle[1] - half, middle[1] + half),
        aspect="equal",
    )
    axes.axhline(0, c="0.8", lw=0.8, zorder=0)
    axes.axvline(0, c="0.8", lw=0.8, zorder=0)
    axes.set(
        title=title,
        xlabel="first feature (normalized)",
        ylabel="second feature (normalized)",
    )


def markdown(results):
    """The table of a `features.json`."""
    data = study.data_title(results["data"])
    head = [
        f"test accuracy, {data}, {results['epochs']} epochs, %",
        "the network's",
        "nearest mean direction",
        "nearest mean feature (l1)",
    ]
    rows = [
        [
            title,
            *(
                f"{100 * results[network][field]:.2f}"
                for field in ("test_accuracy", "by_direction", "by_distance")
            ),
        ]
        for network, title in study.NETWORKS.items()
    ]
    return study.table(head, rows)


if __name__ == "__main__":
    main()
