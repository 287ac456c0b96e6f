"""Answers, and refinements one after another: each shows the one before through the template.

Paper: Zeng et al., ARIES (arXiv:2502.05605), whose rounds take an answer and three refinements
Cost: the prompt of turn k holds the answer of turn k − 1.
"""

from collections.abc import Sequence
from typing import Any

from plm.candidates.common import asked, check
from plm.rollout.sampling import Sampling, row_seed
from plm.rounds.common import Answer
from plm.rounds.template import Template


def chain(
    subject: Any,
    questions: Sequence[str],
    template: Template,
    seeds: Sequence[int],
    *,
    answers: int = 1,
    turns: int = 1,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 256,
) -> list[list[Answer]]:
    """`answers` chains a question, each of an answer and `turns` refinements.

    Args:
        subject: a plm.evaluation.subject.Subject that converses.
        questions: what users say.
        template: how an answer is shown.
        seeds: one a question: what is drawn for it depends on nothing else.
        answers: chains a question.
        turns: refinements a chain; 0: answers alone.
        temperature, top_p: of every draw; 0 takes the most likely token.
        max_new_tokens: of an answer; less where the context ends.
    Returns:
        Of each question its answers, chain by chain. A chain ends early where the prompt with the
        answer shown leaves no room.
    Raises:
        ConfigError: a number that gives nothing, or is out of its range.
    """
    check(answers=answers, max_new_tokens=max_new_tokens, temperature=temperature, turns=turns)
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p)
    prompts = [subject.prompt(question, question) for question in questions]
    firsts = asked(subject, prompts, seeds, sampling, group=answers)
    chains = {
        (index, number): [Answer(said.text, 0, number, said.tokens, said.cut)]
        for index, of_question in enumerate(firsts)
        for number, said in enumerate(of_question)
    }
    for turn in range(1, turns + 1):
        going = [key for key, done in chains.items() if len(done) == turn]
        shown = [template.render(questions[index], chains[index, n][-1].text) for index, n in going]
        prompts = [subject.prompt(text, text) for text in shown]
        # Of its own for each chain and turn: two chains with one answer go on apart.
        own = [row_seed(row_seed(seeds[index], turn), n + 1) for index, n in going]
        for key, found in zip(going, asked(subject, prompts, own, sampling), strict=True):
            for said in found:
                chains[key].append(Answer(said.text, turn, key[1], said.tokens, said.cut))
    return _in_rows(chains, len(questions))


def _in_rows(chains: dict[tuple[int, int], list[Answer]], questions: int) -> list[list[Answer]]:
    """Of each question its chains' answers, each with the place of the one that it was shown."""
    found: list[list[Answer]] = [[] for _ in range(questions)]
    for (index, _), of_chain in chains.items():
        for answer in of_chain:
            answer.shown = len(found[index]) - 1 if answer.turn else None
            found[index].append(answer)
    return found
