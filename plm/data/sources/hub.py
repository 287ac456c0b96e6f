"""Data sets of the Hugging Face hub, streamed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from plm.data.documents import Document, Origin, as_it_is, text_size
from plm.errors import DataError, Unfinished


def hub(
    dataset: str,
    *,
    revision: str,
    config: str | None = None,
    data_dir: str | None = None,
    split: str = "train",
    fields: list[str] | None = None,
    max_bytes: int,
    streaming: bool = True,
) -> Origin:
    """The first rows of a data set, by default without downloading the rest.

    Args:
        dataset: name on the hub, or a local folder that `datasets` can load.
        revision: commit of the data set: what fixes the text.
        config: of the data set, where it has several.
        data_dir: folder of the data set that is taken, where it has several.
        split: of the data set.
        fields: what to take from a row, joined by an empty line; "text".
        max_bytes: of text, after which reading stops.
        streaming: False downloads the whole set first, into `datasets`' own cache.
    Raises:
        Unfinished: on reading: the set cannot be opened or read on.
        DataError: on reading: a row has no such field.
    """
    facts = {"config": config, "data_dir": data_dir, "revision": revision, "split": split}
    rows = _Rows(dataset, {**facts, "streaming": streaming}, tuple(fields or ["text"]), max_bytes)
    return Origin(rows, as_it_is, text_size, {"dataset": dataset, **facts})


@dataclass(frozen=True)
class _Rows:
    """The rows as documents, read anew whenever they are asked for."""

    dataset: str
    settings: dict[str, Any]
    fields: tuple[str, ...]
    max_bytes: int

    def __iter__(self) -> Iterator[Document]:
        return _rows(self.dataset, self.settings, self.fields, self.max_bytes)


def _rows(
    dataset: str, settings: dict[str, Any], fields: tuple[str, ...], max_bytes: int
) -> Iterator[Document]:
    from datasets import load_dataset

    left, number = max_bytes, 0
    revision, split = settings["revision"], settings["split"]
    try:
        stream = load_dataset(
            dataset,
            settings["config"],
            **{k: v for k, v in settings.items() if k != "config" and v is not None},
        )
        for number, row in enumerate(stream):
            for field in fields:
                if not isinstance(row.get(field), str):
                    raise DataError(
                        f"{dataset}, row {number}: no text in field {field!r}; the row has "
                        f"{', '.join(row)}"
                    )
            text = "\n\n".join(row[field] for field in fields)
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
