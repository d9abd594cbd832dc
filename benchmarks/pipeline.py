"""Whether the input pipelines of the examples keep the training fed.

    python benchmarks/pipeline.py

trains ResNet-20 on images of CIFAR's size and ResNet-18 on JPEG files of
ImageNet's, in turns from one batch that stays in memory and from the pipeline
of `examples/train_cifar.py` and `examples/train_imagenet.py`, and lets the
pipelines run alone. All of them share the processor, so that what a pipeline
computes is lost to the training: the ratio says how much. Images are random,
which matters to no speed. Writes `results/speed/pipeline.json`.
"""

import argparse
import os
import pathlib
import statistics
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["KERAS_BACKEND"] = "tensorflow"

import measuring  # noqa: E402
import numpy as np  # noqa: E402
import report  # noqa: E402
import tensorflow as tf  # noqa: E402
from twins import Clock  # noqa: E402

import keras_adder  # noqa: E402
from keras_adder import applications  # noqa: E402

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "examples"))

from training import augmentation  # noqa: E402
from training import data as data_lib  # noqa: E402
from training import streams  # noqa: E402

CLASSES = 10


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path("results/speed")
    )
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument(
        "--steps", type=int, default=8, help="of each training in a round"
    )
    parser.add_argument(
        "--quick", action="store_true", help="few images; figures mean nothing"
    )
    args = parser.parse_args()
    batch_sizes = {"cifar": 256, "imagenet": 32}
    if args.quick:
        args.rounds, args.steps = 1, 2
        batch_sizes = dict.fromkeys(batch_sizes, 4)

    results = measuring.circumstances(measuring.cores(), args.quick)
    with tempfile.TemporaryDirectory() as folder:
        results["rows"] = [
            measure(
                "ResNet-20, 32x32 in memory",
                applications.ResNet20(classes=CLASSES),
                cifar_like(),
                batch_sizes["cifar"],
                args,
            ),
            measure(
                "ResNet-18, JPEG files to 224x224",
                applications.ResNet18(weights=None, classes=CLASSES),
                imagenet_like(pathlib.Path(folder), 8 if args.quick else 256),
                batch_sizes["imagenet"],
                args,
            ),
        ]
    results["load"].append(measuring.load())
    print("".join(f"- {line}\n" for line in report.machine_lines(results)))
    print(markdown(results), end="")
    report.write_json(args.output / "pipeline.json", results)


def cifar_like():
    """Images of CIFAR's size, as `training.data.load()` gives them."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (4096, 32, 32, 3), dtype=np.uint8)
    labels = generator.integers(0, CLASSES, len(images))
    mean, std = map(np.array, data_lib.NORMALISATION["cifar10"])
    return data_lib.ImageData(
        "cifar-like",
        *(images, labels) * 2,
        mean,
        std,
        augment=augmentation.crop_and_flip,
    )


def imagenet_like(folder, count):
    """JPEG files of about the size of ImageNet's, 500x375 and 100 KB."""
    generator = np.random.default_rng(0)
    for index in range(count):
        coarse = generator.integers(0, 256, (47, 63, 3), dtype=np.uint8)
        smooth = tf.image.resize(coarse, (375, 500), method="bicubic")
        grain = generator.normal(scale=12, size=smooth.shape)
        image = tf.cast(tf.clip_by_value(smooth + grain, 0, 255), tf.uint8)
        encoded = tf.io.encode_jpeg(image, quality=90)
        for split in ("train", "validation"):
            path = folder / split / str(index % CLASSES) / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded.numpy())
    return streams.from_folder(folder, image_size=224)


def measure(name, model, data, batch_size, args):
    """Images a second of a pipeline, and of training with and without it."""
    model.compile(
        keras_adder.ALR(0.1, momentum=0.9, weight_decay=5e-4),
        "sparse_categorical_crossentropy",
    )
    pipeline, _ = data.training_batches(batch_size, 1, 0, 1_000_000)
    # The last batch of an epoch may be smaller.
    pipeline = pipeline.filter(lambda images, _: len(images) == batch_size)
    one_batch = next(iter(pipeline))
    contenders = {
        "from memory": tf.data.Dataset.from_tensors(one_batch).repeat(),
        "from the pipeline": pipeline,
    }
    seconds = {contender: [] for contender in contenders}
    seconds["pipeline alone"] = []
    for index in range(args.rounds + 1):
        for contender, batches in contenders.items():
            clock = Clock()
            model.fit(
                batches,
                steps_per_epoch=args.steps + 1,
                shuffle=False,
                verbose=0,
                callbacks=[clock],
            )
            if index:
                seconds[contender] += clock.steps()
        if index:
            seconds["pipeline alone"] += alone(pipeline.take(args.steps + 1))
    speeds = {
        contender: batch_size / statistics.median(steps)
        for contender, steps in seconds.items()
    }
    return {
        "name": name,
        "batch_size": batch_size,
        "speeds": speeds,
        "ratio": speeds["from the pipeline"] / speeds["from memory"],
    }


def alone(batches):
    """Seconds of a step when nothing is done with the batches."""
    begin, count = None, 0
    for _ in batches:
        # The first batch also fills the buffers.
        if begin is None:
            begin = time.perf_counter()
        else:
            count += 1
    return [(time.perf_counter() - begin) / count]


def markdown(results):
    columns = ("pipeline alone", "from memory", "from the pipeline")
    header = ["training, images/s", "batch size", *columns, "ratio"]
    return report.table(
        header,
        [
            [
                row["name"],
                str(row["batch_size"]),
                *(f"{row['speeds'][column]:.0f}" for column in columns),
                report.number(row["ratio"]),
            ]
            for row in results["rows"]
        ],
    )


if __name__ == "__main__":
    main()
