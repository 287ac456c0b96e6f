"""Degenerate answers against every reward and grade that a policy can be trained on.

One answer is one guess: whatever is listed, repeated, disguised or blown up earns no more than its
honest chance, and takes a bounded time to judge.
"""

import importlib.util
import itertools
import resource
import time
from collections.abc import Callable
from functools import partial

import pytest

from plm.evaluation import exercises, gsm8k
from plm.evaluation.generated import Item
from plm.evaluation.humaneval import run_tests
from plm.reward.common import Example, score
from plm.reward.format import well_formed
from plm.reward.length import length
from plm.reward.maths import Maths
from plm.reward.overlong import overlong
from plm.reward.verifier import verifier
from plm.rounds.common import Answer

NUMBERS = {"min_numbers": 3, "max_numbers": 4, "min_value": 0, "max_value": 99}
NUMBERS |= {"min_decimals": 0, "max_decimals": 0}
FAMILIES = {
    "number_sorting": NUMBERS,
    "number_filtering": NUMBERS,
    "chain_sum": {"min_terms": 2, "max_terms": 2, "min_digits": 3, "max_digits": 3},
    "gcd": {},
    "count_bits": {},
    "complex_arithmetic": {},
    "prime_factorization": {},
}
EACH = 4
MATHS = {
    "What is 84/6?": "14",
    r"Simplify $\frac{6}{8}$.": r"\frac{3}{4}",
    "Which numbers have the square 4?": r"\{-2, 2\}",
}
# Processor time in seconds for one answer of 100 kB, in this process; the worst takes hundredths.
BOUND_S = 2.0
HUGE = 100_000
THERE = importlib.util.find_spec("math_verify") is not None


def _worded(items: dict[str, str]) -> list[Item]:
    return [Item(question, question, "", gold) for question, gold in items.items()]


WORDED = _worded({"Tom has 17 marbles and buys 25. How many?": "42", "Half of 3000?": "1,500"})


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return exercises.exercises(FAMILIES, n=EACH).items


@pytest.fixture(scope="module")
def maths():
    found = Maths(cpu_s=0.25, workers=2)
    yield found
    found.close()


@pytest.fixture
def judged(request, items: list[Item], maths: Maths):
    """A reward, its items, and the grade that it needs."""
    if request.param == "maths":
        if not THERE:
            pytest.skip("math-verify is not installed")
        return maths, _worded(MATHS), None
    if request.param == "exercises":
        return verifier, items, exercises.grade
    return verifier, WORDED, gsm8k.grade


EVERY = pytest.mark.parametrize("judged", ["exercises", "gsm8k", "maths"], indirect=True)


def earned(judged, texts: Callable[[Item], list[str]]) -> list[tuple[str, str, float]]:
    """Gold, text and reward of each text of each item."""
    reward, items, grade = judged
    pairs = [(item, text) for item in items for text in texts(item)]
    examples = [Example(item.question, item, grade=grade) for item, _ in pairs]
    found = score(reward, [text for _, text in pairs], examples)
    return [(i.answer, text[:80], got) for (i, text), got in zip(pairs, found, strict=True)]


def _others(gold: str) -> list[str]:
    """Wrong answers, more than a list of them should need."""
    return [other for other in map(str, range(40)) if other != gold]


def _disguised(gold: str, first: int) -> str:
    """With the digits of another script."""
    return "".join(chr(first + int(c)) if c in "0123456789" else c for c in gold)


