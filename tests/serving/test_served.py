"""What is loaded to be served, and what its tokens stand for."""

from pathlib import Path

import pytest

from plm.errors import ConfigError
from plm.export.hf import hf
from plm.formats.common import About
from plm.pretrained import load
from plm.serving.served import Served, engine_of
from tests.serving.common import MARKS, STOPS, chat, engine, model, tokenizer


def test_engines_of_folders(tmp_path: Path):
    import torch

    from plm.data import tokenizer as bpe

    about = About(chat_template=chat().template)
    folder = hf(model(torch.float32), tokenizer(), tmp_path / "chat", about=about)
    found, talks = engine_of(load(folder), rows=3, dtype=torch.float64)
    assert found.stop_ids == STOPS and found.rows == 3 and talks.template == chat().template
    assert next(found.model.parameters()).dtype == torch.float64

    plain = bpe.train(["Some text"], vocab_size=270, special_tokens=MARKS[:1])
    folder = hf(model(torch.float32), plain, tmp_path / "base", about=About())
    found, talks = engine_of(load(folder), rows=1)
    assert talks is None and found.stop_ids == (0,)

    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"has no tokenizer\.json; nothing can be said"):
        engine_of(load(folder), rows=1)


def test_what_tokens_stand_for():
    served = Served(engine(), chat(), "town")
    text = "Some äöü 漢"
    ids = served.encode(text)
    assert b"".join(map(served.bytes_of, ids)) == text.encode()
    assert [served.bytes_of(token) for token in (0, 2)] == [b"<|endoftext|>", b"<|im_end|>"]
    with pytest.raises(ConfigError, match="the engine has no tokenizer"):
        Served(engine(tokenizer=None), chat(), "town")
