"""Low-rank adapters: without effect at first, alone in learning, merged into a plain projection."""

import pytest
import torch
from torch import nn

from plm.config import build
from plm.errors import ConfigError
from plm.handoff import merge
from plm.model.linear.lora import LoRA, lora
from plm.optimizer.common import NamedParameter
from tests.model.common import draw, logits_of, tiny


def test_by_hand():
    part = LoRA(3, 2, rank=1, alpha=4.0)
    with torch.no_grad():
        part.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 0]]))
        part.lora_a.copy_(torch.tensor([[1.0, 2, 3]]))
        part.lora_b.copy_(torch.tensor([[1.0], [-1.0]]))
    x = torch.tensor([[1.0, 1.0, 1.0]])
    # W x = (1, 1); A x = 6; alpha / rank = 4.
    torch.testing.assert_close(part(x), torch.tensor([[25.0, -23.0]]))
    torch.testing.assert_close(part.merged()(x), part(x))


def test_it_begins_without_effect_and_with_the_same_weights():
    plain = tiny()
    adapted = tiny("model/linear=lora")
    missing, unexpected = adapted.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all(name.rpartition(".")[2].startswith("lora") for name in missing)
    tokens = draw(2, 9)
    torch.testing.assert_close(logits_of(adapted, tokens), logits_of(plain, tokens))


def test_the_optimizer_gets_adapters_and_what_is_no_projection():
    model = tiny("model/linear=lora")
    roles, asked = model.roles(), model.parameter_settings()
    named = [
        NamedParameter(n, p, roles[n], **asked.get(n, {})) for n, p in model.named_parameters()
    ]
    frozen = {item.name for item in named if item.frozen}
    assert frozen == {
        f"{name}.weight" for name, part in model.named_modules() if isinstance(part, LoRA)
    }
    node = {"_target_": "plm.optimizer.adamw.adamw", "_partial_": True}
    optimizer = build(node)(named, lr=1e-3)
    there = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert there == {id(item.parameter) for item in named if not item.frozen}
    assert {item.role for item in named if ".lora_" in item.name} >= {"q", "up", "down", "o"}


def test_merging_a_model_leaves_its_logits():
    model = tiny("model/linear=lora")
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, LoRA):
                part.lora_b.normal_()
    tokens = draw(2, 9)
    before = logits_of(model, tokens)
    merge(model)
    assert not any(isinstance(part, LoRA) for part in model.modules())
    assert all(p.role for p in model.modules() if type(p) is nn.Linear)
    torch.testing.assert_close(logits_of(model, tokens), before)


def test_roles_without_an_adapter_are_plain():
    made = {role: lora(4, 4, role, rank=2, alpha=1.0, roles=["q", "o"]) for role in ("q", "up")}
    assert isinstance(made["q"], LoRA) and type(made["up"]) is nn.Linear
    assert made["up"].weight.requires_grad and not made["q"].weight.requires_grad


def test_a_rank_of_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"model.linear.rank=0 of lora is not a whole number of"):
        lora(4, 4, "q", rank=0, alpha=1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 1.5}, "rank=1.5 of lora is not a whole number"),
        ({"alpha": "x"}, "alpha=x of lora is not a number above 0"),
        ({"roles": "q_proj"}, "roles=q_proj of lora must be a list of some of q, k, v"),
        ({"roles": ["q_proj"]}, r"roles=\['q_proj'\] of lora must be a list"),
        ({"roles": ["head"]}, r"roles=\['head'\] of lora must be a list"),
        ({"roles": []}, r"roles=\[\] of lora must be a list"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        lora(4, 4, "q", **{"rank": 2, "alpha": 1.0, **settings})


def test_the_head_has_none():
    assert type(lora(4, 4, "head", rank=2, alpha=1.0)) is nn.Linear
