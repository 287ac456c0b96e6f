"""Several answers to the question alone, none of which is shown another.

What rejection sampling and iterative preference learning draw; as many tokens as a chain's where
`answers` is a chain's answer and refinements together.

Paper: Xiong et al., Iterative Preference Learning from Human Feedback (arXiv:2312.11456)
Cost: the prompt is taken in once for all its answers.
"""

from collections.abc import Sequence
from typing import Any

from plm.candidates.common import asked, check
from plm.rollout.sampling import Sampling
from plm.rounds.common import Answer
from plm.rounds.template import Template


def independent(
    subject: Any,
    questions: Sequence[str],
    template: Template,
    seeds: Sequence[int],
    *,
    answers: int = 2,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 256,
) -> list[list[Answer]]:
    """`answers` answers a question, each a chain of its own that ends at turn 0.

    Args:
        subject: a plm.evaluation.subject.Subject that converses.
        questions: what users say.
        template: not used; nothing is shown.
        seeds: one a question: what is drawn for it depends on nothing else. The answers are those
            that `chain` begins its chains with.
        answers: a question.
        temperature, top_p: of every draw.
        max_new_tokens: of an answer; less where the context ends.
    Returns:
        Of each question its answers; none where the question leaves no room.
    Raises:
        ConfigError: a number that gives nothing, or is out of its range.
    """
    check(answers=answers, max_new_tokens=max_new_tokens, temperature=temperature)
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p)
    prompts = [subject.prompt(question, question) for question in questions]
    return [
        [Answer(said.text, 0, number, said.tokens, said.cut) for number, said in enumerate(found)]
        for found in asked(subject, prompts, seeds, sampling, group=answers)
    ]
