"""Each seam takes a method from a package of the user's own, without an edit to plm.

The methods and their configs are in `mylab`, which is found as a user's would be: on sys.path, by
`trust=[mylab]` and `hydra.searchpath`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from plm import config
from plm.batch import Batch, LossSum
from plm.config import build, trust
from plm.errors import ConfigError
from plm.model.context import Context
from plm.optimizer.common import NamedParameter
from plm.phases import Plan, PlannedPhase
from plm.transform.common import Transforms
from tests.contracts.mixers import CHECKS
from tests.model.common import (
    DOCUMENTS,
    SIZES,
    TINY,
    compose,
    draw,
    logits_of,
    packed_context,
    stepped_logits,
    tiny,
)

HERE = Path(__file__).resolve().parent
LAB = (f"hydra.searchpath=[file://{HERE}/mylab/configs]", "trust=[mylab]")
SEAMS = {
    "mixer": ["model/attention=decaying_mean"],
    "router": ["model/mlp=router"],
    "linear": ["model/linear=low_rank"],
    "head": ["+model/head@model.heads.after_next=after_next"],
    "matmul": ["model/matmul=distance"],
    "block": ["model/block=both_ways"],
    "activation": ["model/activation=learned_power"],
    "regularizer": ["+regularizer@phases.stable.regularizers.few=few_active"],
    "transform": ["+transform@phases.decay.transforms.wider=widen"],
}
# What changes the model itself, and so its forward.
PARTS = [name for name in SEAMS if name != "regularizer"]
ROWS, STEPS = 4, 6


@pytest.fixture(autouse=True)
def lab(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setattr(config, "_TRUSTED", ["plm"])
    trust(["mylab"])


def settings_of(*overrides: str) -> dict[str, Any]:
    return compose(*TINY, *LAB, *overrides)


def made(seam: str, kernels: str = "auto") -> nn.Module:
    """A tiny model with the method; a transform has acted on it."""
    model = tiny(*LAB, *SEAMS[seam], kernels=kernels)
    if seam == "transform":
        transforms, planned = transforms_of(settings_of(*SEAMS[seam]))
        transforms.apply(model, None, planned, planned.start_tokens)
    return model


def transforms_of(settings: dict[str, Any]) -> tuple[Transforms, PlannedPhase]:
    """Those of the decay, as a run builds them, and that phase."""
    nodes = settings["phases"]["decay"]["transforms"]
    built = {"decay": {name: build(node) for name, node in nodes.items()}}
    return Transforms(built=built, nodes={"decay": nodes}), Plan.read(settings["phases"]).phases[1]


def window(first: int, rows: int, step: int) -> Batch:
    """Rows of one step, always the same text."""
    length = sum(DOCUMENTS)
    context = packed_context(rows)
    return Batch(
        tokens=draw(ROWS, length)[first : first + rows],
        labels=draw(ROWS, length, seed=1)[first : first + rows],
        positions=context.positions,
        doc_ids=context.doc_ids,
        tokens_seen=step * ROWS * length,
    )


def terms_of(losses: dict[str, LossSum], trained: set[str], rows: int) -> torch.Tensor:
    """One scalar, put together from sums and counts as a stage does."""
    kept = ROWS * sum(DOCUMENTS)
    return sum(
        loss.total / kept if name in trained else loss.total / loss.count * rows / ROWS
        for name, loss in losses.items()
    )


def train(
    model: nn.Module,
    settings: dict[str, Any],
    rows: int = ROWS,
    steps: int = STEPS,
) -> list[dict[str, float]]:
    """A few steps of the configured optimizer; sums of every loss, a dictionary a step."""
    losses = {name: build(node) for name, node in settings["losses"].items()}
    stable = settings["phases"]["stable"]
    regularizers = {n: build(node) for n, node in stable.get("regularizers", {}).items()}
    named = [
        NamedParameter(name, parameter, model.roles()[name])
        for name, parameter in model.named_parameters()
    ]
    optimizer, found = build(settings["optimizer"])(named, lr=0.01), []
    model.train()
    for step in range(steps):
        optimizer.zero_grad()
        sums: dict[str, float] = {}
        for first in range(0, ROWS, rows):
            batch = window(first, rows, step)
            out = model(
                batch.tokens,
                context=Context.of(batch),
                labels=batch.labels,
                losses=losses,
                regularizers=regularizers,
            )
            terms_of(out.losses, set(losses), rows).backward()
            for name, loss in out.losses.items():
                sums[name] = sums.get(name, 0.0) + loss.total.item()
        optimizer.step()
        found.append(sums)
    return found


@pytest.mark.parametrize("seam", SEAMS)
def test_it_trains(seam: str):
    model, settings = made(seam), settings_of(*SEAMS[seam])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = train(model, settings)
    assert found[-1]["cross_entropy"] < 0.9 * found[0]["cross_entropy"]
    assert all(found[-1][name] != first for name, first in found[0].items())
    still = [name for name, tensor in model.state_dict().items() if tensor.equal(before[name])]
    assert not still


@pytest.mark.parametrize("seam", SEAMS)
def test_recomputing_and_micro_batches_change_nothing(seam: str):
    settings, found = settings_of(*SEAMS[seam]), []
    for recompute in (False, True):
        for rows in (ROWS, 1):
            model = made(seam)
            model.checkpoint_activations = recompute
            found.append(train(model, settings, rows, steps=2))
    for other in found[1:]:
        for step, expected in zip(other, found[0], strict=True):
            assert step == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("kernels", ["auto", "reference"])
# What sees the future cannot decode.
@pytest.mark.parametrize("seam", [name for name in PARTS if name != "block"])
def test_it_decodes(seam: str, kernels: str):
    model, tokens = made(seam, kernels).eval(), draw(2, 9)
    found, _ = stepped_logits(model, tokens, 4)
    expected = logits_of(model, tokens)[:, 3:]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seam", PARTS)
def test_documents_stay_apart(seam: str):
    model, tokens = made(seam), draw(2, sum(DOCUMENTS))
    whole = logits_of(model, tokens, packed_context(2))
    alone = logits_of(model, tokens[:, : DOCUMENTS[0]], packed_context(2, DOCUMENTS[:1]))
    torch.testing.assert_close(whole[:, : DOCUMENTS[0]], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seam", PARTS)
def test_reference_equals_auto(seam: str):
    model, tokens = made(seam), draw(2, 9)
    fast = logits_of(model, tokens)
    model.use_kernels("reference")
    torch.testing.assert_close(logits_of(model, tokens), fast, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seam", PARTS)
def test_flops_are_those_torch_counts(seam: str):
    model, length = made(seam, kernels="reference"), 8
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        logits_of(model, draw(2, length))
    answered = model.flops_per_token(length if seam == "block" else 2 * length)
    aside = sum(head.flops_per_token(length) for head in model.heads.values())
    if seam == "matmul":
        # Distances are not among the operations that torch counts.
        keys = SIZES["qk_nope_head_dim"] + SIZES["qk_rope_head_dim"]
        aside = 2 * length * SIZES["num_attention_heads"] * keys * SIZES["num_hidden_layers"]
    assert counter.get_total_flops() == 2 * length * (answered - aside)


@pytest.mark.parametrize("seam", SEAMS)
def test_without_trust_it_is_refused(seam: str, monkeypatch):
    monkeypatch.setattr(config, "_TRUSTED", ["plm"])
    settings = settings_of(*SEAMS[seam])
    with pytest.raises(ConfigError, match=r"lies outside plm; .* add trust=\[mylab\]"):
        config.check_targets({key: settings[key] for key in ("model", "phases")})


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", ["decaying_mean", "forgetful_mean"])
def test_a_mixer_with_its_own_state_holds_the_contract(name: str, check: Callable):
    check(tiny(*LAB, f"model/attention={name}").eval())


def test_a_router_adds_a_loss_of_each_layer():
    found = train(made("router"), settings_of(*SEAMS["router"]))
    names = [f"layers.{index}.mlp.router_z" for index in range(SIZES["num_hidden_layers"])]
    assert list(found[0]) == ["cross_entropy", *names]
    assert all(0 < found[-1][name] < found[0][name] for name in names)


def test_a_linear_layer_for_some_roles():
    model = made("linear")
    kinds = {
        name.rpartition(".")[2]: type(module).__name__
        for name, module in model.layers[0].named_modules()
        if name.endswith(("proj", "mqa"))
    }
    assert {name for name, kind in kinds.items() if kind == "LowRank"} == {
        "up_proj",
        "kv_b_proj",
        "o_proj",
    }
    assert model.roles()["layers.1.mlp.up_proj.thin.weight"] == "up"
    part = tiny(*LAB, *SEAMS["linear"], "model.linear.rank=200", "scale.initializer_range=0.02")
    product = part.layers[0].mlp.up_proj
    spread = (product.wide.weight @ product.thin.weight).std().item()
    assert spread == pytest.approx(0.02, rel=0.2)


def test_a_head_adds_a_loss_and_nothing_to_what_is_generated():
    found = train(made("head"), settings_of(*SEAMS["head"]))
    assert list(found[0]) == ["cross_entropy", "heads.after_next"]
    assert found[-1]["heads.after_next"] < found[0]["heads.after_next"]
    assert torch.equal(logits_of(made("head"), draw(1, 5)), logits_of(tiny(), draw(1, 5)))


def test_another_product_changes_the_pattern():
    assert not torch.allclose(logits_of(made("matmul"), draw(1, 5)), logits_of(tiny(), draw(1, 5)))


def test_a_block_that_looks_both_ways():
    model, tokens = made("block"), draw(1, sum(DOCUMENTS))
    changed = tokens.clone()
    last = DOCUMENTS[0] - 1
    changed[:, last] = (changed[:, last] + 1) % SIZES["vocab_size"]
    before, after = (logits_of(model, t, packed_context(1)) for t in (tokens, changed))
    assert not torch.isclose(before[:, :last], after[:, :last]).all(-1).any()
    assert torch.equal(before[:, last + 1 :], after[:, last + 1 :])


def test_an_activation_with_parameters():
    model = made("activation")
    name = "layers.0.mlp.activation.power"
    assert model.get_parameter(name).shape == (SIZES["intermediate_size"],)
    assert model.roles()[name] == "other"
    settings = settings_of(*SEAMS["activation"])["model"]
    with torch.device("meta"):
        empty = build(settings)
    empty.to_empty(device="cpu").init_weights(0)
    assert (empty.get_parameter(name) == 2).all()


def test_a_regularizer_pushes_down_what_it_reads():
    settings, name = settings_of(*SEAMS["regularizer"]), "regularizers.few"
    free = train(tiny(), settings_of(*SEAMS["regularizer"][:0]))
    held = train(made("regularizer"), settings)
    assert set(held[0]) - set(free[0]) == {name}
    assert held[-1][name] < 0.9 * held[0][name]
    late = [*SEAMS["regularizer"], "phases.stable.regularizers.few.from_tokens=100"]
    found = train(made("regularizer"), settings_of(*late))
    switch = 100 // (ROWS * sum(DOCUMENTS)) + 1
    assert [step[name] > 0 for step in found] == [step >= switch for step in range(STEPS)]


def test_a_transform_swaps_modules_is_recorded_and_replayed():
    settings, model = settings_of(*SEAMS["transform"]), tiny()
    (transforms, planned), before = transforms_of(settings), logits_of(model, draw(1, 6))
    entry = planned.start_tokens
    assert not transforms.due(planned, 0) and transforms.due(planned, entry)
    transforms.apply(model, None, planned, entry)
    assert not transforms.due(planned, entry)
    done = [{k: v for k, v in entry.items() if k != "node"} for entry in transforms.done]
    assert done == [{"phase": "decay", "name": "wider", "tokens_seen": entry}]
    assert model.layers[0].mlp.up_proj.out_features == SIZES["intermediate_size"] + 8
    torch.testing.assert_close(logits_of(model, draw(1, 6)), before, rtol=1e-10, atol=1e-10)
    train(model, settings)

    fresh, (again, _) = build(settings["model"]).double(), transforms_of(settings)
    with pytest.raises(RuntimeError, match="size mismatch"):
        fresh.load_state_dict(model.state_dict())
    again.replay(fresh, transforms.done)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(logits_of(fresh, draw(1, 6)), logits_of(model, draw(1, 6)))
    assert again.done == transforms.done and not again.due(planned, entry)
    assert fresh.roles() == model.roles()

    # A later run's phases need not name it: it is built from the record, if that is trusted.
    later = build(settings["model"]).double()
    Transforms().replay(later, transforms.done)
    later.load_state_dict(model.state_dict())
    foreign = [{**transforms.done[0], "node": {"_target_": "os.getcwd"}}]
    with pytest.raises(ConfigError, match=r"os.getcwd"):
        Transforms().replay(build(settings["model"]), foreign)
