"""Data sets of tensorflow-datasets: found where they are prepared, or had."""

import urllib.parse

PROBE_SECONDS = 5


class DataUnavailable(Exception):
    """A data set cannot be read here, nor be had from the network."""

    REMEDY = "Pass --data-dir with a folder where it is prepared"


def find(name, data_dir=None):
    """Finds a prepared data set, or downloads and prepares it.

    Args:
        name: String, as `tensorflow_datasets` knows it.
        data_dir: Where that keeps, or shall keep, prepared data sets. By
            default its own default.

    Returns:
        A `tensorflow_datasets.core.DatasetBuilder`.

    Raises:
        DataUnavailable: If it is neither prepared nor downloadable.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataUnavailable(
            f"{name} is read by tensorflow-datasets, which is not installed "
            f"({error}): `pip install tensorflow-datasets importlib_resources`."
        ) from error

    # Damaged files end in whatever the library that parses them raises.
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        is_prepared = builder.is_prepared()
    except Exception as error:
        raise unreadable(name, data_dir, error) from error
    if not is_prepared:
        _download(builder)
    return builder


def unreadable(name, folder, error):
    """The error that says why a data set cannot be read."""
    return DataUnavailable(
        f"{name} cannot be read from "
        f"{folder or 'the default folder of tensorflow-datasets'} "
        f"({_cause(error)})."
    )


def _cause(error):
    """An exception in one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def _download(builder):
    import requests

    # `data_path` is that of one version of one data set.
    folder = builder.data_path.parent.parent
    where = f"{builder.name} is not prepared in {folder}"
    # tensorflow-datasets itself retries for minutes where there is no network.
    for url in builder.url_infos:
        host = urllib.parse.urlsplit(url).netloc
        try:
            requests.head(url, timeout=PROBE_SECONDS).raise_for_status()
        except requests.RequestException as error:
            raise DataUnavailable(
                f"{where}, and {host} cannot be reached "
                f"({type(error).__name__})."
            ) from error
    print(f"{where}: downloading it.", flush=True)
    try:
        builder.download_and_prepare()
    except Exception as error:
        raise DataUnavailable(
            f"{where}, and its download failed ({_cause(error)})."
        ) from error
