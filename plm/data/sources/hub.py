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
        left = self.max_bytes
        for number, row in stream(self.dataset, self.settings):
            document = self._document(number, row)
            yield document
            left -= len(document.text.encode())
            if left <= 0:
                return

    def _document(self, number: int, row: dict[str, Any]) -> Document:
        for field in self.fields:
            if not isinstance(row.get(field), str):
                raise DataError(
                    f"{self.dataset}, row {number}: no text in field {field!r}; the row has "
                    f"{', '.join(row)}"
                )
        name = f"{self.dataset}/{self.settings['split']}/{number}"
        text = "\n\n".join(row[field] for field in self.fields)
        return Document(text, name, f"{self.dataset}/{number}")


def stream(dataset: str, settings: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a data set with their numbers from 0.

    Args:
        dataset: name on the hub, or a local folder.
        settings: `config` and keywords of `datasets.load_dataset`.
    Raises:
        Unfinished: the set cannot be opened or read on.
    """
    from datasets import load_dataset

    number = 0
    try:
        opened = load_dataset(
            dataset,
            settings["config"],
            **{k: v for k, v in settings.items() if k != "config" and v is not None},
        )
        for number, row in enumerate(opened):
            yield number, row
    # datasets, fsspec, huggingface_hub and the network each raise kinds of their own.
    except (OSError, ValueError, RuntimeError, ConnectionError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise Unfinished(
            f"{dataset} at {settings['revision']}, row {number}: cannot be streamed: {first}"
        ) from error
