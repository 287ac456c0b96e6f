"""Turns with an interpreter: what is run, what its words count for, and what they do not."""

from functools import partial

import pytest
import torch

from plm.aggregation.token import token
from plm.batch import IGNORE_INDEX, Batch
from plm.data.tokenizer import END_OF_TEXT
from plm.environment.common import Asked, Reply
from plm.environment.interpreter import interpreter
from plm.environment.single import single
from plm.errors import ConfigError
from plm.model.context import Context
from plm.policy.clip import clip
from plm.rlvr.objective import Objective
from plm.rlvr.packing import packed
from plm.rlvr.rollouts import Rollout
from tests.environment.common import drawing, scripted
from tests.rollout.common import full_logps, tokenizer

END = END_OF_TEXT
ROOM = 600
QUICK = {"cpu_s": 0.4, "wall_s": 10.0, "output_kib": 64}


def asked(room: int = ROOM, group: int = 1) -> list[Asked]:
    return [Asked(tokenizer().encode("the cat").ids, room, 5, group)]


def say(*texts: str, room: int = ROOM, **settings) -> Reply:
    (found,) = interpreter(scripted(texts), asked(room), **{"limits": QUICK, **settings})
    return found


def spoken(reply: Reply, learn: int) -> str:
    """Text of the tokens with this mask."""
    chosen = [t for t, own in zip(reply.tokens, reply.learn, strict=True) if own == learn]
    return tokenizer().decode(chosen)


def test_a_program_is_run_and_its_output_follows_masked():
    reply = say("Let me see. <code>\nprint(6 * 7)\n</code>", f"Answer: 42{END}")
    result = "\n<result>\n42\n</result>\n"
    assert reply.text == f"Let me see. <code>\nprint(6 * 7)\n</code>{result}Answer: 42"
    assert spoken(reply, 0) == result
    assert len(reply.tokens) == len(reply.learn) == len(reply.sampled)
    assert [logp != 0 for logp in reply.sampled] == [own == 1 for own in reply.learn]
    assert reply.told == {"tool/calls": 1, "tool/errors": 0, "turns": 2} and not reply.cut


@pytest.mark.parametrize(
    ("program", "said", "errors"),
    [
        ("while True: pass", "Error: it took too long", 1),
        ("print('x' * 100_000)", "Error: it printed too much", 1),
        ("print('x' * 1000)", "x" * 37 + "...", 0),
        ("print(1 / 0)", "ZeroDivisionError: division by zero", 1),
        ("raise ValueError('y' * 1000)", "ValueError: " + "y" * 25 + "...", 1),
        ("import sys; sys.exit(3)", "Error: exit code 3", 1),
        ("1 +", "SyntaxError: invalid syntax", 1),
        ("", "", 0),
    ],
)
def test_what_goes_wrong_comes_back_as_text(program: str, said: str, errors: int):
    reply = say(f"<code>{program}</code>", f"ok{END}", max_output=40)
    assert spoken(reply, 0) == f"\n<result>\n{said}\n</result>\n"
    assert reply.told == {"tool/calls": 1, "tool/errors": errors, "turns": 2} and not reply.cut


@pytest.mark.parametrize(("end", "cut"), [(END, False), ("", True)])
def test_a_call_that_never_closes_is_none(end: str, cut: bool):
    reply = say(f"<code>print(1) {end}")
    assert reply.told == {"tool/calls": 0, "tool/errors": 0, "turns": 1}
    assert reply.cut == cut and set(reply.learn) == {1}


def test_a_closing_tag_alone_runs_nothing_and_the_answer_goes_on():
    reply = say("so </code>", "<code>print(2)</code>", f"2{END}")
    assert reply.text == "so </code><code>print(2)</code>\n<result>\n2\n</result>\n2"
    assert reply.told == {"tool/calls": 1, "tool/errors": 0, "turns": 3}
    twice = say("<code>print(1)</code>", "</code>", f"2{END}")
    assert twice.told == {"tool/calls": 1, "tool/errors": 0, "turns": 3}


def test_without_room_for_the_result_an_answer_is_cut():
    call = "<code>print(1)</code>"
    size = len(tokenizer().encode(call).ids)
    for room in (size, size + 1, size + 6):
        reply = say(call, room=room)
        assert reply.cut and reply.text == call and set(reply.learn) == {1}
        assert reply.told["tool/calls"] == (room > size)


def test_nothing_is_run_in_the_last_turn():
    subject = scripted(["<code>print(1)</code>", "<code>print(2)</code> 2"])
    (reply,) = interpreter(subject, asked(), max_turns=2)
    assert reply.told == {"tool/calls": 1, "tool/errors": 0, "turns": 2} and reply.cut
    assert [one.stop for _, one, _ in subject.engine.asked] == [("</code>",), ()]
    rooms = [one.max_new_tokens for _, one, _ in subject.engine.asked]
    before = len(subject.engine.asked[1][0]) - len(asked()[0].prompt)
    assert rooms == [ROOM, ROOM - before]


