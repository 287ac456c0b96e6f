"""A task whose worked solutions are written down."""

from plm.evaluation.generated import Drawing, Generated, Item

STEPS = (
    "Let us see: Ann has 48 pens.",
    "She sells 48/2 = 24 of them.",
    "Then she buys 24 * 3 = 72.",
    "In all she has 24 + 72 = 96 pens.",
)


def task(*solutions: str, question: str = "Ann has 48 pens. And then?") -> Generated:
    """One item a solution, named item-0 and so on."""
    items = [
        Item(f"item-{i}", question, "", "96", solution=solution)
        for i, solution in enumerate(solutions)
    ]
    return Generated(lambda: (items, []), lambda flat: [], Drawing(), settings={"of": "tests"})


def worked(*steps: str, final: str = "Answer: 96") -> str:
    """A solution of lines."""
    return "\n".join([*(steps or STEPS), final])
