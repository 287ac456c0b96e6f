"""Refined tasks: what is shown and drawn, every figure by hand, and what is refused."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from plm.errors import ConfigError
from plm.evaluation import stored
from plm.evaluation.common import Share, seed_of
from plm.evaluation.generated import Generated, Item, drawing
from plm.evaluation.paired import compare
from plm.evaluation.refined import refined, refining, template_of
from plm.evaluation.statistics import mcnemar
from plm.evaluation.subject import Subject, subject_of
from plm.export.hf import hf
from plm.formats.chat import chatml
from plm.formats.common import About
from plm.pretrained import load
from plm.rollout.completion import Completion
from plm.rounds.template import Template, default_text
from tests.evaluation.conftest import SIZES, Scripted
from tests.model.common import tiny

SHOWS = "{question}|{answer}"
# Rights and wrongs of eight items, turn by turn, and of two more answers to each question.
TURNS = ("11110000", "11101100", "11101110")
OTHERS = ("01111000", "00000001")


@dataclass
class Talking(Scripted):
    """A subject that converses; its answers have as many tokens as letters."""

    chat: Any = "a chat"
    style: str = "chat"
    refinement: str | None = SHOWS
    seeds: dict[int, str] = field(default_factory=dict)

    def prompt(self, question: str, text: str) -> list[int]:
        assert question == text or text.startswith("t")
        return [ord(letter) for letter in question]

    def generate(self, prompts: Any, sampling: Any, *, group: int, seeds: Any) -> list[Completion]:
        found = super().generate(prompts, sampling, group=group, seeds=seeds)
        for completion in found:
            completion.tokens = [0] * len(completion.text)
        return found


def items(number: int = 8) -> list[Item]:
    return [Item(f"i{n}", f"q{n}", f"t{n}", str(n), group="ab"[n % 2]) for n in range(number)]


def grade(flat):
    return [(text.rstrip(".") == "right" and not cut, text) for item, text, cut in flat]


def task(number: int = 8, **draw: Any) -> Generated:
    settings = {"temperature": 1.0, "max_new_tokens": 50, **draw}
    return Generated(lambda: (items(number), []), grade, drawing(settings), settings={"x": 1})


def scripted(turns=TURNS, others=OTHERS, **changes: Any) -> Talking:
    """Says `right` or `wrong`, with a full stop more at each turn but for item 0, as the bits say;
    an answer apart is drawn as one of a group or from a seed of its own."""
    apart = {seed_of(0, f"i{n}/independent") for n in range(8)}

    def word(bits: str, item: int, stops: int) -> str:
        return ("right" if bits[item] == "1" else "wrong") + "." * stops

    def answer(text: str, sample: int) -> tuple[str, str]:
        question, _, shown = text.partition("|")
        item = int(question[1:])
        if not shown:
            seed = subject.asked[-1]["seed"]
            bits = others[sample] if seed in apart else turns[0]
            return word(bits, item, 0), "stop"
        turn = 1 if item == 0 else shown.count(".") + 1
        return word(turns[turn], item, 0 if item == 0 else turn), "stop"

    subject = Talking(answer, **changes)
    return subject


def result(subject: Any, one: Any, world: int = 1) -> Any:
    return one.result(subject, [one.run(subject, Share(rank, world)) for rank in range(world)])


def test_every_figure_by_hand():
    found = result(scripted(), refined(task(), turns=2))
    value = {name: figure.value for name, figure in found.figures.items()}
    wanted = {
        "accuracy": 4, "turn_1": 5, "turn_2": 6, "gain_1": 1, "gain_2": 2,
        "wrong_to_right_1": 2, "right_to_wrong_1": 1, "wrong_to_right_2": 3, "right_to_wrong_2": 1,
        "step_wrong_to_right_2": 1, "step_right_to_wrong_2": 0, "copy_1": 1, "copy_2": 1,
        "best_of_chain": 7, "sample_2": 4, "sample_3": 1, "best_of_independent": 6,
        "cut": 0, "cut_1": 0, "cut_2": 0,
    }  # fmt: skip
    assert {name: 8 * value[name] for name in wanted} == wanted
    assert all(found.figures[name].n == 8 for name in wanted)
    # Of each group: items 0, 2, 4, 6 and 1, 3, 5, 7.
    groups = [value[name] for name in ("turn_1/a", "turn_1/b", "turn_2/a", "turn_2/b")]
    assert groups == [3 / 4, 2 / 4, 4 / 4, 2 / 4]
    # Five letters, and a full stop a turn on seven of eight items.
    assert value["tokens/direct"] == 5 and value["tokens/independent"] == 15
    assert value["tokens/chain"] == pytest.approx(15 + 3 * 7 / 8)
    assert value["length_ratio_1"] == pytest.approx(47 / 40)
    assert value["length_ratio_2"] == pytest.approx(54 / 47)
    # Two letters of the question, and with an answer shown one more besides that answer.
    assert value["read/direct"] == value["read/independent"] == 2
    assert value["read/chain"] == pytest.approx(2 + 8 + 8 + 7 / 8)
    tests = {
        "p_turn_1": mcnemar(1, 2), "p_turn_2": mcnemar(1, 3), "p_turn_1_sample_2": mcnemar(2, 3),
        "p_turn_2_sample_3": mcnemar(1, 6), "p_best_of_chain": mcnemar(1, 2),
    }  # fmt: skip
    assert {name: value[name] for name in value if name.startswith("p_")} == tests
    assert found.figures["p_turn_1"].interval == "mcnemar"
    assert "turn 2 against sample 3: alone right on 6 and 1 items, p = 0.125 (Mc" in str(
        found.notes
    )
    assert len(found.notes) == 6 and found.prompt == "chat" and found.settings["x"] == 1


def test_a_gain_may_be_of_either_sign_whatever_the_items_say():
    one = refined(task(), independent=False)
    better = result(scripted(("11110000", "11111100")), one).figures["gain_1"]
    assert better.interval == "bootstrap" and better.value == 0.25 and 0 <= better.low < 0.25
    same = result(scripted(("11110000", "11110000")), one).figures["gain_1"]
    assert same.value == 0 and math.isnan(same.low)


def test_records_hold_the_chains_and_are_json():
    found = result(scripted(), refined(task(), turns=2))
    told = json.loads(json.dumps(stored.plain(found), allow_nan=False))
    one = told["items"][3]
    assert one["correct"] == [True] and one["texts"] == ["right"]
    assert one["turns"]["correct"] == [True, False, False]
    assert one["turns"]["texts"] == ["right", "wrong.", "wrong.."]
    assert one["turns"]["tokens"] == [5, 6, 7] and one["turns"]["copied"] == [False] * 3
    assert told["items"][0]["turns"]["copied"] == [False, True, True]
    assert one["independent"]["texts"] == ["right", "wrong"]
    assert told["settings"]["turns"] == 2
    assert told["settings"]["refinement"] == Template(SHOWS).sha256


def test_what_is_shown_is_the_answer_before():
    subject = scripted()
    result(subject, refined(task(2), turns=2, independent=False))
    asked = [one["prompt"] for one in subject.asked]
    # Item 0 says the same again.
    assert asked == ["q0", "q1", "q0|right", "q1|right", "q0|right", "q1|right."]
    assert all(one["sampling"].temperature == 1 for one in subject.asked)
    # Each draw has a seed of its own.
    assert len({one["seed"] for one in subject.asked}) == 6


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Subject:
    """A real model in fp64, so that batches of other shapes round alike."""
    about = About(chat_template=chatml(tokenizer))
    model = tiny(*SIZES, dtype=torch.float32)
    found = load(hf(model, tokenizer, tmp_path_factory.mktemp("hf") / "out", about=about))
    return subject_of(found, rows=3, dtype=torch.float64)


def test_turn_0_is_the_task_by_itself_and_ranks_change_nothing(talking: Subject):
    plain = task(max_new_tokens=12)
    alone = result(talking, plain)
    one = refined(plain, turns=2, template="short")
    found, shared = result(talking, one), result(talking, one, world=3)
    assert [r["texts"] for r in found.records] == [r["texts"] for r in alone.records]
    assert found.digest == alone.digest and found.figures["accuracy"] == alone.figures["accuracy"]
    # A NaN, of a ratio, say, equals none.
    assert json.dumps(stored.plain(shared)) == json.dumps(stored.plain(found))
    for record in found.records:
        texts = [*record["turns"]["texts"], *record["independent"]["texts"]]
        assert len(texts) == len(set(texts)) == 5 and texts[0] == record["texts"][0]


def test_without_a_temperature_there_are_no_independent_answers():
    found = result(scripted(), refined(task(temperature=0.0)))
    assert not {"sample_2", "best_of_independent", "p_best_of_chain"} & set(found.figures)
    assert "turn_1" in found.figures and "independent" not in found.records[0]
    assert any(note.startswith("temperature=0: independent") for note in found.notes)
    found = result(scripted(), refined(task(temperature=0.0), independent=False))
    assert not any(note.startswith("temperature=0") for note in found.notes)


def test_the_last_answer_stands_where_there_is_no_room_for_another():
    # The prompt of turn 1 has 8 letters, that of turn 2 has 9, but for item 0.
    found = result(scripted(max_len=9), refined(task(max_new_tokens=7), turns=2))
    assert [len(r["turns"]["texts"]) for r in found.records] == [3] + [2] * 7
    assert found.records[4]["turns"]["correct"] == [False, True, True]
    assert found.figures["turn_2"].value == found.figures["turn_1"].value == 5 / 8
    assert found.figures["copy_1"].n == 8 and found.figures["copy_2"].n == 1
    assert (
        "7 chains ended where the prompt with the answer shown left no room in" in found.notes[-1]
    )
    # No room for the first answer: all is wrong, and nothing was drawn.
    found = result(scripted(max_len=2), refined(task(), turns=2))
    assert found.figures["turn_2"].value == found.figures["best_of_independent"].value == 0
    assert found.figures["tokens/chain"].value == 0 and "copy_1" not in found.figures
    assert "8 prompts without room for an answer in the context: wrong" in found.notes


def test_a_cut_refinement_is_graded_as_cut():
    cut: Callable = lambda text, _: ("right", "length" if "|" in text else "stop")  # noqa: E731
    found = result(Talking(cut), refined(task()))
    assert found.figures["accuracy"].value == 1 and found.figures["turn_1"].value == 0
    assert found.figures["cut"].value == 0 and found.figures["cut_1"].value == 1


def test_which_text_shows_an_answer(tmp_path: Path):
    assert template_of(None, SHOWS)[0].text == SHOWS
    assert template_of(None)[0].text == default_text()
    given, where = template_of("{answer} {question}", SHOWS)
    assert (given.text, where) == ("{answer} {question}", "as given")
    assert template_of("short", SHOWS)[0].text.startswith("{question}\nShown answer:")
    path = tmp_path / "mine.txt"
    path.write_text("{question}\n{answer}\n")
    assert template_of(str(path))[0].text == "{question}\n{answer}"
    path = tmp_path / "mine.yaml"
    path.write_text("text: '{answer} of {question}'\n")
    assert template_of(str(path))[0].text == "{answer} of {question}"
    found = result(scripted(), refined(task()))
    assert found.notes[0].startswith("refinement text: the checkpoint's own (sha256 ")
    found = result(scripted(refinement="?"), refined(task(), template=SHOWS))
    assert found.settings["refinement"] == Template(SHOWS).sha256


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("shrot", "template='shrot' is no text with {question} and {answer}, none of .*short.* no"),
        ("a\n" * 300, "is no text with"),
        ("only {answer}", "no place {question}"),
        ("configs/train.yaml", "is no text; it needs {question} and {answer}"),
    ],
)
def test_a_text_that_shows_nothing(named: str, message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        template_of(named)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(ConfigError, match=message):
        refined(task(), template=named)


def test_what_cannot_be_refined():
    cases: list[tuple[dict[str, Any], str]] = [
        ({"turns": 0}, "turns=0 must be at least 1"),
        ({"turns": "x"}, "turns=x is not a whole number"),
        ({"independent": "maybe"}, "independent=maybe is not true or false"),
    ]
    for settings, message in cases:
        with pytest.raises(ConfigError, match=message):
            refined(task(), **settings)
    with pytest.raises(ConfigError, match="samples=2: a refined task asks each item once; turns=3"):
        refined(task(samples=2), turns=3)
    with pytest.raises(ConfigError, match="its answers are not generated one by one"):
        refined("exercises")
    with pytest.raises(ConfigError, match="the model is prompted with text, and answers are"):
        refined(task()).check(scripted(chat=None))
    refined(task()).check(scripted())
    with pytest.raises(ConfigError, match=r"prompts take 43 tokens at least, .* context has 43;"):
        refined(task(max_new_tokens=5), template=SHOWS + "." * 40).check(scripted(max_len=43))
    with pytest.raises(ConfigError, match="max_new_tokens=50 leaves no room"):
        refined(task()).prepare(50)


def test_a_commands_tasks_are_refined_where_they_can_be():
    found = refining({"a": task(), "b": "held out"}, 2, SHOWS)
    assert (found["a"].turns, found["a"].named, found["b"]) == (2, SHOWS, "held out")
    for tasks, message in (
        ({"b": "held out"}, "refine=1: none of b has answers that could be refined"),
        (found, "refine=1: a is refined already; set a.turns"),
        ({"a": task(samples=2)}, "a: samples=2: a refined"),
    ):
        with pytest.raises(ConfigError, match=message):
            refining(tasks, 1, None)


def test_two_refined_results_are_compared_turn_by_turn():
    def told(*bits: str, others: tuple[str, ...] = OTHERS, **settings: Any) -> dict[str, Any]:
        found = result(scripted(bits, others), refined(task(), turns=len(bits) - 1, **settings))
        return json.loads(json.dumps(stored.plain(found)))

    first, second = told("11110000", "11101000"), told("11110000", "11111110")
    found = {one.figure: one for one in compare("t", first, second)}
    assert found["accuracy"].p == 1 and found["sample_2"].difference == 0
    turn = found["turn_1"]
    assert (turn.first, turn.second, turn.test) == (4 / 8, 7 / 8, "mcnemar")
    assert (turn.only_first, turn.only_second, turn.p) == (0, 3, mcnemar(0, 3))
    assert found["turn_1/b"].n == 4 and found["gain_1"].difference == 3 / 8
    assert found["wrong_to_right_1"].only_second == 2
    assert found["right_to_wrong_1"].difference == -1 / 8
    assert found["tokens/chain"].difference == 0 and "tokens/chain/a" not in found
    # Without independent answers on one side there is nothing to compare them with.
    fewer = told("11110000", "11101000", independent=False)
    assert "sample_2" not in {one.figure for one in compare("t", fewer, second)}
    plain = json.loads(json.dumps(stored.plain(result(scripted(), task()))))
    for other, message in (
        (plain, r"not evaluated alike \(turns=1 and None; refinement="),
        (told("11110000", "11101000", "11101000"), "turns=1 and 2"),
        (told("11110000", "11101000", template="{question}||{answer}"), "alike .refinement="),
    ):
        with pytest.raises(ConfigError, match=message):
            compare("t", first, other)
