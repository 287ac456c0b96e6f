"""Drawing, cutting, counting: the parts that all generated tasks share."""

import pytest

from plm.errors import ConfigError
from plm.evaluation.common import Share, seed_of
from plm.evaluation.generated import Drawing, Generated, Item, drawing
from plm.evaluation.statistics import pass_at_k
from tests.evaluation.conftest import Scripted


def items(number: int = 6) -> list[Item]:
    return [Item(f"i{n}", f"q{n}", f"t{n}", str(n), group="ab"[n % 2]) for n in range(number)]


def grade(flat):
    return [(text == item.answer and not cut, text) for item, text, cut in flat]


def task(**draw) -> Generated:
    return Generated(lambda: (items(), ["a note"]), grade, drawing(draw), settings={"x": 1})


def result(subject, one: Generated, world: int = 1):
    return one.result(subject, [one.run(subject, Share(rank, world)) for rank in range(world)])


def right(text: str, sample: int) -> tuple[str, str]:
    return text[1:], "stop"


def test_figures_and_records():
    found = result(Scripted(right), task())
    assert found.figures["accuracy"].value == 1.0 and found.figures["accuracy"].n == 6
    assert list(found.figures) == ["accuracy", "accuracy/a", "accuracy/b", "cut"]
    assert [r["index"] for r in found.records] == list(range(6))
    assert found.records[2]["correct"] == [True] and found.records[2]["wanted"] == "2"
    assert found.notes == ["a note"] and found.settings["x"] == 1 and found.prompt == "text"


def test_a_cut_answer_is_graded_as_cut():
    found = result(Scripted(lambda text, _: (text[1:], "length")), task())
    assert found.figures["accuracy"].value == 0.0 and found.figures["cut"].value == 1.0


def test_pass_at_k_over_items():
    # Item n is right in n of 5 samples.
    subject = Scripted(lambda text, s: (text[1:] if s < int(text[1:]) else "no", "stop"))
    found = result(subject, task(samples=5, k=[1, 3], temperature=1.0))
    wanted = [pass_at_k(5, n, 3) for n in range(5)] + [1.0]
    assert found.figures["pass@3"].value == pytest.approx(sum(wanted) / 6)
    assert found.figures["accuracy"].value == pytest.approx(sum(range(6)) / 30)
    assert found.figures["accuracy"].interval == "bootstrap" and "pass@1" not in found.figures


def test_ranks_share_the_items_and_change_nothing():
    one = Scripted(right)
    alone, shared = result(one, task()), result(Scripted(right), task(), world=4)
    assert alone == shared
    assert {a["seed"] for a in one.asked} == {seed_of(0, f"i{n}") for n in range(6)}


def test_more_ranks_than_items_leave_some_with_nothing():
    assert result(Scripted(right), task(limit=2), world=3).figures["accuracy"].n == 2


def test_an_items_seed_does_not_depend_on_the_others():
    few, all_of_them = Scripted(right), Scripted(right)
    result(few, task(limit=2))
    result(all_of_them, task())
    seeds = {a["prompt"]: a["seed"] for a in all_of_them.asked}
    assert all(seeds[a["prompt"]] == a["seed"] for a in few.asked)
    assert [a["prompt"] for a in few.asked] == ["t0", "t3"]


def test_little_room_shortens_the_answer_and_none_is_counted():
    subject = Scripted(right, max_len=2)
    found = result(subject, task())
    assert found.figures["accuracy"].value == 0.0 and not subject.asked
    assert found.notes[1:] == ["6 prompts without room for an answer in the context: wrong"]
    assert found.figures["cut"].value == 0.0
    # Prompts of 2 to 7 letters, so that each has a room of its own.
    long = [Item(f"i{n}", "", "t" + "." * n + str(n), str(n)) for n in (3, 0, 4, 1, 2)]
    subject = Scripted(lambda text, _: (text[-1], "stop"), max_len=12)
    one = Generated(lambda: (long, []), grade, drawing({"max_new_tokens": 9}), settings={})
    found = result(subject, one, world=2)
    assert found.figures["accuracy"].value == 1.0
    # Counted over all ranks.
    assert found.notes == [
        "3 prompts with less room than max_new_tokens=9: there the context ends the answer"
    ]
    assert sorted(a["sampling"].max_new_tokens for a in subject.asked) == [6, 7, 8, 9, 9]
    subject = Scripted(right, max_len=12)
    result(subject, task(max_new_tokens=64))
    assert {a["sampling"].max_new_tokens for a in subject.asked} == {10}


def test_one_is_one_prompt():
    one = Generated(lambda: (items(1), []), grade, Drawing(max_new_tokens=5), settings={})
    assert result(Scripted(right, max_len=6), one).notes[0].startswith("1 prompt with less room")
    assert result(Scripted(right, max_len=2), one).notes[0].startswith("1 prompt without room")
    assert result(Scripted(right, max_len=7), one).notes == []


def test_what_leaves_no_room_at_all_is_refused_before_anything_runs():
    subject = Scripted(right, max_len=8)
    for most in (8, 100_000):
        with pytest.raises(
            ConfigError, match=rf"max_new_tokens={most} leaves no room .* of 8; set"
        ):
            task(max_new_tokens=most).check(subject)
    task(max_new_tokens=7).check(subject)
    # Of prompts with 3 and 2 tokens one fits into 3, and none into 2.
    mixed = [Item("a", "", "tt1", "1"), Item("b", "", "t2", "2")]
    one = Generated(lambda: (mixed, []), grade, Drawing(max_new_tokens=1), settings={})
    one.check(Scripted(right, max_len=3))
    with pytest.raises(ConfigError, match=r"2 prompts, and none leaves room .* context of 2; ask"):
        one.check(Scripted(right, max_len=2))
    assert not subject.asked


def test_other_items_or_texts_have_another_digest():
    digests = {result(Scripted(right), t).digest for t in (task(), task(), task(limit=5))}
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 4}, "samples=4 at temperature=0 would be the same answer"),
        ({"samples": 4, "temperature": 1.0, "k": 8}, "k=8: pass@8 needs samples=8"),
        ({"k": [0]}, "k=0: pass@0 needs samples=1"),
        ({"samples": 0}, "samples=0 must be at least 1"),
        ({"limit": 0}, "limit=0 must be at least 1"),
        ({"max_new_tokens": 2.5}, "max_new_tokens=2.5 is not a whole number"),
        ({"temperature": "hot"}, "temperature=hot is not a number"),
        ({"k": "all"}, "k=all is not a whole number or a list"),
        ({"colour": 1}, "unknown setting colour=1; there are samples, k, temperature, top_p, max"),
        ({"top": 1}, r"unknown setting top=1; did you mean top_p\?"),
    ],
)
def test_settings_that_cannot_be(settings, message: str):
    with pytest.raises(ConfigError, match=message):
        drawing(settings)


def test_no_items_are_refused():
    with pytest.raises(ConfigError, match="no items"):
        assert Generated(lambda: ([], []), grade, Drawing(), settings={}).items
