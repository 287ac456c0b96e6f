"""Data sets of the Hugging Face hub, streamed."""

from collections.abc import Iterator

from plm.data.documents import Document, Origin, as_it_is, text_size
from plm.errors import DataError, Unfinished


def hub(
    dataset: str,
    *,
    revision: str,
    config: str | None = None,
    split: str = "train",
    field: str = "text",
    max_bytes: int,
) -> Origin:
    """The first rows of a data set, without downloading the rest.

    Args:
        dataset: name on the hub, or a local folder that `datasets` can load.
        revision: commit of the data set: what fixes the text.
        config: of the data set, where it has several.
        split: of the data set.
        field: that holds the text.
        max_bytes: of text, after which reading stops.
    Raises:
        Unfinished: on reading: the set cannot be opened or read on.
        DataError: on reading: a row has no such field.
    """
    rows = _rows(dataset, revision, config, split, field, max_bytes)
    facts = {"dataset": dataset, "config": config, "revision": revision, "split": split}
    return Origin(rows, as_it_is, text_size, facts)


def _rows(
    dataset: str, revision: str, config: str | None, split: str, field: str, max_bytes: int
) -> Iterator[Document]:
    from datasets import load_dataset

    left, number = max_bytes, 0
    try:
        stream = load_dataset(dataset, config, split=split, revision=revision, streaming=True)
        for number, row in enumerate(stream):
            text = row.get(field)
            if not isinstance(text, str):
                raise DataError(
                    f"{dataset}, row {number}: no text in field {field!r}; the row has "
                    f"{', '.join(row)}"
                )
            yield Document(text, f"{dataset}/{split}/{number}", f"{dataset}/{number}")
            left -= len(text.encode())
            if left <= 0:
                return
    # datasets, fsspec, huggingface_hub and the network each raise kinds of their own.
    except (OSError, ValueError, RuntimeError, ConnectionError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise Unfinished(
            f"{dataset} at {revision}, row {number}: cannot be streamed: {first}"
        ) from error
