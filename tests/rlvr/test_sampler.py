"""Drawing rollouts: which prompts, how often, in which order, and by however many processes."""

import math
import random
import threading
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from plm.environment.common import Asked, Reply
from plm.errors import ConfigError
from plm.reward.common import Guarded
from plm.rlvr.cursor import Cursor
from plm.rlvr.prompts import PromptSet, Source
from plm.rlvr.rollouts import Drawn
from plm.rlvr.sampler import Sampler, Settings, rewarded
from plm.rlvr.told import of_drawn
from tests.rlvr.made import plan_of, prompt_set, right, rollout, short, source_of

SEQ_LEN = 12


def _environment(subject: float, asked: Sequence[Asked]) -> list[Reply]:
    """Answers `a` with a prompt's own probability; what is drawn depends on the seed alone."""
    found = []
    for one in asked:
        draw = random.Random(one.seed)
        likely = draw.choice((0.0, subject, 1.0))
        for _ in range(one.group):
            said, size = "a" if draw.random() < likely else "b", draw.randint(1, one.room)
            tokens = [draw.randrange(37) for _ in range(size)]
            cut = size == one.room
            found.append(
                Reply(tokens, [1] * size, [-draw.random()] * size, said, cut, {"turns": 2})
            )
    return found


def _prompts() -> PromptSet:
    return prompt_set(
        source_of("sums", 13),
        source_of("words", 7, {"short": short, "right": right}, {"right": 0.5, "short": 2.0}),
    )


def _sampler(prompts: PromptSet | None = None, rank: int = 0, world: int = 1, **settings: Any):
    prompts = prompts or _prompts()
    sizes = {name: len(source.items) for name, source in prompts.sources.items()}
    cursor = Cursor(plan_of(one=dict.fromkeys(sizes, 1)), sizes, seed=5, group=4)
    return Sampler(
        prompts,
        cursor,
        _environment,
        Settings(**{"group": 4, "max_new_tokens": 9, **settings}),
        seed=5,
        subject=lambda: 0.5,
        rank=rank,
        world_size=world,
    )


def _groups(drawn: Drawn) -> list[list[Any]]:
    size = drawn.group
    return [drawn.rollouts[low : low + size] for low in range(0, len(drawn.rollouts), size)]


def _only_sums() -> PromptSet:
    return prompt_set(source_of("sums", 13))


def test_a_sampling_is_the_cursors_prompts_group_by_group() -> None:
    sampler = _sampler()
    drawn = sampler.draw("one", SEQ_LEN, 6)
    draws = _sampler().cursor.take("one", 6)
    assert [(g[0].number, g[0].source, g[0].item) for g in _groups(drawn)] == [
        (d.number, d.source, d.item) for d in draws
    ]
    for group in _groups(drawn):
        assert len({one.number for one in group}) == 1
        assert [one.sample for one in group] == [0, 1, 2, 3]
        source = sampler.prompts.sources[group[0].source]
        assert all(one.prompt == source.prompts[one.item] for one in group)
    assert sampler.cursor.number == 6
    assert sampler.draw("one", SEQ_LEN, 2).rollouts[0].number == 6


def test_there_is_room_for_no_more_than_the_phase_has() -> None:
    drawn = _sampler().draw("one", SEQ_LEN, 20)
    assert all(one.length <= SEQ_LEN and len(one.tokens) <= 9 for one in drawn.rollouts)
    assert any(one.length == SEQ_LEN for one in drawn.rollouts)


def test_rewards_are_those_of_the_source_with_its_weights() -> None:
    for one in _sampler().draw("one", SEQ_LEN, 10).rollouts:
        solved = float(one.text == "a")
        if one.source == "sums":
            assert one.rewards == {"right": solved} and one.reward == solved
        else:
            assert one.rewards == {"short": 1 / len(one.tokens), "right": solved}
            assert one.reward == pytest.approx(2 / len(one.tokens) + 0.5 * solved, rel=1e-15)
        assert one.told == {"turns": 2}


def test_a_reward_knows_what_the_policy_chose_and_what_was_cut() -> None:
    seen = []

    def looks(completion: str, example: Any) -> float:
        seen.append((completion, example.question, example.answer.tokens, example.cut))
        return 0.5

    source = source_of("sums", 3, {"looks": looks})
    one = rollout([5, 5, 5], [1, 2, 3], item=2, learn=[1, 0, 1], text="x", cut=True)
    rewarded(source, [one])
    assert seen == [("x", "question 2", 2, True)] and one.reward == 0.5


def test_figures_count_all_groups() -> None:
    drawn = _sampler(_only_sums()).draw("one", SEQ_LEN, 30)
    solved = [sum(one.text == "a" for one in group) for group in _groups(drawn)]
    assert drawn.told == {
        "groups": 30,
        "same": sum(number in (0, 4) for number in solved),
        "solved_all": solved.count(4),
        "solved_none": solved.count(0),
        "unfilled": 0,
    }
    assert drawn.told["solved_all"] > 0 and 0 < drawn.told["solved_none"] < drawn.told["same"]


def test_the_first_kind_says_what_is_solved() -> None:
    prompts = prompt_set(source_of("words", 9, {"short": short, "right": right}))
    drawn = _sampler(prompts).draw("one", SEQ_LEN, 30)
    shortest = [sum(len(one.tokens) == 1 for one in group) for group in _groups(drawn)]
    assert drawn.told["solved_none"] == shortest.count(0) > 0
    assert drawn.told["solved_all"] == shortest.count(4)