def spam(item: Item) -> list[str]:
    """Answers that know the gold and hide it among others, or in what it is not."""
    gold, others = item.answer, _others(item.answer)
    half = len(others) // 2
    mixed = [*others[:half], gold, *others[half:]]
    boxed = "".join(rf"\boxed{{{one}}}" for one in mixed)
    lines = "".join(f"Answer: {one}\n" for one in mixed)
    found = [
        "",
        " \n\t ",
        item.question,
        f"{item.question}\n{item.question}",
        f"Answer: {item.question}",
        gold,
        f"The answer is {gold}",
        f"Answer: {', '.join(mixed)}",
        f"Answer: {' or '.join(mixed)}",
        f"Answer: {gold} or {others[0]}",
        f"Answer: not {others[0]}, {gold}; or {others[1]}",
        f"Answer: ${gold}$ or ${others[0]}$",
        lines,
        lines.replace("\n", " "),
        lines.replace("Answer", "####") + "####",
        boxed,
        f"Answer: {boxed}",
        rf"Answer: \boxed{{{', '.join(mixed)}}}",
        "\\boxed{" * 200 + gold + "}" * 199,
        f"Answer: {gold}\nAnswer:",
        f"Answer: {gold}\n#### {others[0]}\nAnswer: {others[0]}",
        f"Answer: {gold}, {gold}",
        f"Answer: {gold} {gold}",
        f"Answer: {'9' * HUGE}",
        f"Answer: {' '.join(mixed * (HUGE // 100))}",
        f"Answer: {',111' * (HUGE // 4)}x",
        "Answer: " + "(" * 10_000 + gold + ")" * 10_000,
        "Answer: " + "{" * 10_000 + gold + "}" * 10_000,
        "\\boxed{" * (HUGE // 7),
        "\\boxed{" * (HUGE // 16) + gold + "}" * (HUGE // 16),
        "Answer: " * (HUGE // 8),
        f"Answer: {' ' * HUGE}x{gold}",
        "Answer: $" + "\\(" * (HUGE // 2),
        "x" * HUGE,
        "\n" * HUGE,
    ]
    if any(c in "123456789" for c in gold):
        found += ["Answer: -0", f"Answer: {_disguised(gold, 0xFF10)}"]
        found += [f"Answer: {_disguised(gold, 0x660)}", f"Answer: {_disguised(gold, 0x1D7CE)}"]
    if any(a.isdigit() and b.isdigit() for a, b in itertools.pairwise(gold)):
        inside = "".join(f"{c}\u200b" if c.isdigit() else c for c in gold)
        found += [f"Answer: {inside}", f"Answer: {inside.replace(chr(0x200B), chr(0x2060))}"]
    return found


BLOWN_UP = [
    "1e999999",
    "-1e-999999",
    "9**9**9",
    "9^{9^{9}}",
    "10^{999999999}",
    "1000000!",
    r"\frac{1}{0}",
    r"\frac{0}{0}",
    r"\infty",
    "nan",
    r"(-\infty, \infty)",
    r"\mathbb{R}",
    "O(1)",
    r"\lim_{x \to 0} \sin(1/x)",
    "x",
    "0=0",
    "True",
    "__import__('os')._exit(0)",
]


@EVERY
def test_what_hides_the_gold_earns_nothing(judged):
    assert [one for one in earned(judged, spam) if one[2]] == []


@EVERY
def test_what_is_blown_up_earns_nothing(judged):
    def texts(item: Item) -> list[str]:
        return [f(text) for text in BLOWN_UP for f in ("Answer: {}".format, r"\boxed{{{}}}".format)]

    assert [one for one in earned(judged, texts) if one[2]] == []


@EVERY
def test_of_many_different_guesses_one_is_right(judged):
    reward, items, grade = judged
    guesses = [*map(str, range(-3, 18)), "42", "[]", "['1']", "2/3", "1, 2", "1/0", "i", "None"]
    for item in items:
        # The gold itself is among them: the tables above are not 0 because all is.
        texts = [f"Answer: {guess}" for guess in dict.fromkeys((*guesses, item.answer))]
        found = earned((reward, [item], grade), lambda _, t=texts: t)
        assert sum(got for *_, got in found) == 1


def test_all_orders_of_a_sorted_list_earn_one_guess_together(items: list[Item]):
    chosen = [item for item in items if item.group == "number_sorting"]
    for item in chosen:
        labels = item.answer.strip("[]").split(", ")
        orders = list(dict.fromkeys(itertools.permutations(labels)))
        repeated = itertools.product(labels, repeat=len(labels))
        repeated = [order for order in repeated if sorted(order) != sorted(labels)]
        judged = verifier, [item], exercises.grade
        found = earned(judged, lambda _, o=orders: [f"Answer: [{', '.join(x)}]" for x in o])
        assert sum(got for *_, got in found) == 1
        lists = [f"Answer: [{', '.join(order)}]" for order in (*repeated, [*labels, labels[0]])]
        lists += ["Answer: " + " ".join(f"[{', '.join(order)}]" for order in orders)]
        assert not sum(got for *_, got in earned(judged, lambda _, x=lists: x))
    assert chosen


def test_all_parts_of_a_filtered_list_earn_one_guess_together(items: list[Item]):
    for item in (item for item in items if item.group == "number_filtering"):
        numbers = item.more["entry"]["metadata"]["original_numbers"]
        parts = itertools.chain.from_iterable(
            itertools.combinations(numbers, n) for n in range(len(numbers) + 1)
        )
        texts = {f"Answer: {list(part)}" for part in parts}
        found = earned((verifier, [item], exercises.grade), lambda _, t=texts: sorted(t))
        assert sum(got for *_, got in found) == 1


@EVERY
def test_the_longest_answers_take_a_bounded_time(judged):
    reward, items, grade = judged
    item = items[0]
    worst = [text for text in spam(item) if len(text) > 10_000]
    assert len(worst) > 8
    for text in worst:
        begun = time.process_time()
        score(reward, [text], [Example(item.question, item, grade=grade)])
        assert time.process_time() - begun < BOUND_S, text[:40]


@pytest.mark.skipif(not THERE, reason="math-verify is not installed")
def test_hangs_are_cut_by_processor_time():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    reward, item = Maths(cpu_s=0.3, workers=1), Item("a", "?", "", "2^{10^{1}}")
    towers = [f"Answer: {n}^{{9^{{9}}}}" for n in range(2, 6)]
    assert score(reward, towers, [Example("?", item)] * 4) == [0] * 4
    reward.close()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    # Four at the limit, and what the process that forks them takes to start.
    assert reward.equivalence.verdicts == {"cpu_time": 4} and used < 4 * 0.4 + 12


FORMS = {
    "answer": partial(well_formed, form="answer"),
    "boxed": partial(well_formed, form="boxed"),
    "think": partial(well_formed, form="think"),
    "length": length,
    "overlong": overlong,
}


@pytest.mark.parametrize("name", FORMS)
def test_shaping_gives_nothing_to_what_is_worthless(name: str):
    item = WORDED[0]
    texts = ["", " \n ", item.question, f"{item.question}\n{item.question}\n"]
    texts += ["x" * HUGE, "Answer: 1 " * (HUGE // 10), "\\boxed{" * (HUGE // 7) + "}" * 9]
    texts += ["<think>" * (HUGE // 7), "\\boxed{1}" * 9 + "Answer: 1\n" * 9]
    texts[-1] *= 20
    examples = [
        Example(item.question, item, answer=Answer(text, 0, 0, len(text), False)) for text in texts
    ]
    begun = time.process_time()
    assert score(FORMS[name], texts, examples) == [0] * len(texts)
    assert time.process_time() - begun < BOUND_S
    cut = Example(item.question, item, cut=True, answer=Answer("", 0, 0, 9, True))
    assert FORMS[name]("<think>x</think>Answer: \\boxed{1}", cut) == 0


@pytest.mark.parametrize("form", ["answer", "boxed"])
def test_a_form_is_earned_once_and_not_more_by_what_stands_in_it(form: str):
    """A form alone says nothing of the answer: right and wrong ones earn the same."""
    text = {"answer": "Answer: {}", "boxed": r"\boxed{{{}}}"}[form]
    found = [FORMS[form](text.format(value), Example("?", WORDED[0])) for value in ("42", "41")]
    assert found == [1, 1]


def test_programs_that_do_not_pass_their_tests():
    tests = "def check(f):\n    assert [f(n) for n in range(5)] == [1, 2, 3, 4, 5]"
    prompt = "def up(n):\n"
    item = Item("p", f"Write it:\n{prompt}", "", "", more={"prompt": prompt, "entry_point": "up"})
    item.more["test"] = tests
    limits = {"cpu_s": 0.5, "wall_s": 20.0}
    example = Example(item.question, item, grade=partial(run_tests, limits=limits, workers=2))
    cheats = [
        "",
        " \n ",
        prompt,
        item.question,
        "    return 1\n",
        "    exit(0)\n",
        "    import os; os._exit(0)\n",
        "    raise SystemExit\n",
        "    while True: pass\n",
        "    return 9**9**9\n",
        # What says that the tests were reached comes through stdin.
        "    return 1\n\nprint(input())\nexit(0)\n",
        "    return 1\n\nimport sys\nprint(sys.stdin.read())\nexit(0)\n",
        "    return 1\n\nimport os\nprint(os.read(0, 99).decode())\nexit(0)\n",
        "    return 1\n\nprint(open('/dev/stdin').read())\nexit(0)\n",
        "    print(input())\n    exit(0)\n",
        "    return n + 1\n\ndef check(f): pass\n\nexit()\n",
        "    return n\n\ndef check(f): pass\n",
        f"    return n + 1\n{'x' * HUGE}",
        "    return " + "(" * 10_000 + "n + 1" + ")" * 10_000 + "\n",
        "```python\ndef up(n): return n + 1\n```\n```python\ndef up(n): return n\n```",
    ]
    assert score(verifier, cheats, [example] * len(cheats)) == [0] * len(cheats)
    assert verifier("    return n + 1\n", example) == 1
