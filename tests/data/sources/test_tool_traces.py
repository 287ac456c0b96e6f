"""Traces with an interpreter: right by the task, masked, and as the environment writes them."""

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from plm.data.conversations import Conversation, check
from plm.data.sources.exercises import solve
from plm.data.sources.tool_traces import PROGRAMS, tool_traces
from plm.data.tokenizer import END_OF_TEXT, train
from plm.environment.common import Asked
from plm.environment.interpreter import interpreter
from plm.errors import ConfigError
from plm.evaluation.subject import Subject
from plm.formats.chat import Chat
from plm.formats.common import IM_END, IM_START
from plm.rollout.completion import STOP, STOP_STRING, Completion
from plm.sandbox import run

pytest.importorskip("reasoning_gym")

SETTINGS = {"prime_factorization": {"max_value": 300}}
TEMPLATE = Path(__file__).parents[3] / "plm/formats/chatml_code.jinja"


def talks(*families: str, **settings) -> list[Conversation]:
    chosen = {family: SETTINGS.get(family) for family in families}
    origin = tool_traces(chosen, **{"seed": 7, "problems": 20, **settings})
    return [Conversation.from_text(document.text) for document in origin]


@lru_cache
def tokenizer() -> Tokenizer:
    text = "<code> print(sorted(numbers)) </code> <result> 12 </result> Answer: import math " * 4
    return train([text], vocab_size=320, special_tokens=[END_OF_TEXT, IM_START, IM_END])


@lru_cache
def chat(ours: bool = True) -> Chat:
    return Chat(tokenizer(), TEMPLATE.read_text("utf-8") if ours else None)


@pytest.mark.parametrize("family", sorted(PROGRAMS))
def test_every_program_solves_its_task(family: str):
    found = talks(family)
    answers = {
        worked.question: task["answer"]
        for _, task, worked in solve(family, dict(SETTINGS.get(family) or {}), 7, 20)
        if worked is not None
    }
    assert len(found) == 20 or (family == "basic_arithmetic" and found)
    for talk in found:
        check(talk.messages)
        user, _, tool, said = talk.messages
        answer = answers[user["content"]]
        assert said["content"] == f"Answer: {answer}" and tool["content"] == answer
    code = found[0].messages[1]["tool_calls"][0]["function"]["arguments"]["code"]
    outcome = run(code)
    assert outcome.status == "ok" and outcome.stdout.strip() == found[0].messages[2]["content"]


def test_a_system_prompt_comes_first_and_the_same_seed_gives_the_same():
    (first, *_), (again, *_) = (talks("gcd", system="Use Python.") for _ in range(2))
    assert first == again and first.messages[0] == {"role": "system", "content": "Use Python."}
    check(first.messages)


@pytest.mark.parametrize("ours", [True, False])
def test_nothing_is_learnt_from_a_result(ours: bool):
    for talk in talks("products", "number_sorting"):
        ids, mask = chat(ours).encode(talk.messages)
        learnt, rest = (tokenizer().decode(ids[kept].tolist()) for kept in (mask, ~mask))
        _, call, tool, answer = talk.messages
        given = call["tool_calls"][0]["function"]
        said = f"<code>\n{given['arguments']['code']}\n</code>"
        if not ours:
            said = f"<tool_call>\n{json.dumps(given)}\n</tool_call>"
        assert learnt == said + answer["content"]
        assert f">\n{tool['content']}\n</" in rest


class _Trace:
    """An engine that says what a trace says."""

    rows = 1

    def __init__(self, said: list[list[int]]) -> None:
        self.said = said

    def generate(self, prompts, sampling, *, group=1, seeds, hold=0, held=None):
        ids = self.said.pop(0)
        return [
            Completion(0, 0, ids, [], [-1.0] * len(ids), STOP_STRING if self.said else STOP, "")
        ]


def test_a_trace_is_what_the_environment_gives_token_by_token():
    for talk in talks("products", "gcd", "number_sorting", "chain_sum", problems=5):
        ids, mask = chat().encode(talk.messages)
        prompt = chat().prompt(talk.messages[:1])
        assert ids[: len(prompt)].tolist() == prompt
        starts = np.flatnonzero(np.diff(mask.astype(int), prepend=0) == 1)
        stops = np.flatnonzero(np.diff(mask.astype(int), append=0) == -1) + 1
        said = [ids[a:b].tolist() for a, b in zip(starts, stops, strict=True)]
        assert len(said) == 2 and said[1][-1] == tokenizer().token_to_id(IM_END)
        subject = Subject(_Positions(), tokenizer(), 0, chat=chat(), _engine=_Trace(said))
        (reply,) = interpreter(subject, [Asked(prompt, 400, 0, 1)])
        # The line break behind the end of a turn belongs to what comes next.
        whole = slice(len(prompt), len(prompt) + len(reply.tokens))
        assert reply.tokens == ids[whole].tolist() and reply.learn == mask[whole].tolist()
        assert tokenizer().decode(ids[whole.stop :].tolist()) == "\n"
        assert reply.told == {"tool/calls": 1, "tool/errors": 0, "turns": 2}


class _Positions:
    max_position_embeddings = 500


def test_the_template_writes_other_conversations_as_chatml_does():
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "and 1?"},
    ]
    assert chat().prompt(talk) == chat(False).prompt(talk)
    whole = [*talk, {"role": "assistant", "content": "3"}]
    for ours, theirs in zip(chat().encode(whole), chat(False).encode(whole), strict=True):
        assert np.array_equal(ours, theirs)
    asked = talks("gcd")[0].messages
    assert chat().render(asked[:3], add_generation_prompt=True).endswith("\n</result>\n")


def test_what_is_refused():
    with pytest.raises(ConfigError, match="tool_traces: no program for 'sudoku'; there are: basic"):
        tool_traces({"sudoku": {}}, seed=0, problems=1)
