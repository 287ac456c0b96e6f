"""What the kernels' benchmark runs: each op's inputs, and everybody who can do the same job."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from plm import kernels
from plm.batch import IGNORE_INDEX
from plm.errors import ConfigError
from plm.kernels import reference
from scripts.bench_kernels_time import Job

SCALES = Path(__file__).resolve().parent.parent / "configs" / "scale"
EPS = 1e-6


def shape_of(scale: str, tokens: int) -> dict[str, int]:
    """The numbers of a scale that the ops need; B from its micro-batch or from `tokens`.

    Raises:
        ConfigError: there is no such scale, or tokens is no multiple of its window.
    """
    import yaml

    path = SCALES / f"{scale}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in SCALES.glob("*.yaml")))
        raise ConfigError(f"scale={scale} is not one of: {known}")
    found = yaml.safe_load(path.read_text("utf-8"))
    names = (
        "hidden_size", "num_attention_heads", "kv_lora_rank", "qk_nope_head_dim",
        "qk_rope_head_dim", "v_head_dim", "intermediate_size", "vocab_size", "seq_len",
    )  # fmt: skip
    rows = found["micro_batch_size"]
    if tokens:
        if tokens % found["seq_len"]:
            raise ConfigError(f"tokens={tokens} is no multiple of seq_len={found['seq_len']}")
        rows = tokens // found["seq_len"]
    return {**{name: found[name] for name in names}, "rows": rows}


def _random(device: torch.device, *size: int, scale: float = 1.0, learns: bool = True) -> Tensor:
    drawn = torch.randn(size, device=device, dtype=torch.float32) * scale
    return drawn.to(torch.bfloat16).requires_grad_(learns)


def _contenders(ours: Callable, plain: Callable, **others: Callable) -> dict[str, Callable]:
    return {"ours": ours, "torch": plain, "compiled": torch.compile(plain), **others}


def _rotary(shape: dict[str, int], device: torch.device) -> tuple[Tensor, Tensor]:
    half = shape["qk_rope_head_dim"] // 2
    angle = torch.rand(shape["rows"], shape["seq_len"], half, device=device)
    return angle.cos(), angle.sin()


def _peers(job: Job, **found: tuple[str, Callable[[], Callable]]) -> Job:
    """Add those whose package is installed; (package, maker) by name."""
    for name, (package, make) in found.items():
        if find_spec(package) is None:
            job.missing[name] = f"{package} is not installed"
            continue
        try:
            job.contenders[name] = make()
        except Exception as error:
            job.missing[name] = f"{type(error).__name__}: {error}"
    return job


def linear_cross_entropy(shape: dict[str, int], device: torch.device) -> Job:
    """Head and cross-entropy; a tenth of the labels masked."""
    n = shape["rows"] * shape["seq_len"]
    labels = torch.randint(shape["vocab_size"], (n,), device=device)
    labels[torch.rand(n, device=device) < 0.1] = IGNORE_INDEX
    inputs = {
        "hidden": _random(device, n, shape["hidden_size"]),
        "weight": _random(device, shape["vocab_size"], shape["hidden_size"], scale=0.02),
        "labels": labels,
    }

    def liger() -> Callable:
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy as call

        return lambda hidden, weight, labels: call(hidden, weight, labels, reduction="sum")

    def cce() -> Callable:
        from cut_cross_entropy import linear_cross_entropy as call

        return lambda hidden, weight, labels: call(hidden, weight, labels, reduction="sum")

    job = Job(
        inputs,
        _contenders(
            lambda **x: kernels.linear_cross_entropy(**x).total,
            lambda **x: reference.linear_cross_entropy(**x).total,
        ),
    )
    return _peers(job, liger=("liger_kernel", liger), cut_cross_entropy=("cut_cross_entropy", cce))


def linear_logprob(shape: dict[str, int], device: torch.device) -> Job:
    """Log-probability and entropy of every token, with gradients."""
    job = linear_cross_entropy(shape, device)
    contenders = _contenders(
        lambda **x: kernels.linear_logprob(**x)[:2], lambda **x: reference.linear_logprob(**x)[:2]
    )
    return Job(job.inputs, contenders)


def relu2_mlp(shape: dict[str, int], device: torch.device) -> Job:
    """The feed-forward with a squared ReLU."""
    d, f = shape["hidden_size"], shape["intermediate_size"]
    inputs = {
        "x": _random(device, shape["rows"], shape["seq_len"], d),
        "up": _random(device, f, d, scale=0.02),
        "down": _random(device, d, f, scale=0.02),
    }
    return Job(inputs, _contenders(kernels.relu2_mlp, reference.relu2_mlp))


def relu2(shape: dict[str, int], device: torch.device) -> Job:
    """The squared ReLU alone."""
    size = (shape["rows"] * shape["seq_len"], shape["intermediate_size"])

    def liger() -> Callable:
        from liger_kernel.ops.relu_squared import LigerReLUSquaredFunction

        return lambda x: LigerReLUSquaredFunction.apply(x)

    job = Job({"x": _random(device, *size)}, _contenders(kernels.relu2, reference.relu2))
    return _peers(job, liger=("liger_kernel", liger))


def mla_attention(shape: dict[str, int], device: torch.device) -> Job:
    """Attention over raw queries, expanded latents and the shared rotary key, plain causal."""
    b, t, h = shape["rows"], shape["seq_len"], shape["num_attention_heads"]
    nope, rope, value = (
        shape[k] for k in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    )  # fmt: skip
    cos, sin = _rotary(shape, device)
    inputs = {
        "q": _random(device, b, t, h, nope + rope),
        "kv": _random(device, b, t, h, nope + value),
        "k_rope": _random(device, b, t, rope),
        "cos": cos,
        "sin": sin,
    }
    scale = (nope + rope) ** -0.5

    def plain(**x: Tensor) -> Tensor:
        return kernels.mla_attention(**x, scale=scale, form="torch")

    def flash() -> Callable:
        from flash_attn import flash_attn_func

        def call(q: Tensor, kv: Tensor, k_rope: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
            turned = reference.rope(k_rope, cos, sin)[:, :, None].expand(-1, -1, h, -1)
            q = torch.cat((q[..., :nope], reference.rope(q[..., nope:], cos, sin)), -1)
            k = torch.cat((kv[..., :nope], turned), -1)
            v = F.pad(kv[..., nope:], (0, nope + rope - value))
            return flash_attn_func(q, k, v, softmax_scale=scale, causal=True)[..., :value]

        return call

    job = Job(inputs, _contenders(lambda **x: kernels.mla_attention(**x, scale=scale), plain))
    return _peers(job, flash_attention=("flash_attn", flash))


def mla_decode(shape: dict[str, int], device: torch.device) -> Job:
    """One new token a row against a full latent cache."""
    b, s, h = shape["rows"], shape["seq_len"], shape["num_attention_heads"]
    rank, rope = shape["kv_lora_rank"], shape["qk_rope_head_dim"]
    scale = (shape["qk_nope_head_dim"] + rope) ** -0.5
    inputs = {
        "q_latent": _random(device, b, h, rank, learns=False),
        "q_rope": _random(device, b, h, rope, learns=False),
        "latent": _random(device, b, s, rank, learns=False),
        "k_rope": _random(device, b, s, rope, learns=False),
        "lengths": torch.full((b,), s, dtype=torch.int32, device=device),
    }
    contenders = _contenders(
        lambda **x: kernels.mla_decode(**x, scale=scale),
        lambda **x: kernels.mla_decode(**x, scale=scale, form="torch"),
    )
    return Job(inputs, contenders, backward=False)


def rms_norm(shape: dict[str, int], device: torch.device) -> Job:
    """The norm of a layer's input."""
    d = shape["hidden_size"]
    inputs = {
        "x": _random(device, shape["rows"], shape["seq_len"], d),
        "weight": _random(device, d),
    }

    def liger() -> Callable:
        from liger_kernel.transformers.functional import liger_rms_norm

        return lambda x, weight: liger_rms_norm(x, weight, EPS)

    def quack() -> Callable:
        from quack import rmsnorm

        return lambda x, weight: rmsnorm(x, weight, eps=EPS)

    job = Job(
        inputs,
        _contenders(
            lambda x, weight: kernels.rms_norm(x, weight, EPS),
            lambda x, weight: F.rms_norm(x, (d,), weight, EPS),
        ),
    )
    return _peers(job, liger=("liger_kernel", liger), quack=("quack", quack))


