"""Items are held out by seed and by question; scoring is exact where reasoning-gym's own is not."""

import pytest
import reasoning_gym

from plm.data.conversations import Conversation
from plm.data.sources.dialogues import dialogues
from plm.data.sources.exercises import exercises as training_source
from plm.data.sources.solutions import SOLVERS
from plm.data.tally import Tally
from plm.errors import ConfigError
from plm.evaluation.exercises import NUMERIC, STRICT, exercises, grade, right
from plm.evaluation.generated import Item
from tests.evaluation.conftest import Scripted
from tests.model.common import ROOT

FAMILIES = {"gcd": {}, "chain_sum": {}}


def solved(text: str, sample: int) -> tuple[str, str]:
    return GOLD[text], "stop"


GOLD: dict[str, str] = {}


def test_right_answers_count_in_each_family_and_only_those():
    task = exercises(FAMILIES, n=6)
    GOLD.update({i.text: f"so\nAnswer: {i.answer}" for i in task.items if i.group == "gcd"})
    GOLD.update({i.text: f"Answer: {i.answer}1" for i in task.items if i.group != "gcd"})
    result = task.result(Scripted(solved), [task.run(Scripted(solved))])
    assert result.figures["accuracy/gcd"].value == 1.0
    assert result.figures["accuracy/chain_sum"].value == 0.0
    assert result.figures["accuracy"].value == 0.5 and result.figures["accuracy"].n == 12
    assert result.records[0]["id"].startswith("chain_sum/700000000")


@pytest.mark.parametrize("family", sorted(SOLVERS))
def test_degenerate_answers_score_nothing_and_the_right_one_everything(family: str):
    item = exercises({family: {}}, n=1).items[0]
    others = exercises({family: {}}, n=20, items_seed=800_000_000).items
    other = next(i for i in others if i.answer not in item.answer and item.answer not in i.answer)
    entry = item.more["entry"]
    texts = [
        "",
        " \n",
        item.question,
        f"{item.question}\nSolution:\n",
        entry["question"],
        item.answer,
        f"Answer: {item.answer} {other.answer}",
        f"Answer: {other.answer}, {item.answer}",
        f"Answer: {other.answer}",
        "Answer:",
        "Answer: 0 1 2 3 4 5 6 7 8 9 10",
    ]
    flat = [(item, text, False) for text in texts] + [(item, f"Answer: {item.answer}", True)]
    assert [ok for ok, _ in grade(flat)] == [False] * len(flat)
    whole = [(item, f"Answer: {item.answer}", False), (item, f"Answer: {entry['answer']}\n", True)]
    assert [ok for ok, _ in grade(whole)] == [True, True]


def test_answers_that_reasoning_gym_rewards_are_wrong_here():
    """The parts of its scorers that make them no judge; if they change, so may this."""
    cases = {
        "gcd": lambda e: f"{e['answer']} or 1",
        "number_sorting": lambda e: str([float(x) + 0.5 for x in eval(e["answer"])]),
        "word_sorting": lambda e: e["answer"] + ", zzz",
        "gsm_symbolic": lambda e: f"{e['answer']} or 7",
        "complex_arithmetic": lambda e: e["answer"].replace("i", "00000000000000001i"),
    }
    for family, spoil in cases.items():
        dataset = reasoning_gym.create_dataset(family, seed=3, size=1)
        entry = dataset[0]
        answer = spoil(entry)
        assert dataset.score_answer(answer, entry) > (0.1 if family == "gcd" else 0.99), family
        assert not right(answer, entry["answer"], family, entry), family


def test_forms_of_one_answer():
    dataset = reasoning_gym.create_dataset("prime_factorization", seed=5, size=30)
    entry = next(e for e in dataset if len(set(e["answer"].split(" × "))) > 1)
    turned = " × ".join(reversed(entry["answer"].split(" × ")))
    assert turned != entry["answer"] and "prime_factorization" in STRICT
    assert right(turned, entry["answer"], "prime_factorization", entry)
    assert not right(turned + " × 1", entry["answer"], "prime_factorization", entry)
    assert not right("× x", entry["answer"], "prime_factorization", entry)
    pair = {"answer": "-5.0 + 20.0i", "metadata": {}}
    assert right("-5 + 20i", "-5 + 20i", "complex_arithmetic", pair)
    assert right("-5+20.0i", "-5 + 20i", "complex_arithmetic", pair)
    assert right("\u22125+20.0i", "-5 + 20i", "complex_arithmetic", pair)
    assert not right("-5 + 2i", "-5 + 20i", "complex_arithmetic", pair)
    assert "chain_sum" in NUMERIC and right("07.0", "7", "chain_sum", {"answer": "7"})
    assert not right("07", "7", "base_conversion", {"answer": "7"})


def test_no_item_is_one_that_the_recipe_trains_on():
    """A family with few problems: trained ones are found among the candidates and left out."""
    settings = {"min_n": 2, "max_n": 60}
    trained = {"seed": 1, "problems": 40}
    task = exercises({"count_bits": settings}, n=12, trained=[trained])
    source = training_source({"count_bits": settings}, seed=1, problems=40)
    texts = [d.text for item in source.items for d in source.read(item, Tally())]
    questions = {text.split("\n")[0].removeprefix("Question: ") for text in texts}
    assert len(task.items) == 12 and not questions & {i.question for i in task.items}
    assert len({i.question for i in task.items}) == 12
    [note] = task.run(Scripted(lambda *_: ("", "stop"))).told["notes"]
    assert "problems left out, trained on or there twice" in note


