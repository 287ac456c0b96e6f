"""Held-out figures against the run's own validation, and by hand over single windows."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from plm.data import tokenizer as bpe
from plm.data.prepare import prepare
from plm.data.prepared import Prepared
from plm.data.recipe import load_recipe
from plm.errors import ConfigError, DataError
from plm.evaluation.common import Share
from plm.evaluation.held_out import HeldOut
from plm.evaluation.subject import Subject
from plm.stages.evaluate import validate
from tests.data.test_conversation_shards import BLOCK, rows, write_recipe
from tests.model.common import logits_of, tiny


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("data")
    (folder / "books").mkdir()
    # Documents shorter than a window, so that it matters whether they are kept apart.
    for i in range(600):
        text = f"the {i * 7 % 90} cats of town {i} read {i * i} books"
        (folder / "books" / f"{i}.txt").write_text(text, encoding="utf-8")
    return prepare(
        load_recipe("text"),
        data_dir=folder / "data",
        vocab_size=300,
        block_tokens=32,
        workers=1,
        path=str(folder / "books"),
    )


@pytest.fixture
def subject(prepared: Prepared) -> Subject:
    tokenizer = bpe.load(prepared.tokenizer_path)
    model = tiny("scale.vocab_size=300", dtype=torch.float64).eval()
    end = tokenizer.token_to_id(prepared.end_of_text)
    return Subject(model, tokenizer, end_of_text=end, rows=3, window=(32, True))


def figures(task: HeldOut, subject: Subject, world: int = 1):
    return task.result(subject, [task.run(subject, Share(r, world)) for r in range(world)])


@pytest.mark.parametrize("isolate", [True, False])
def test_equals_a_runs_own_validation(prepared: Prepared, subject: Subject, isolate: bool):
    subject.window = (32, isolate)
    found = figures(HeldOut(str(prepared.folder), windows=7), subject).figures
    wanted = validate(
        subject.model,
        prepared.held_out,
        prepared.token_bytes,
        seq_len=32,
        windows=7,
        micro_batch_size=2,
        isolate=isolate,
        device=torch.device("cpu"),
    )
    for name, told in wanted.items():
        assert found[f"loss/{name}"].value == pytest.approx(told["loss"], rel=1e-6)
        assert found[f"bpb/{name}"].value == pytest.approx(told["bpb"], rel=1e-6)
        perplexity = found[f"perplexity/{name}"]
        assert perplexity.value == pytest.approx(math.exp(told["loss"]), rel=1e-6)
        assert perplexity.low < perplexity.value < perplexity.high and perplexity.n == 7


def test_a_window_by_hand(prepared: Prepared, subject: Subject):
    subject.window = (32, False)
    record = figures(HeldOut(str(prepared.folder), windows=2), subject).records[0]
    name = record["group"]
    stream = prepared.sources[name]["val"]
    ids = torch.from_numpy(stream.tokens(0, 33).astype("int64"))
    logps = logits_of(subject.model, ids[None, :-1])[0].log_softmax(-1)
    assert record["nats"] == pytest.approx(-logps.gather(1, ids[1:, None]).sum().item(), rel=1e-9)
    assert record["tokens"] == 32
    assert record["bytes"] == int(prepared.token_bytes[ids[1:].numpy()].sum())


def test_ranks_share_windows(prepared: Prepared, subject: Subject):
    task = HeldOut(str(prepared.folder), windows=7)
    alone, shared = figures(task, subject), figures(task, subject, world=3)
    assert alone.digest == shared.digest and len(alone.records) == 7
    for name, figure in alone.figures.items():
        assert shared.figures[name].value == pytest.approx(figure.value, rel=1e-12)


def test_what_cannot_be(prepared: Prepared, subject: Subject, tokenizer, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"name held_out\.data=<folder"):
        HeldOut().run(subject)
    subject.data = {**_node(), "dir": str(tmp_path)}
    with pytest.raises(DataError, match=r"not in data\.dir=.*go where it was started"):
        HeldOut().check(subject)
    with pytest.raises(ConfigError, match=r"sources: no 'poems' in .*; there are"):
        HeldOut(str(prepared.folder), sources=["poems"]).check(subject)
    with pytest.raises(DataError, match="not a prepared recipe"):
        HeldOut(str(tmp_path)).check(subject)
    with pytest.raises(DataError, match="no held-out source has 60000 tokens"):
        subject.max_len = 10**6
        HeldOut(str(prepared.folder), seq_len=59_999).run(subject)
    with pytest.raises(ConfigError, match="windows=0"):
        HeldOut(windows=0)
    subject.tokenizer = tokenizer
    with pytest.raises(ConfigError, match="another tokenizer than the model's"):
        HeldOut(str(prepared.folder)).check(subject)


def test_data_of_a_run_are_found_by_their_fingerprint(prepared: Prepared, subject: Subject):
    """The folder's name depends on more than the data: the code's version, for one."""
    subject.data = {**_node(), "dir": str(prepared.folder.parent)}
    with pytest.raises(DataError):
        HeldOut().check(subject)
    subject.fingerprint = prepared.fingerprint
    HeldOut().check(subject)


def test_conversations_are_read_in_their_own_windows(subject: Subject, tmp_path: Path):
    made = prepare(
        load_recipe(write_recipe(tmp_path, rows(80))),
        data_dir=tmp_path / "data",
        vocab_size=320,
        block_tokens=BLOCK,
        workers=1,
    )
    subject.tokenizer = bpe.load(made.tokenizer_path)
    subject.model = tiny("scale.vocab_size=320", dtype=torch.float64).eval()
    subject.max_len, subject.window = 2 * BLOCK, (BLOCK, True)
    task = HeldOut(str(made.folder), windows=2)
    task.check(subject)
    assert figures(task, subject).figures["loss"].value > 0
    with pytest.raises(ConfigError, match=rf"seq_len=32: .*talk.*seq_len must be {BLOCK}"):
        HeldOut(str(made.folder), seq_len=32).check(subject)
    # A model whose context is shorter cannot read them.
    subject.max_len = BLOCK - 1
    with pytest.raises(ConfigError, match=rf"seq_len must be {BLOCK}, which the model's context"):
        task.check(subject)


def test_data_of_another_version_are_named(prepared: Prepared, subject: Subject, tmp_path: Path):
    folder = shutil.copytree(prepared.folder, tmp_path / "old")
    told = json.loads((folder / "manifest.json").read_text())
    del told["end_of_text"]
    (folder / "manifest.json").write_text(json.dumps(told))
    with pytest.raises(DataError, match=r"manifest\.json has no end_of_text: .*prepare the data"):
        HeldOut(str(folder)).check(subject)


def _node() -> dict:
    return {
        "recipe": "embedded",
        "vocab_size": 301,
        "block_tokens": 32,
        "seed": 0,
        "path": None,
    }
