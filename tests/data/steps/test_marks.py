"""What holds for every step: its name, its mark, what it says of itself, and that it travels."""

import importlib
import pickle
from functools import partial
from pathlib import Path

import pytest

import plm.data.steps
from plm.data.documents import is_per_document

FILES = {file.stem for file in Path(plm.data.steps.__file__).parent.glob("[!_]*.py")}
HELPERS = {"evaluation_sets"}
WITH_MEMORY = {"exact_dedup", "near_dedup"}


@pytest.mark.parametrize("name", sorted(FILES - HELPERS))
def test_a_step_has_the_name_of_its_file_and_its_mark(name):
    step = getattr(importlib.import_module(f"plm.data.steps.{name}"), name)
    assert is_per_document(step) == (name not in WITH_MEMORY)
    assert is_per_document(pickle.loads(pickle.dumps(partial(step, setting=1)))) == (
        name not in WITH_MEMORY
    )
    if name != "chat":
        assert "Drops:" in step.__doc__ or "Changes:" in step.__doc__