def test_prompt_is_the_beginning_of_what_training_writes():
    task = exercises({"gcd": {}}, n=1)
    source = training_source({"gcd": {}}, seed=700_000_000, problems=1)
    (text,) = [d.text for item in source.items for d in source.read(item, Tally())]
    assert text.startswith(task.items[0].text)


def test_shots_are_worked_problems_and_no_items():
    task = exercises({"gcd": {}}, n=3, shots=2)
    for item in task.items:
        shots = item.text.removesuffix(f"Question: {item.question}\nSolution:\n")
        assert shots.count("Question:") == shots.count("\nAnswer: ") == 2
        assert item.question not in shots


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"families": {"nofam": {}}},
            r"families\.nofam: reasoning-gym has no such family; some are \w+, \w+, ",
        ),
        (
            {"families": {"chainsum": {}}},
            "families.chainsum: reasoning-gym has no such family; did you mean chain_sum",
        ),
        ({"families": {"gcd": {"max_value": -1}}}, "families.gcd: {'max_value': -1}"),
        (
            {"families": {"gcd": {"colour": 1}}},
            r"unknown setting families\.gcd\.colour=1; there are min_numbers, max_n.*, max_value$",
        ),
        (
            {"families": {"gcd": {"seed": 1}}},
            r"unknown setting families\.gcd\.seed=1; there are min_numbers",
        ),
        (
            {"families": {"gcd": {"max_val": 9}}},
            r"families\.gcd\.max_val=9; did you mean families\.gcd\.max_value\?",
        ),
        (
            {"families": {"gcd": {"max_value": "x"}}},
            r"families\.gcd\.max_value=x is not a whole number",
        ),
        ({"n": 0}, "n=0 and shots=0"),
        (
            {"items_seed": 5, "trained": [{"seed": 1, "problems": 100}]},
            "items_seed=5: problems 1 to 100 were trained on.*take items_seed=101 or more",
        ),
        (
            {"items_seed": 0, "trained": [{"seed": 1, "problems": 100}]},
            "items_seed=0: problems 1 to 100 were trained on",
        ),
        ({"trained": [{"seed": 1}]}, r"trained: \{'seed': 1\} is not \{seed, problems\}"),
        ({"colour": 1}, "unknown setting colour=1; there are families, n, items_.*, samples, k, "),
    ],
)
def test_what_cannot_be_is_said_in_one_line(settings, message: str):
    with pytest.raises(ConfigError, match=message):
        assert exercises(**{"families": FAMILIES, "n": 3, **settings}).items


def test_default_families_train_and_test_apart():
    import yaml

    def families(name: str) -> set[str]:
        return set(yaml.safe_load((ROOT / "configs/task" / name).read_text())["families"])

    recipe = yaml.safe_load((ROOT / "data_recipes/embedded.yaml").read_text())
    origin = recipe["sources"]["math"]["origin"]
    known = yaml.safe_load((ROOT / "configs/task/exercises.yaml").read_text())
    assert families("exercises.yaml") == set(origin["families"]) == set(SOLVERS)
    assert not families("exercises_new.yaml") & set(SOLVERS)
    (trained,) = known["trained"]
    numbers = [(f or {}).get("problems", origin["problems"]) for f in origin["families"].values()]
    assert trained["seed"] == origin["seed"] and trained["problems"] >= max(numbers)
    for family, settings in origin["families"].items():
        told = {k: v for k, v in (settings or {}).items() if k != "problems"}
        assert known["families"][family] == told


def test_items_for_sft_are_those_of_its_recipe_from_other_seeds():
    import yaml

    recipe = yaml.safe_load((ROOT / "data_recipes/sft.yaml").read_text())
    task = yaml.safe_load((ROOT / "configs/task/exercises_sft.yaml").read_text())
    origins = [source["origin"] for source in recipe["sources"].values()]
    origins = [o for o in origins if o["_target_"].endswith("dialogues.dialogues")]
    families, trained = {}, []
    for origin in origins:
        for family, settings in origin["families"].items():
            families[family] = {k: v for k, v in settings.items() if k != "problems"}
        trained.append(
            {"seed": origin["seed"], "problems": origin["problems"]}
            | {"families": list(origin["families"])}
        )
    assert task["families"] == families
    assert task["trained"] == trained


def test_trained_problems_of_other_families_are_left_alone():
    one = {"seed": 1, "problems": 40, "families": ["gcd"]}
    settings = {"min_n": 2, "max_n": 60}
    task = exercises({"count_bits": settings, "gcd": {}}, n=40, trained=[one])
    free = exercises({"count_bits": settings}, n=40)
    assert [i for i in task.items if i.group == "count_bits"] == free.items


def test_items_do_not_depend_on_what_else_is_asked():
    alone = exercises({"gcd": {}}, n=3).items
    both = [i for i in exercises(FAMILIES, n=3).items if i.group == "gcd"]
    assert alone == both and isinstance(alone[0], Item)


def test_solutions_are_what_dialogues_train_on():
    settings = {"chain_sum": {"min_terms": 2, "max_terms": 2}, "gcd": {}}
    task = exercises(settings, n=5)
    trained = {
        Conversation.from_text(document.text).messages[-1]["content"]
        for document in dialogues(settings, seed=700_000_000, problems=5)
    }
    assert {item.solution for item in task.items} == trained
    assert all(ok for ok, _ in task.grade([(i, i.solution, False) for i in task.items]))
    short = exercises(settings, n=5, steps=False).items
    assert [item.solution for item in short] == [f"Answer: {item.answer}" for item in short]
    assert not any(item.solution for item in exercises({"largest_island": {}}, n=2).items)
