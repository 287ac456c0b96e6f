# SPDX-License-Identifier: Apache-2.0
"""Configuration of PLM for transformers, as remote code: this file lies beside the weights.

Paper: PLM (arXiv:2503.12167)
Departs: the tables of a released PLM are tied, so `tie_word_embeddings` is true unless told.
Tested with transformers 4.57.6, 5.0.0, 5.23.0 and 5.24.0.
"""

from transformers import PretrainedConfig


class PLMConfig(PretrainedConfig):
    """Sizes of a PLM; the defaults are those of PLM-1.8B.

    Args:
        vocab_size: rows of the token table.
        hidden_size: width of the residual stream.
        intermediate_size: width of the feed-forward.
        num_hidden_layers: number of layers.
        num_attention_heads: number of query heads.
        num_key_value_heads: the same number; the latent serves all heads.
        kv_lora_rank: size of the latent that keys and values come from.
        q_lora_rank: None; PLM's queries are full-rank.
        qk_rope_head_dim: part of a head's key with rotary position, even.
        v_head_dim: size of a head's value.
        qk_nope_head_dim: part of a head's key without position.
        hidden_act: activation of the feed-forward; "relu2" is the squared ReLU.
        max_position_embeddings: longest context, in tokens.
        initializer_range: standard deviation of initial weights.
        rms_norm_eps: added to the mean square in every norm, the latent's too.
        use_cache: keep latents between calls.
        tie_word_embeddings: the output head reads the token table.
        rope_theta: base of the rotary angles.
        rope_parameters, rope_scaling: other spellings of it, {"rope_type": "default",
            "rope_theta": ...}; a `rope_theta` in there goes before the plain one.
        rope_interleave: pairs (2i, 2i + 1) turn; otherwise (i, i + R / 2).
        attention_bias: False; PLM has no biases.
        attention_dropout: share of attention weights dropped in training.
    Raises:
        ValueError: a setting that PLM does not have.
    """

    model_type = "plm"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]  # noqa: RUF012

    def __init__(
        self,
        vocab_size=151936,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=32,
        num_attention_heads=16,
        num_key_value_heads=None,
        kv_lora_rank=512,
        q_lora_rank=None,
        qk_rope_head_dim=64,
        v_head_dim=128,
        qk_nope_head_dim=128,
        hidden_act="relu2",
        max_position_embeddings=4096,
        initializer_range=0.02,
        rms_norm_eps=1e-6,
        use_cache=True,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
        tie_word_embeddings=True,
        rope_theta=100000.0,
        rope_parameters=None,
        rope_scaling=None,
        rope_interleave=True,
        attention_bias=False,
        attention_dropout=0.0,
        **kwargs,
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        given = num_key_value_heads
        self.num_key_value_heads = num_attention_heads if given is None else given
        self.kv_lora_rank = kv_lora_rank
        self.q_lora_rank = q_lora_rank
        self.qk_rope_head_dim = qk_rope_head_dim
        self.v_head_dim = v_head_dim
        self.qk_nope_head_dim = qk_nope_head_dim
        self.hidden_act = hidden_act
        self.max_position_embeddings = max_position_embeddings
        self.initializer_range = initializer_range
        self.rms_norm_eps = rms_norm_eps
        self.rope_theta = rope_theta
        self._take_rope(rope_scaling)
        self._take_rope(rope_parameters)
        self.rope_interleave = rope_interleave
        self.attention_bias = attention_bias
        self.attention_dropout = attention_dropout
        self._check()
        super().__init__(
            pad_token_id=pad_token_id,
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            tie_word_embeddings=tie_word_embeddings,
            **kwargs,
        )
        # After it: the base class of some versions drops this one as a setting of generation.
        self.use_cache = use_cache

    @property
    def rope_parameters(self):
        """The rotary settings as transformers 5 spells them; `rope_theta` is what is kept."""
        return {"rope_type": "default", "rope_theta": self.rope_theta}

    @rope_parameters.setter
    def rope_parameters(self, given):
        self._take_rope(given)

    @property
    def rope_scaling(self):
        """None: PLM does not scale its angles."""
        return None

    @rope_scaling.setter
    def rope_scaling(self, given):
        self._take_rope(given)

    def _take_rope(self, given):
        if not given:
            return
        kind = given.get("rope_type", given.get("type", "default"))
        if kind != "default":
            raise ValueError(
                f"rope_type={kind!r}: PLM turns unscaled angles; use 'default' or none"
            )
        self.rope_theta = given.get("rope_theta") or self.rope_theta

    def _check(self):
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        if groups != heads:
            raise ValueError(
                f"num_key_value_heads={groups} differs from num_attention_heads={heads}: "
                "one latent serves all heads; give the same number or leave it out"
            )
        if self.q_lora_rank is not None:
            raise ValueError(
                f"q_lora_rank={self.q_lora_rank}: PLM's queries are full-rank; use null"
            )
        if self.attention_bias:
            raise ValueError("attention_bias=true: PLM has no biases; use false")
        if self.qk_rope_head_dim % 2:
            raise ValueError(f"qk_rope_head_dim={self.qk_rope_head_dim} is odd; rotary turns pairs")


PLMConfig.register_for_auto_class()