def add_rms_norm(shape: dict[str, int], device: torch.device) -> Job:
    """A residual sum and the norm of it."""
    inputs = rms_norm(shape, device).inputs
    inputs["residual"] = _random(device, *inputs["x"].shape)

    def plain(x: Tensor, weight: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        total = x + residual
        return F.rms_norm(total, (weight.shape[0],), weight, EPS), total

    def liger() -> Callable:
        from liger_kernel.transformers.functional import liger_fused_add_rms_norm

        return lambda x, weight, residual: liger_fused_add_rms_norm(x, residual, weight, EPS)

    def ours(x: Tensor, weight: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        return kernels.add_rms_norm(x, residual, weight, EPS)

    return _peers(Job(inputs, _contenders(ours, plain)), liger=("liger_kernel", liger))


def rope(shape: dict[str, int], device: torch.device) -> Job:
    """Rotation of all queries' rotary parts."""
    cos, sin = _rotary(shape, device)
    size = (shape["rows"], shape["seq_len"], shape["num_attention_heads"])
    x = _random(device, *size, shape["qk_rope_head_dim"])
    return Job({"x": x, "cos": cos, "sin": sin}, _contenders(kernels.rope, reference.rope))


def latent_norm(shape: dict[str, int], device: torch.device) -> Job:
    """Split of the latent projection, its norm, and the shared key's rotation."""
    rank = shape["kv_lora_rank"]
    cos, sin = _rotary(shape, device)
    width = rank + shape["qk_rope_head_dim"]
    inputs = {
        "kv_a": _random(device, shape["rows"], shape["seq_len"], width),
        "weight": _random(device, rank),
        "cos": cos,
        "sin": sin,
    }
    return Job(
        inputs,
        _contenders(
            lambda **x: kernels.latent_norm(**x, eps=EPS, rank=rank),
            lambda **x: reference.latent_norm(**x, eps=EPS, rank=rank),
        ),
    )


OPS: dict[str, Callable[[dict[str, int], torch.device], Job]] = {
    call.__name__: call
    for call in (
        linear_cross_entropy, linear_logprob, relu2_mlp, relu2, mla_attention, mla_decode,
        rms_norm, add_rms_norm, rope, latent_norm,
    )
}  # fmt: skip
