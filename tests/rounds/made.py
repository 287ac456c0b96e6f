"""Rounds that are written down: chains of (text, score)."""

from plm.rounds.common import Answer, Sampled


def prompt(index: int, *chains: list[tuple[str, float | None]], group: str = "") -> Sampled:
    """A prompt whose chains are texts with scores; tokens are the text's letters."""
    one = Sampled(index, f"item-{index}", f"question {index}?", group)
    for number, chain in enumerate(chains):
        for turn, (text, score) in enumerate(chain):
            shown = len(one.answers) - 1 if turn else None
            cut = text.endswith("…")
            one.answers.append(Answer(text, turn, number, len(text), cut, shown, score))
    return one