def test_a_special_token_that_a_program_prints_is_text():
    reply = say(f"<code>print('{END}')</code>".replace("|", "' '|"), f"ok{END}")
    special = tokenizer().token_to_id(END)
    hidden = say("<code>print('<|endof' + 'text|>')</code>", f"ok{END}")
    assert "<|endoftext|>" in hidden.text and END == "<|endoftext|>"
    assert hidden.tokens.count(special) == 1 == reply.tokens.count(special)


def test_equal_programs_of_a_turn_are_run_once_and_randomness_is_seeded(monkeypatch):
    from plm import sandbox

    ran, run_many = [], sandbox.run_many
    monkeypatch.setattr(
        sandbox, "run_many", lambda p, **more: ran.append(p) or run_many(p, **more), raising=False
    )
    text = "<code>import random; print(random.random())</code>"
    found = interpreter(scripted(*[[text, f"ok{END}"]] * 3), asked(group=3), max_turns=2)
    assert [len(programs) for programs in ran] == [1]
    assert len({one.text for one in found}) == 1 and "0.844421851525" in found[0].text


SAMPLES = 6
SAID = [
    Asked([0, 3, 1], 70, 5, SAMPLES), Asked([2], 90, 6, SAMPLES), Asked([4] * 40, 60, 7, SAMPLES)
]  # fmt: skip
QUIET = partial(interpreter, max_turns=5, max_output=24, limits=QUICK)


