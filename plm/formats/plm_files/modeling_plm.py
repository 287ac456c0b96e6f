# SPDX-License-Identifier: Apache-2.0
"""PLM for transformers, as remote code: latent attention and a squared ReLU without a gate.

Paper: PLM (arXiv:2503.12167); DeepSeek-AI, DeepSeek-V2 (arXiv:2405.04434), section 2.1, for the
    attention
Departs: nothing.

The cache keeps the normed latent and the turned rotary key of a token, not its keys and values.
Both lie side by side and are cut into two equal halves, which take the places of keys and values
in transformers' caches: a static cache of transformers 4 gives both places one size. A single new
token attends in the latent space (DeepSeek-V2, end of section 2.1.2); more tokens at once, and a
`kv_b_proj` that is more than a plain matrix (adapters, quantised weights, offloading), expand the
latents first. "flash_attention_2" and "flex_attention" are refused: a head's key and value differ
in size.

Tested with transformers 4.57.6, 5.0.0, 5.23.0 and 5.24.0.
"""

import inspect
from dataclasses import fields

import torch
import torch.nn.functional as F
import transformers
from torch import nn
from transformers.activations import ACT2FN
from transformers.cache_utils import DynamicCache
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils import can_return_tuple

from .configuration_plm import PLMConfig

# transformers 5 names the weight that a tied one follows, transformers 4 does not.
_TIED = {"lm_head.weight": "model.embed_tokens.weight"}
_TIED = _TIED if int(transformers.__version__.split(".")[0]) >= 5 else list(_TIED)
# `past_key_values` until transformers 5.23, `cache` from 5.24 on.
_FIELDS = {field.name for field in fields(BaseModelOutputWithPast)}
_CACHE = "cache" if "cache" in _FIELDS else "past_key_values"
_MASK_TAKES = set(inspect.signature(create_causal_mask).parameters)


def causal_mask(config, inputs_embeds, attention_mask, cache, position_ids, cache_position):
    """Mask for the chosen attention, [B, 1, T, S], bool or added to the scores, or None."""
    # Under the names of whichever version this is.
    offered = {
        "inputs_embeds": inputs_embeds,
        "input_embeds": inputs_embeds,
        "past_key_values": cache,
        "cache": cache,
        "cache_position": cache_position,
    }
    taken = {name: value for name, value in offered.items() if name in _MASK_TAKES}
    return create_causal_mask(
        config=config, attention_mask=attention_mask, position_ids=position_ids, **taken
    )


def rotary_tables(position_ids, dim, theta, dtype):
    """Cosine and sine of the rotary angles.

    Args:
        position_ids: [B, T] or [1, T] int64.
        dim: R, even.
        theta: base of the angles.
        dtype: of the model.
    Returns:
        Two tensors [B, T, R / 2], fp32 or fp64.
    """
    device = position_ids.device
    # fp64: in fp32 the angle of position 100,000 is already off by 1e-3. Apple's GPUs lack it.
    place = torch.device("cpu") if device.type == "mps" else device
    exponent = torch.arange(0, dim, 2, device=place, dtype=torch.float64)
    angle = position_ids.to(place)[..., None].double() * theta ** (-exponent / dim)
    wide = torch.promote_types(dtype, torch.float32)
    return angle.cos().to(wide).to(device), angle.sin().to(wide).to(device)


def rotate(x, rotary, interleave):
    """Turn the pairs of x, [B, T, H, R], by their position's angle; the dtype stays.

    Args:
        rotary: cosine and sine, [B, T, R / 2] each; the arithmetic is in their dtype.
        interleave: pairs are (2i, 2i + 1); otherwise (i, i + R / 2).
    """
    cos, sin = (table[:, :, None] for table in rotary)
    wide = x.to(cos.dtype)
    one, two = (wide[..., 0::2], wide[..., 1::2]) if interleave else wide.chunk(2, dim=-1)
    turned = (one * cos - two * sin, one * sin + two * cos)
    joined = torch.stack(turned, dim=-1).flatten(-2) if interleave else torch.cat(turned, dim=-1)
    return joined.to(x.dtype)


def eager_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Softmax attention in plain torch; the mask, if any, is added to the scores.

    Returns:
        [B, T, H, U] and the weights, [B, H, T, S].
    """
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    wide = torch.promote_types(scores.dtype, torch.float32)
    weights = scores.softmax(dim=-1, dtype=wide).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class PLMRMSNorm(nn.Module):
    """x / rms(x) · weight, weight included in fp32 before the cast back, unlike Llama's."""

    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        """[..., size], same dtype out."""
        wide = torch.promote_types(x.dtype, torch.float32)
        rows = x.to(wide)
        inverse = torch.rsqrt(rows.square().mean(-1, keepdim=True) + self.eps)
        return (rows * inverse * self.weight.to(wide)).to(x.dtype)


class PLMMLP(nn.Module):
    """Up, activation, down."""

    def __init__(self, config):
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.act_fn = ACT2FN[config.hidden_act]
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden_states):
        """[B, T, D] -> [B, T, D]."""
        return self.down_proj(self.act_fn(self.up_proj(hidden_states)))


