"""What lm-eval asks of a model, answered as plain loops over full forwards would."""

import pytest
import torch

from plm.errors import ConfigError, DataError
from plm.evaluation import lm_eval_model as m
from plm.evaluation.subject import Subject
from plm.formats.chat import Chat
from tests.model.common import logits_of


def total(subject: Subject, ids: list[int], n: int) -> float:
    logps = logits_of(subject.model, torch.tensor([ids[:-1]]))[0, -n:].log_softmax(-1)
    return logps.gather(1, torch.tensor(ids[-n:])[:, None]).sum().item()


def test_loglikelihoods_in_order_and_cut_on_the_left(subject):
    subject.max_len = 20
    long = [i % 290 for i in range(3, 60)]
    pairs = [([1, 2, 3], [4, 5]), (long, [7, 8, 9]), ([9], [3])]
    found = m.loglikelihoods(subject, pairs)
    assert found[0][0] == pytest.approx(total(subject, [1, 2, 3, 4, 5], 2))
    cut = [*long, 7, 8, 9][-21:]
    assert found[1][0] == pytest.approx(total(subject, cut, 3))
    assert found[2][0] == pytest.approx(total(subject, [9, 3], 1))
    assert m.loglikelihoods(subject, []) == []
    with pytest.raises(ConfigError, match="continuation of 30 tokens does not fit"):
        m.loglikelihoods(subject, [([1], list(range(30)))])


def test_an_empty_continuation_is_refused(subject):
    """It would be sure, and win over every answer with tokens."""
    with pytest.raises(DataError, match="request 2 of 2: the continuation of 3 tokens is empty"):
        m.loglikelihoods(subject, [([1], [2]), ([5, 6, 7], [])])


@pytest.mark.parametrize(("top_k", "ours"), [(-1, 0), (0, 0), (40, 40)])
def test_minus_one_is_all_tokens(subject, top_k: int, ours: int):
    settings = {"do_sample": True, "temperature": 1.0, "top_k": top_k, "max_gen_toks": 3}
    assert m.asked_of(settings)["top_k"] == ours
    assert len(m.generate(subject, [("some text", settings)], 0)) == 1


def test_greedy_is_said_of_the_whole_continuation(subject):
    first = logits_of(subject.model, torch.tensor([[1, 2]]))[0, -1].argmax().item()
    second = logits_of(subject.model, torch.tensor([[1, 2, first]]))[0, -1].argmax().item()
    other = (second + 1) % 300
    found = m.loglikelihoods(subject, [([1, 2], [first, second]), ([1, 2], [first, other])])
    assert [greedy for _, greedy in found] == [True, False]


def test_rolling_counts_each_token_once(subject):
    subject.max_len = 10
    texts = ["", "a town", "some text of a town, and of another one that is not in the sample"]
    found = m.rolling(subject, texts)
    ids = [subject.encode([text])[0] for text in texts]
    assert found[0] == 0.0 and len(ids[1]) < 10 < 20 < len(ids[2])
    assert found[1] == pytest.approx(total(subject, [0, *ids[1]], len(ids[1])))
    long, by_hand = ids[2], 0.0
    by_hand += total(subject, [0, *long[:10]], 10)
    for low in range(10, len(long), 10):
        high = min(low + 10, len(long))
        by_hand += total(subject, long[high - 11 : high], high - low)
    assert found[2] == pytest.approx(by_hand)


def test_generate_by_each_requests_own_settings(subject):
    requests = [
        ("some text", {"until": ["\n"], "max_gen_toks": 6}),
        ("a town", {"until": "\n", "max_gen_toks": 9, "do_sample": True, "temperature": 1.0}),
        ("text of", {"until": ["\n"], "max_gen_toks": 6}),
        ("", {"max_gen_toks": 3}),
    ]
    found = m.generate(subject, requests, seed=1)
    assert found == m.generate(subject, requests, seed=1)
    turned = m.generate(subject, requests[::-1][-1:] + requests[2:3], seed=1)
    assert turned == [found[0], found[2]]
    for (text, _), said in ((requests[0], found[0]), (requests[2], found[2])):
        ids = subject.encode([text])[0]
        tokens = list(ids)
        for _ in range(6):
            tokens.append(logits_of(subject.model, torch.tensor([tokens]))[0, -1].argmax().item())
            if tokens[-1] == 0:
                break
        assert subject.tokenizer.decode(tokens[len(ids) :]).split("\n")[0] == said


def test_an_answer_without_room_is_refused_and_a_long_prompt_is_cut(subject):
    with pytest.raises(ConfigError, match=r"leaves no room for its prompt.*max_new_tokens"):
        m.generate(subject, [("a", {"max_gen_toks": 256})], 0)
    long = "some text of a town " * 200
    assert m.generate(subject, [(long, {"max_gen_toks": 4})], 0) != [""]


def test_special_tokens_are_text_unless_a_template_wrote_them(subject):
    assert m.encode(subject, "<|im_end|>") != [2]
    subject.chat = Chat(subject.tokenizer)
    assert m.encode(subject, "<|im_end|>") == [2]
