"""Rows that pause: going on from their state is going on from all they have said."""

import pytest

from plm.errors import ConfigError
from plm.rollout.completion import Completion
from plm.rollout.engine import Engine
from plm.rollout.sampling import Sampling, row_seed
from tests.model.common import tiny
from tests.rollout.common import full_logps, tokenizer

STOP = ("e", "a")
MORE = [5, 3, 9, 250, 7]


def talker(choice: str = "plm", **settings) -> Engine:
    sizes = "scale.vocab_size=300", "scale.max_position_embeddings=160"
    return Engine(tiny(f"model={choice}", *sizes), tokenizer=tokenizer(), **settings)


def paused(engine: Engine, hold: int) -> tuple[list[list[int]], list[Completion]]:
    """Rows that have met a stop string, and their prompts."""
    texts = [tokenizer().encode(text).ids for text in ("the cat", "42", "the dog ran, the dog")]
    first = Sampling(40, temperature=1.0, stop=STOP)
    done = engine.generate(texts, first, group=3, hold=hold)
    kept = [one for one in done if one.finish == "stop_string"]
    return [texts[one.prompt] for one in kept], kept


@pytest.mark.parametrize("rows", [2, 16])
@pytest.mark.parametrize("choice", ["plm", "llama"])
def test_going_on_from_a_state_is_going_on_from_the_text(choice: str, rows: int):
    engine = talker(choice, rows=rows)
    starts, kept = paused(engine, hold=100)
    assert len(kept) >= 6 and len({len(one.tokens) for one in kept}) >= 3
    for start, one in zip(starts, kept, strict=True):
        assert one.held.tokens == [*start, *one.tokens[:-1]]
    # As much more as is different in each, and as many tokens.
    texts = [
        [*start, *one.tokens, *MORE[: index % 4], *[8] * (17 * (index % 3))]
        for index, (start, one) in enumerate(zip(starts, kept, strict=True))
    ]
    each = [Sampling(5 + index % 3, temperature=1.0) for index in range(len(texts))]
    seeds = [row_seed(3, index) for index in range(len(texts))]
    whole = talker(choice).generate(texts, each, seeds=seeds)
    # Some of them without a state, and one row's two samples from one.
    states = [None if index == 1 else one.held for index, one in enumerate(kept)]
    found = engine.generate(texts, each, seeds=seeds, held=states)
    again = engine.generate(texts[:1], each[0], seeds=seeds[:1], group=2, held=states[:1])
    assert [one.tokens for one in found] == [one.tokens for one in whole]
    assert again[0].tokens == whole[0].tokens != again[1].tokens
    for text, one, other in zip(texts, found, whole, strict=True):
        assert one.logps == pytest.approx(other.logps, abs=1e-10)
        expected = full_logps(engine.model, text, one.tokens).tolist()
        assert one.logps == pytest.approx(expected, abs=1e-10)


def test_so_many_states_are_kept_as_were_asked_for():
    engine = talker()
    _, kept = paused(engine, hold=2)
    assert sum(one.held is not None for one in kept) == 2
    assert all(one.held is None for one in paused(engine, hold=0)[1])
    # None of a mixer whose state may not be gone on from at several places at once.
    engine.model.layers[0].self_attn.ragged = False
    assert all(one.held is None for one in paused(engine, hold=9)[1])


def test_only_what_is_new_is_taken_in(monkeypatch):
    engine = talker()
    starts, kept = paused(engine, hold=100)
    widths, step = [], engine.model.step
    monkeypatch.setattr(
        engine.model, "step", lambda t, *more: widths.append(t.shape[1]) or step(t, *more)
    )
    texts = [[*start, *one.tokens, *MORE] for start, one in zip(starts, kept, strict=True)]
    engine.generate(texts, Sampling(1), held=[one.held for one in kept])
    assert max(widths) == len(MORE) + 1


def test_what_does_not_go_on_from_a_state_is_refused():
    engine = talker()
    starts, kept = paused(engine, hold=100)
    state = kept[0].held
    for text in (state.tokens, [*state.tokens[:-1], 9, 9], starts[0]):
        with pytest.raises(ConfigError, match="prompt 0 does not go on from what its held state"):
            engine.generate([text], Sampling(2), held=[state])
    with pytest.raises(ConfigError, match="2 states for 1 prompts; give one each"):
        engine.generate([[1]], Sampling(2), held=[None, None])
    with pytest.raises(ConfigError, match="2 samplings for 1 prompts; give one each"):
        engine.generate([[1]], [Sampling(2)] * 2)
    assert engine.idle