class PLMAttention(nn.Module):
    """Multi-head latent attention with full-rank queries."""

    is_causal = True

    def __init__(self, config, layer_idx):
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        self.heads, self.rank = config.num_attention_heads, config.kv_lora_rank
        self.nope, self.rope = config.qk_nope_head_dim, config.qk_rope_head_dim
        self.value = config.v_head_dim
        self.scaling = (self.nope + self.rope) ** -0.5
        wide, size = self.heads * (self.nope + self.rope), config.hidden_size
        self.q_proj = nn.Linear(size, wide, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(size, self.rank + self.rope, bias=False)
        self.kv_a_layernorm = PLMRMSNorm(self.rank, config.rms_norm_eps)
        self.kv_b_proj = nn.Linear(self.rank, self.heads * (self.nope + self.value), bias=False)
        self.o_proj = nn.Linear(self.heads * self.value, size, bias=False)

    def forward(self, hidden_states, rotary, attention_mask, kv_cache, cache_position):
        """[B, T, D] -> [B, T, D] and the weights [B, H, T, S], None but for eager attention."""
        new, interleave = hidden_states.shape[1], self.config.rope_interleave
        q = self.q_proj(hidden_states).unflatten(-1, (self.heads, self.nope + self.rope))
        q_nope, q_rope = q.split([self.nope, self.rope], dim=-1)
        q_rope = rotate(q_rope, rotary, interleave)
        kv_a = self.kv_a_proj_with_mqa(hidden_states)
        latent, k_rope = kv_a.split([self.rank, self.rope], dim=-1)
        k_rope = rotate(k_rope[:, :, None], rotary, interleave)[:, :, 0]
        kept = torch.cat((self.kv_a_layernorm(latent), k_rope), dim=-1)[:, None]
        if kv_cache is not None:
            halves = kept.chunk(2, dim=-1)
            where = {"cache_position": cache_position}
            kept = torch.cat(kv_cache.update(*halves, self.layer_idx, where), dim=-1)
        if new == 1 and kv_cache is not None and self._plain():
            out, weights = self._in_latents(q_nope, q_rope, kept, attention_mask)
        else:
            q = torch.cat((q_nope, q_rope), dim=-1).transpose(1, 2)
            out, weights = self._attend(q, *self._expand(kept[:, 0]), attention_mask)
        return self.o_proj(out.flatten(-2)), weights

    def _attend(self, query, key, value, attention_mask, **settings):
        chosen = self.config._attn_implementation
        attend = eager_attention if chosen == "eager" else ALL_ATTENTION_FUNCTIONS[chosen]
        dropout = self.config.attention_dropout if self.training else 0.0
        settings |= {"scaling": self.scaling, "dropout": dropout}
        return attend(self, query, key, value, attention_mask, **settings)

    def _expand(self, kept):
        """Keys [B, H, S, N + R] and values [B, H, S, U] of what is kept, [B, S, C + R]."""
        latent, k_rope = kept.split([self.rank, self.rope], dim=-1)
        kv = self.kv_b_proj(latent).unflatten(-1, (self.heads, self.nope + self.value))
        k_nope, value = kv.split([self.nope, self.value], dim=-1)
        k_rope = k_rope[:, :, None].expand(-1, -1, self.heads, -1)
        return torch.cat((k_nope, k_rope), dim=-1).transpose(1, 2), value.transpose(1, 2)

    def _plain(self):
        """Whether `kv_b_proj` does no more than its weight says, so that it may be gone round."""
        part = self.kv_b_proj
        hooked = part._forward_hooks or part._forward_pre_hooks or "forward" in part.__dict__
        return type(part) is nn.Linear and type(part.weight) is nn.Parameter and not hooked

    def _in_latents(self, q_nope, q_rope, kept, attention_mask):
        """One token's queries go through kv_b; the heads attend to one key, as rows of it."""
        weight = self.kv_b_proj.weight.unflatten(0, (self.heads, self.nope + self.value))
        k_weight, v_weight = weight.split([self.nope, self.value], dim=1)
        q_latent = torch.einsum("bthn,hnc->bthc", q_nope, k_weight)
        # [B, T = 1, H, C + R], read as one head with H queries; kept is [B, 1, S, C + R].
        query = torch.cat((q_latent, q_rope), dim=-1).to(kept.dtype)
        latent = kept[..., : self.rank]
        out, weights = self._attend(query, kept, latent, attention_mask, is_causal=False)
        out = torch.einsum("bhtc,huc->bthu", out, v_weight)
        return out, None if weights is None else weights.transpose(1, 2)


class PLMDecoderLayer(GradientCheckpointingLayer):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config, layer_idx):
        super().__init__()
        self.input_layernorm = PLMRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = PLMAttention(config, layer_idx)
        self.post_attention_layernorm = PLMRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = PLMMLP(config)

    def forward(self, hidden_states, rotary, attention_mask, kv_cache=None, cache_position=None):
        """[B, T, D] -> [B, T, D] and the attention's weights, if it tells them."""
        mixed, weights = self.self_attn(
            self.input_layernorm(hidden_states), rotary, attention_mask, kv_cache, cache_position
        )
        hidden_states = hidden_states + mixed
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states)), weights


