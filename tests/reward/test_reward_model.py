"""Scores of small classifiers: by hand, against the network itself, and what is refused."""

import gc
import math
import weakref
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from plm.errors import ConfigError
from plm.reward.common import Example, check, score
from plm.reward.reward_model import RewardModel
from tests.reward import tiny

ASKED = Example("two and two")
TEXTS = ["four", "is four", "is is five and wrong", "right", "two is wrong"]


def logit(folder: str, ids: list[int], **more: list[int]) -> float:
    network = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    batch = {"input_ids": ids, **more}
    with torch.inference_mode():
        return network(**{k: torch.tensor([v]) for k, v in batch.items()}).logits.item()


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_one_output_gives_its_sigmoid(tmp_path: Path):
    model = RewardModel(tiny.bert(tmp_path, [1.25]))
    assert model("four", ASKED) == pytest.approx(sigmoid(1.25), abs=1e-12)
    certain = RewardModel(tiny.bert(tmp_path / "certain", [30.0]))("four", ASKED)
    assert 1 - 1e-12 < certain < 1


def test_several_outputs_give_the_probability_of_a_class(tmp_path: Path):
    names = {0: "poor", 1: "fair", 2: "good"}
    folder = tiny.bert(tmp_path, [0.5, 2.0, -1.0], num_labels=3, id2label=names)
    parts = [math.exp(0.5), math.exp(2.0), math.exp(-1.0)]
    for label, place in ((None, 2), ("poor", 0), (1, 1), ("good", 2)):
        model = RewardModel(folder, label=label)
        assert model("four", ASKED) == pytest.approx(parts[place] / sum(parts), abs=1e-7)
    for label in ("bad", 3, -1, True):
        with pytest.raises(ConfigError, match=rf"label={label} .* which has poor, fair, good$"):
            check(RewardModel(folder, label=label), graded=False)


def test_classes_that_do_not_exclude_each_other(tmp_path: Path):
    kind = {"num_labels": 2, "problem_type": "multi_label_classification"}
    model = RewardModel(tiny.bert(tmp_path, [0.5, 2.0], **kind))
    assert model("four", ASKED) == pytest.approx(sigmoid(2.0), abs=1e-7)


def test_a_separator_makes_a_pair_of_question_and_answer(tmp_path: Path):
    folder = tiny.bert(tmp_path)
    # [CLS] two and two [SEP] is four [SEP]
    wanted = logit(folder, [2, 6, 7, 6, 3, 8, 9, 3], token_type_ids=[0] * 5 + [1] * 3)
    assert RewardModel(folder)("is four", ASKED) == pytest.approx(sigmoid(wanted), abs=1e-6)


def test_the_models_own_chat_template_comes_first(tmp_path: Path):
    folder = tiny.llama(tmp_path)
    # user two and two assistant is four
    wanted = logit(folder, [4, 6, 7, 6, 5, 8, 9])
    assert RewardModel(folder)("is four", ASKED) == pytest.approx(sigmoid(wanted), abs=1e-6)
    with pytest.raises(ConfigError, match=r"chat template does not take .*: not that"):
        RewardModel(folder)("is four", Example("refuse"))


def test_without_template_and_separator_a_line_break_stands_between(tmp_path: Path):
    folder = tiny.llama(tmp_path, template=None)
    wanted = logit(folder, [6, 7, 6, 8, 9])
    assert RewardModel(folder)("is four", ASKED) == pytest.approx(sigmoid(wanted), abs=1e-6)


@pytest.mark.parametrize("kind", ["bert", "llama", "no padding token"])
def test_a_score_does_not_depend_on_what_stands_beside_it(tmp_path: Path, kind: str):
    if kind == "bert":
        folder = tiny.bert(tmp_path)
    else:
        folder = tiny.llama(tmp_path, padding=None if kind == "no padding token" else 0)
    model = RewardModel(folder, batch_size=2)
    alone = [model(text, ASKED) for text in TEXTS]
    assert len(set(alone)) == len(TEXTS)
    for order in (range(5), [4, 2, 0, 1, 3]):
        found = score(model, [TEXTS[i] for i in order], [ASKED] * 5)
        assert found == pytest.approx([alone[i] for i in order], abs=1e-6)


def test_a_text_that_is_too_long_has_no_score(tmp_path: Path):
    folder = tiny.bert(tmp_path)
    just, over = "is " * 18, "is " * 19
    first, second, third = score(RewardModel(folder), [just, over, "four"], [ASKED] * 3)
    assert math.isnan(second) and 0 < first < 1 and 0 < third < 1
    model = RewardModel(folder, max_length=7)
    assert [math.isnan(model(text, ASKED)) for text in ("four", "is four")] == [False, True]


def test_what_is_worthless_is_not_asked_about():
    model = RewardModel("a folder that is not there")
    cut = Example("two and two", cut=True)
    examples = [ASKED, ASKED, ASKED, cut]
    assert score(model, ["", " \n", "two and two\n", "four"], examples) == [0.0] * 4
    with pytest.raises(ConfigError, match=r"model=a folder that is not there cannot be loaded"):
        model("four", ASKED)


def test_it_is_loaded_once_and_let_go(tmp_path: Path):
    model = RewardModel(tiny.bert(tmp_path))
    before = model("four", ASKED)
    kept = weakref.ref(model._load()[0])
    assert model("four", ASKED) == before and model._load()[0] is kept()
    check(model, graded=False)
    assert kept() is not None
    model.close()
    gc.collect()
    assert kept() is None
    assert model("four", ASKED) == before


def test_a_check_keeps_nothing_loaded(tmp_path: Path):
    model = RewardModel(tiny.bert(tmp_path))
    check(model, graded=False)
    assert model._loaded is None


def test_loading_draws_nothing(tmp_path: Path):
    model = RewardModel(tiny.bert(tmp_path))
    before = torch.get_rng_state()
    model("four", ASKED)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_language_model_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"has no weights for score\.weight; name a model that"):
        RewardModel(tiny.language_model(tmp_path)).check()


def test_pickled_weights_are_refused(tmp_path: Path):
    folder = Path(tiny.bert(tmp_path))
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="cannot be loaded as a sequence classifier in safetens"):
        RewardModel(str(folder)).check()


def test_code_that_comes_with_a_model_is_refused(tmp_path: Path):
    folder = Path(tiny.bert(tmp_path))
    own = '{"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModelFor'
    own += 'SequenceClassification": "own.M"}}'
    (folder / "config.json").write_text(own)
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        RewardModel(str(folder)).check()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": None}, r"reward\.model is not set; name a folder or a repository"),
        ({"model": 3}, r"reward\.model=3 is not text"),
        ({"batch_size": 0}, r"reward\.batch_size=0 must be at least 1"),
        ({"batch_size": 1.5}, r"reward\.batch_size=1\.5 is not a whole number"),
        ({"max_length": 0}, r"reward\.max_length=0 must be at least 1"),
        ({"dtype": "int8"}, r"reward\.dtype=int8 is none of float32, bfloat16, float16"),
    ],
)
def test_settings_that_cannot_be(settings: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        RewardModel(**{"model": "x", **settings})


def test_the_weights_have_the_dtype_that_was_asked_for(tmp_path: Path):
    model = RewardModel(tiny.llama(tmp_path), dtype="bfloat16")
    assert 0 < model("four", ASKED) < 1 and model._load()[0].dtype == torch.bfloat16
