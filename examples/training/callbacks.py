"""What happens after each epoch: logs, checkpoints, an end if it diverged."""

import importlib.util
import math
import re
import time
import zipfile

import keras

from training import runs


class Diverged(runs.RunError):
    """The loss is no longer a finite number."""


class Divergence(keras.callbacks.TerminateOnNaN):
    """Ends the epoch at the first loss that is not finite, and then the run."""

    def on_epoch_end(self, epoch, logs):
        for name in ("loss", "val_loss"):
            if not math.isfinite(logs[name]):
                raise Diverged(
                    f"The training diverged: {name} is {logs[name]} in epoch "
                    f"{epoch + 1}, of which nothing was kept. Pass a lower "
                    "--learning-rate, and --restart or another --output."
                )


class EpochLog(keras.callbacks.Callback):
    """Writes a row of `history.csv` after each epoch.

    `val_loss` and `val_accuracy` are those of the test images: nothing is
    chosen by them. Unlike `keras.callbacks.CSVLogger` it drops the rows of
    epochs that are to be trained again, and logs wall-clock seconds, those of
    evaluating the test images included.

    Args:
        path: Path of the file.
        first_epoch: Integer, the number of rows to keep.
    """

    def __init__(self, path, first_epoch=0):
        super().__init__()
        self.path = path
        self.rows = runs.read_history(path)[:first_epoch] if first_epoch else []

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs):
        seconds = round(time.perf_counter() - self.started, 3)
        self.rows.append({**logs, "epoch": epoch + 1, "seconds": seconds})
        runs.write_history(self.path, self.rows)


class Checkpoints(keras.callbacks.Callback):
    """Keeps the model as it was after the latest whole epoch.

    That is weights, optimizer state and random generators: with a data
    pipeline and a schedule that depend on the number of the epoch alone,
    training resumed from it ends in the same weights.

    Args:
        folder: Path of the folder.
    """

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def restore(self):
        """Returns the number of epochs done and the model, or 0 and `None`."""
        done = self._epochs()
        if not done:
            return 0, None
        path = done[max(done)]
        try:
            return max(done), keras.saving.load_model(path)
        # Whatever Keras, h5py or a layer finds wrong with it.
        except Exception as error:
            # Keras calls a file that is not whole one that is not found.
            cause = "the file is damaged"
            if zipfile.is_zipfile(path):
                lines = str(error).strip().splitlines() or [""]
                cause = f"{type(error).__name__}: {lines[0]}"
            raise runs.RunError(
                f"The checkpoint {path} cannot be loaded ({cause}). "
                "Pass --restart to train afresh, or another --output."
            ) from error

    def on_epoch_end(self, epoch, logs=None):
        earlier = self._epochs()
        path = self.folder / f"epoch-{epoch + 1:04d}.keras"
        with runs.replacing(path) as temporary:
            self.model.save(temporary)
        for other in earlier.values():
            if other != path:
                other.unlink()

    def _epochs(self):
        return {
            int(match[1]): path
            for path in self.folder.glob("*.keras")
            if (match := re.fullmatch(r"epoch-(\d+)\.keras", path.name))
        }


def tensorboard(folder):
    """A list of the callback that logs for TensorBoard, if that is there."""
    if importlib.util.find_spec("tensorboard") is None:
        print("No logs for TensorBoard: `pip install tensorboard` first.")
        return []
    return [keras.callbacks.TensorBoard(folder, write_graph=False)]