class PLMPreTrainedModel(PreTrainedModel):
    """What transformers asks of a model."""

    config_class = PLMConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["PLMDecoderLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values", "cache", "kv_cache"]  # noqa: RUF012
    _supports_sdpa = True
    _can_compile_fullgraph = True


class PLMModel(PLMPreTrainedModel):
    """Token table, layers and final norm."""

    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        layers = (PLMDecoderLayer(config, index) for index in range(config.num_hidden_layers))
        self.layers = nn.ModuleList(layers)
        self.norm = PLMRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        use_cache=None,
        output_attentions=None,
        output_hidden_states=None,
        cache=None,
        **kwargs,
    ):
        """Run the layers.

        Args:
            input_ids: [B, T] int64, or in their place inputs_embeds [B, T, D].
            attention_mask: [B, S], 0 for padding, or one ready for the attention, [B, 1, T, S].
            position_ids: [B, T] int64; by default they count on from the cache.
            past_key_values, cache: transformers' cache, under its older or newer name.
            use_cache: make one where none is given.
            output_attentions: return the weights; needs attn_implementation="eager".
            output_hidden_states: return the inputs of the layers, and the normed output last.
        Raises:
            ValueError: both or neither of input_ids and inputs_embeds, or no weights to return.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give input_ids or inputs_embeds, one of the two")
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        cache = self._cache(past_key_values if cache is None else cache, use_cache)
        # Transformers gives it until 5.0 or so; it says where in the cache the tokens belong.
        cache_position = kwargs.get("cache_position")
        if cache_position is None:
            seen = 0 if cache is None else cache.get_seq_length()
            cache_position = torch.arange(hidden.shape[1], device=hidden.device) + seen
        position_ids = cache_position[None] if position_ids is None else position_ids
        mask = causal_mask(self.config, hidden, attention_mask, cache, position_ids, cache_position)
        keep = self._keep(output_attentions, output_hidden_states)
        return self._run(hidden, position_ids, mask, cache, cache_position, *keep)

    def _cache(self, cache, use_cache):
        """The cache to write to, or None."""
        # A layer that is run again in the backward would write twice.
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return None
        wanted = self.config.use_cache if use_cache is None else use_cache
        return DynamicCache() if cache is None and wanted else cache

    def _keep(self, attentions, states):
        config = self.config
        attentions = config.output_attentions if attentions is None else attentions
        states = config.output_hidden_states if states is None else states
        if attentions and config._attn_implementation != "eager":
            raise ValueError(
                "output_attentions=True: only attn_implementation='eager' has weights to return, "
                f"not {config._attn_implementation!r}"
            )
        return attentions, states

    def _run(self, hidden, position_ids, mask, cache, cache_position, keep_attentions, keep_states):
        theta, dim = self.config.rope_theta, self.config.qk_rope_head_dim
        given = {
            "rotary": rotary_tables(position_ids, dim, theta, hidden.dtype),
            "attention_mask": mask,
            "kv_cache": cache,
            "cache_position": cache_position,
        }
        states, attentions = [], []
        for layer in self.layers:
            states.append(hidden if keep_states else None)
            hidden, weights = layer(hidden, **given)
            attentions.append(weights)
        hidden = self.norm(hidden)
        return BaseModelOutputWithPast(
            last_hidden_state=hidden,
            hidden_states=(*states, hidden) if keep_states else None,
            attentions=tuple(attentions) if keep_attentions else None,
            **{_CACHE: cache},
        )


class PLMForCausalLM(PLMPreTrainedModel, GenerationMixin):
    """PLM with its output head."""

    _tied_weights_keys = _TIED

    def __init__(self, config):
        super().__init__(config)
        self.model = PLMModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        labels=None,
        use_cache=None,
        logits_to_keep=0,
        cache=None,
        **kwargs,
    ):
        """Scores of the next token, and the loss where labels are given.

        Args:
            labels: [B, T] int64, not shifted; -100 drops a position.
            logits_to_keep: the last so many positions, 0 for all, or a tensor of indices.
            kwargs: `num_items_in_batch` divides the loss in the place of the number of labels.
        The others are those of PLMModel.
        """
        given = {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "return_dict": True}
        given |= {"past_key_values": past_key_values, "cache": cache, "use_cache": use_cache}
        outputs = self.model(
            attention_mask=attention_mask, position_ids=position_ids, **given, **kwargs
        )
        if isinstance(logits_to_keep, int):
            logits_to_keep = slice(-logits_to_keep, None)
        logits = self.lm_head(outputs.last_hidden_state[:, logits_to_keep])
        loss = None
        if labels is not None:
            settings = {"vocab_size": self.config.vocab_size, **kwargs}
            loss = self.loss_function(logits=logits, labels=labels, **settings)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{_CACHE: outputs.get(_CACHE)},
        )


PLMModel.register_for_auto_class("AutoModel")
PLMForCausalLM.register_for_auto_class("AutoModelForCausalLM")
