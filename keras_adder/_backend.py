"""What Keras has to run on."""

import os


def require_tensorflow() -> None:
    """Raises an `ImportError` unless Keras runs on TensorFlow."""
    remedy = (
        "keras_adder runs on the TensorFlow backend of Keras only. Install "
        "TensorFlow (`pip install '.[cpu]'`, or '.[gpu]', in the source folder "
        "of keras_adder does) and set the environment variable "
        "`KERAS_BACKEND=tensorflow` before Keras is imported for the first "
        'time, or `"backend": "tensorflow"` in `~/.keras/keras.json`.'
    )
    try:
        import keras

        backend = keras.config.backend()
    except Exception as error:
        # Keras cannot even be imported when its backend is not installed.
        requested = os.environ.get("KERAS_BACKEND")
        raise ImportError(
            f"{remedy} Received: `import keras` failed with "
            f"{type(error).__name__}: {error} (KERAS_BACKEND={requested})"
        ) from error
    if backend != "tensorflow":
        raise ImportError(f"{remedy} Received: backend={backend}")