@pytest.mark.parametrize("number", [3, 8, 11, 20])
def test_groups_without_variance_are_drawn_anew(number: int) -> None:
    sampler = _sampler(_only_sums(), dynamic=True, tries=40)
    drawn = sampler.draw("one", SEQ_LEN, number)
    assert len(drawn.rollouts) == 4 * number and drawn.told["unfilled"] == 0
    assert all(len({one.reward for one in group}) > 1 for group in _groups(drawn))
    numbers = [group[0].number for group in _groups(drawn)]
    assert numbers == sorted(set(numbers)) and numbers != list(range(number))
    # Every prompt that was drawn is counted, and none is drawn again.
    assert drawn.told["groups"] == sampler.cursor.number == drawn.told["same"] + number


def test_the_same_draws_are_kept_as_by_drawing_all_at_once() -> None:
    dynamic = _sampler(_only_sums(), dynamic=True, tries=20)
    kept = [group[0].number for group in _groups(dynamic.draw("one", SEQ_LEN, 8))]
    plain = _groups(_sampler(_only_sums()).draw("one", SEQ_LEN, dynamic.cursor.number))
    varied = [g[0].number for g in plain if len({one.reward for one in g}) > 1]
    assert kept == varied[:8]


def test_tries_that_are_used_up_leave_the_budget_filled() -> None:
    drawn = _sampler(_only_sums(), dynamic=True, tries=1).draw("one", SEQ_LEN, 40)
    plain = _sampler(_only_sums()).draw("one", SEQ_LEN, 40)
    assert drawn.rollouts == plain.rollouts
    assert drawn.told["unfilled"] == drawn.told["same"] > 0


def test_of_equal_groups_the_first_fill_up() -> None:
    alike = prompt_set(source_of("sums", 13, {"right": lambda completion, example: 0.5}))
    drawn = _sampler(alike, dynamic=True, tries=3, group=2).draw("one", SEQ_LEN, 5)
    assert [one.number for one in drawn.rollouts] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert drawn.told["unfilled"] == 5 and drawn.told["groups"] == 15


class _Together:
    """all_gather_object between threads that are named by their rank."""

    def __init__(self, world: int) -> None:
        self.given: list[Any] = [None] * world
        self.wait = threading.Barrier(world, timeout=20).wait

    def __call__(self, parts: list[Any], mine: Any) -> None:
        self.given[int(threading.current_thread().name)] = mine
        self.wait()
        parts[:] = self.given
        self.wait()


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize(
    "settings",
    [{}, {"dynamic": True, "tries": 5}, {"dynamic": True, "tries": 2}],
    ids=["plain", "dynamic", "unfilled"],
)
def test_processes_together_draw_what_one_draws(
    monkeypatch: pytest.MonkeyPatch, world: int, settings: dict[str, Any]
) -> None:
    one = _sampler(**settings)
    expected = [one.draw("one", SEQ_LEN, number) for number in (8, 1)]
    monkeypatch.setattr(torch.distributed, "all_gather_object", _Together(world))
    found: dict[int, Any] = {}

    def run(rank: int) -> None:
        sampler = _sampler(rank=rank, world=world, **settings)
        # Of one group some processes have nothing to draw.
        drawn = [sampler.draw("one", SEQ_LEN, number) for number in (8, 1)]
        found[rank] = drawn, sampler.cursor.state()

    threads = [threading.Thread(target=run, args=(r,), name=str(r)) for r in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == world
    for drawn, state in found.values():
        assert drawn == expected and state == one.cursor.state()


def test_how_many_steps_a_sampling_is_for() -> None:
    assert Settings(updates=3, epochs=2).steps == 6 and Settings().steps == 1


@pytest.mark.parametrize("name", ["group", "updates", "epochs", "max_new_tokens", "tries", "rows"])
@pytest.mark.parametrize("value", [0, 1.5, True, "4", None])
def test_numbers_that_cannot_work(name: str, value: Any) -> None:
    line = rf"rollouts\.{name}={value} must be a whole number from 1 on"
    with pytest.raises(ConfigError, match=line):
        Settings(**{name: value})


@pytest.mark.parametrize("name", ["dynamic", "mask_cut"])
def test_switches_are_true_or_false(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"rollouts\.{name}=1 must be true or false"):
        Settings(**{name: 1})


def test_a_group_of_one_has_no_variance() -> None:
    with pytest.raises(ConfigError, match=r"^rollouts\.dynamic=true: a group of one has no"):
        Settings(dynamic=True, group=1)


def test_a_source_is_scored_all_at_once() -> None:
    class Counts:
        calls = 0

        def many(self, texts: Sequence[str], examples: Sequence[Any]) -> list[float]:
            self.calls += 1
            return [math.nan if text is None else 1.0 for text in texts]

    reward = Counts()
    source: Source = source_of("sums", 13, {"right": reward})
    _sampler(prompt_set(source)).draw("one", SEQ_LEN, 6)
    assert reward.calls == 1


def test_rewards_that_fail_are_counted() -> None:
    def moody(completion: str, example: Any) -> float:
        return math.nan if completion == "b" else 1.0

    source = source_of("sums", 3, {"right": right, "moody": Guarded(moody, "moody")})
    made = [rollout([1], [2], item=i, text=text) for i, text in enumerate("bab")]
    rewarded(source, made)
    assert [one.rewards["moody"] for one in made] == [0.0, 1.0, 0.0]
    assert of_drawn(Drawn(made, 3, {"groups": 1, "same": 0}))["failed/sums.moody"] == (2.0, 3)
    # Those of this sampling, not all so far; without one there is no figure.
    later = [rollout([1], [2], item=0, text=text) for text in "ab"]
    rewarded(source, later)
    assert later[0].told == {"failed/sums.moody": 1.0}
    good = [rollout([1], [2], item=0, text="a")]
    rewarded(source, good)
    assert good[0].told == {}
