"""Run one step over texts."""

import pytest

from plm.data.documents import Document
from plm.data.tally import Tally


@pytest.fixture
def run():
    """`run(step, texts, **settings) -> (texts kept, number dropped by reason)`."""

    def run_step(step, texts, **settings):
        tally = Tally()
        documents = (Document(text, str(i), "g") for i, text in enumerate(texts))
        return [d.text for d in step(documents, tally=tally, **settings)], dict(tally.dropped)

    return run_step
