"""Run one step over texts."""

from collections import Counter

import pytest

from plm.data.documents import Document


@pytest.fixture
def run():
    """`run(step, texts, **settings) -> (texts kept, drops)`."""

    def run_step(step, texts, **settings):
        drops = Counter()
        documents = (Document(text, str(i), "g") for i, text in enumerate(texts))
        return [d.text for d in step(documents, drops=drops, **settings)], dict(drops)

    return run_step