@pytest.mark.parametrize("choice", ["plm", "llama"])
def test_a_rollout_does_not_depend_on_its_batch_and_the_cache_that_is_kept_is_right(choice: str):
    subject = drawing(choice)
    whole = QUIET(subject, SAID)
    assert sum(one.told["tool/calls"] for one in whole) >= 5
    assert any(one.told["tool/errors"] for one in whole)
    assert len({one.told["turns"] for one in whole}) >= 3
    # As on three processes, which have a prompt each; with places for fewer rows than there are.
    apart = [reply for one in SAID for reply in QUIET(drawing(choice, rows=2), [one])]
    for one, other in zip(whole, apart, strict=True):
        assert (one.tokens, one.learn, one.told) == (other.tokens, other.learn, other.told)
        assert one.sampled == pytest.approx(other.sampled, abs=1e-9)
    for index, one in enumerate(whole):
        logps = full_logps(subject.model, SAID[index // SAMPLES].prompt, one.tokens)
        own = torch.tensor(one.learn, dtype=torch.bool)
        # The tokenizer has fewer ids than nothing: all are drawn from.
        assert torch.allclose(torch.tensor(one.sampled).double()[own], logps[own], atol=1e-6)


def test_the_first_turn_is_that_of_a_single_one():
    one, other = QUIET(drawing(), SAID), single(drawing(), SAID)
    close = drawing().tokenizer.token_to_id("</code>")
    for a, b in zip(one, other, strict=True):
        first = [*a.tokens, close].index(close) + 1
        assert a.tokens[:first] == b.tokens[:first]
        assert (a.told["turns"] == 1) == (close not in a.tokens)


def test_after_a_pause_only_what_is_new_is_taken_in(monkeypatch):
    subject, widths = drawing(), []
    step = subject.model.step
    monkeypatch.setattr(
        subject.model, "step", lambda t, *more: widths.append(t.shape[1]) or step(t, *more)
    )
    found = QUIET(subject, SAID)
    runs = ["".join(map(str, one.learn)).split("1") for one in found]
    longest = max(len(run) for some in runs for run in some)
    prompts = [len(one.prompt) for one in SAID]
    # The token that closed the call, and the result.
    assert max(width for width in widths if width not in prompts) == longest + 1
    assert max(len(one.tokens) for one in found) > longest + 1


def rollouts() -> list[Rollout]:
    """Three that have heard the interpreter."""
    replies = [(i, one) for i, one in enumerate(QUIET(drawing(), SAID)) if 0 in one.learn]
    made = []
    for index, one in replies[:3]:
        old = [logp and min(-0.1, logp) for logp in one.sampled]
        prompt = SAID[index // SAMPLES].prompt
        said = prompt, one.tokens, one.learn, one.sampled, one.text, one.cut
        made.append(Rollout(index // SAMPLES, index % SAMPLES, "s", 0, *said, old=old))
    return made


def loss_of(made: list[Rollout], tokens=None, noise=None):
    """Loss of a step on these rollouts, and the gradient of its logits.

    Args:
        tokens: `(batch) -> tokens` in the place of the batch's.
        noise: `(batch) -> [B, T, V]`, added to the logits.
    """
    empty = torch.zeros(0, 0, dtype=torch.int64)
    batch, known, owner = packed(made, 200, Batch(empty, empty, empty))
    model = drawing().model
    # The head is the identity, so that the hidden states are the logits.
    chosen = batch.tokens if tokens is None else tokens(batch)
    logits = model(chosen, context=Context.of(batch)).logits.detach()
    if noise is not None:
        logits = logits + noise(batch)
    logits.requires_grad_()
    objective = Objective(clip, token, entropy_weight=0.1)
    lengths = torch.tensor([one.chosen for one in made])
    loss, said, _ = objective.loss(
        logits,
        torch.eye(model.vocab_size, dtype=logits.dtype),
        batch.labels,
        known=known,
        owner=owner,
        advantages=torch.tensor([1.0, -0.5, 0.7], dtype=torch.float64),
        weights=token(lengths, longest=90),
        kernels="reference",
    )
    loss.total.backward()
    return {"loss": loss.total.item(), "gradient": logits.grad, "batch": batch, "said": said}


def results(batch: Batch, made: list[Rollout]) -> torch.Tensor:
    """[B, T] bool: places that predict a token of the interpreter's."""
    inside = torch.zeros_like(batch.tokens, dtype=torch.bool)
    heard = [[*[1] * len(one.prompt), *one.learn] for one in made]
    for one, learn in zip(made, heard, strict=True):
        ids = torch.tensor([*one.prompt, *one.tokens])
        for row in range(len(batch.tokens)):
            for at in range(batch.tokens.shape[1] - len(ids) + 1):
                if torch.equal(batch.tokens[row, at : at + len(ids)], ids):
                    quiet = 1 - torch.tensor(learn)
                    inside[row, at : at + len(ids) - 1] |= quiet[1:].bool()
    return inside


def test_what_the_interpreter_says_has_no_gradient_and_is_not_divided_by():
    made = rollouts()
    plain = loss_of(made)
    batch, inside = plain["batch"], results(plain["batch"], made)
    heard = sum(one.learn.count(0) for one in made)
    assert int(inside.sum()) == heard > 10
    assert bool((batch.labels[inside] == IGNORE_INDEX).all())
    assert bool((plain["gradient"][inside] == 0).all())
    learnt = batch.labels != IGNORE_INDEX
    assert bool((plain["gradient"][learnt] != 0).any(-1).all())
    # The denominator: tokens of the policy alone, a share each.
    chosen = [one.chosen for one in made]
    assert sum(chosen) == sum(len(one.tokens) for one in made) - heard == int(learnt.sum())
    shares = token(torch.tensor(chosen), longest=90).double()
    assert (shares * torch.tensor(chosen)).sum().item() == pytest.approx(1, abs=1e-6)
    assert plain["said"]["rlvr/entropy"].count == sum(chosen)
    # Other logits there: the same loss, to the last bit.
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(plain["gradient"].shape, generator=generator, dtype=torch.float64)
    noisy = loss_of(made, noise=lambda b: draws * inside[..., None])
    assert noisy["loss"] == plain["loss"]
    assert torch.equal(noisy["gradient"], plain["gradient"])
    elsewhere = loss_of(made, noise=lambda b: draws * learnt[..., None])
    assert elsewhere["loss"] != plain["loss"]


def test_which_token_the_interpreter_said_is_no_label_but_what_it_says_conditions():
    made, others = rollouts(), rollouts()
    plain = loss_of(made)
    for one in others:
        both = list(zip(one.tokens, one.learn, strict=True))
        one.tokens = [said if own else (said + 1) % 9 for said, own in both]
        one.sampled, one.old = ([logp or 9.9 for logp in some] for some in (one.sampled, one.old))
    # The same logits, other labels: nothing changes. The model's own logits: all behind does.
    assert loss_of(others, tokens=lambda _: plain["batch"].tokens)["loss"] == plain["loss"]
    assert loss_of(others)["loss"] != plain["loss"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"call": "<>"}, r"environment\.call=<> must be two different texts"),
        ({"call": ["<c>", "<c>"]}, "must be two different texts"),
        ({"result": ["<r>", ""]}, r"environment\.result=\['<r>', ''\] must be"),
        ({"max_turns": 0}, "max_turns=0 must be a whole number from 1 on"),
        ({"max_output": 3}, "max_output=3 must be a whole number from 16 on"),
        ({"limits": {"cpu": 1}}, "limits={'cpu': 1}: "),
        ({"limits": {"cpu_s": -1}}, "limits.cpu_s=-1 must be positive"),
    ],
)
def test_what_is_refused(settings: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        say(f"ok{END}", **{"limits": {}, **settings})
