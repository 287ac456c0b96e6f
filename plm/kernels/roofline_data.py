"""Times that others published of kernels on their GPUs; none of them is ours.

- Liger-Kernel's own benchmarks, github.com/linkedin/Liger-Kernel (BSD-2-Clause), benchmark/data/
  all_benchmark_data.csv, …_cutedsl.csv (cross-entropy on B200) and …_cutile.csv (the rest on B200)
  at commit ead96b61 of 2026-08-21: column y_value_50 in milliseconds, four digits of it. "eager"
  is what it calls huggingface or torch.
- Attention: Triton's tutorial kernel, github.com/pytorch/benchmark/pull/2391 (July 2024): 16 heads
  of 128, 16,384 tokens; its TFLOPS turned into milliseconds. It names neither the GPU nor a mask:
  FlashAttention-3 runs beside it, so it is a Hopper, and at the speed that its paper (arXiv:
  2407.08608, figure 5) gives for an H100 without a mask.
Left out: relu2's 128 columns, which time the host; B200's rotation backward, whose times do not
follow the size; losses for preferences and distillation, and kernels of jobs that PLM
does not have.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Series:
    """Times of one op by one implementation on one GPU.

    Attributes:
        kind: of kernel, for the errors: "one kernel" (row and elementwise kernels, norms forward
            only), "norm backward", "eager" (a kernel an operation), "products" (mostly matrix
            products), "chunked loss", "attention".
        gpu: key of roofline_work.GPUS.
        op, form, mode: what ran.
        points: by size of the axis that was varied, milliseconds.
    """

    kind: str
    gpu: str
    op: str
    form: str
    mode: str
    points: tuple[tuple[int, float], ...]

    @property
    def name(self) -> tuple[str, str, str, str]:
        """Without the kind."""
        return self.gpu, self.op, self.form, self.mode


_TABLE = """
one kernel, H100, relu2, liger, forward
256:0.007392 512:0.00848 1024:0.01126 2048:0.01706 4096:0.02794 8192:0.05021 16384:0.0944
one kernel, H100, relu2, liger, backward
256:0.008352 512:0.01056 1024:0.01466 2048:0.02333 4096:0.03942 8192:0.07235 16384:0.1371
eager, H100, relu2, eager, forward
256:0.01011 512:0.01194 1024:0.01693 2048:0.02678 4096:0.05325 8192:0.09792 16384:0.1855
eager, H100, relu2, eager, backward
256:0.01859 512:0.02346 1024:0.03549 2048:0.06027 4096:0.1263 8192:0.2355 16384:0.4527
one kernel, H100, add_rms_norm, liger, forward
1024:0.02053 2048:0.02816 4096:0.04954 8192:0.09462 16384:0.1838 32768:0.4338
norm backward, H100, add_rms_norm, liger, backward
1024:0.1259 2048:0.1253 4096:0.1252 8192:0.1545 16384:0.3005 32768:1.119
eager, H100, add_rms_norm, eager, forward
1024:0.04554 2048:0.07216 4096:0.1491 8192:0.2711 16384:0.5092 32768:0.9828
eager, H100, add_rms_norm, eager, backward
1024:0.1136 2048:0.2094 4096:0.3927 8192:0.7207 16384:1.367 32768:2.654
one kernel, H100, swiglu, liger, forward
1024:0.02333 2048:0.03958 4096:0.07251 8192:0.1371 16384:0.267 32768:0.5275
one kernel, A100-80G, rms_norm, liger, forward
1024:0.0136 2048:0.02 4096:0.03107 8192:0.05174 16384:0.09526 32768:0.1822
norm backward, A100-80G, rms_norm, liger, backward
1024:0.09373 2048:0.0903 4096:0.09914 8192:0.178 16384:0.3205 32768:1.056
eager, A100-80G, rms_norm, eager, forward
1024:0.07821 2048:0.1363 4096:0.2799 8192:0.519 16384:0.9856 32768:1.919
eager, A100-80G, rms_norm, eager, backward
1024:0.1958 2048:0.3619 4096:0.7404 8192:1.352 16384:2.57 32768:5.015
one kernel, A100-80G, rope, liger, forward
1024:0.03443 2048:0.05888 4096:0.109 8192:0.2093 16384:0.4105
one kernel, A100-80G, rope, liger, backward
1024:0.126 2048:0.1161 4096:0.1241 8192:0.21 16384:0.4102
eager, A100-80G, rope, eager, forward
1024:0.2808 2048:0.5161 4096:0.9948 8192:1.933 16384:3.817
eager, A100-80G, rope, eager, backward
1024:0.3304 2048:0.6214 4096:1.187 8192:2.321 16384:4.557
one kernel, A100-80G, cross_entropy, liger, forward
    4096:0.5324 8192:0.8101 16384:1.432 32768:2.838 65536:6.805 131072:15.01
one kernel, A100-80G, cross_entropy, liger, full
    4096:0.8637 8192:1.462 16384:2.745 32768:5.403 65536:11.93 131072:25.22
eager, A100-80G, cross_entropy, eager, forward
    4096:0.8751 8192:1.188 16384:1.952 32768:5.317 65536:10.62 131072:20.73
eager, A100-80G, cross_entropy, eager, full
    4096:2.226 8192:3.598 16384:6.802 32768:15.49 65536:30.78 131072:60.44
products, A100-80G, swiglu_mlp, liger, forward
1024:5.064 2048:10.08 4096:18 8192:35.93
products, A100-80G, swiglu_mlp, eager, forward
1024:4.582 2048:9.253 4096:18.16 8192:36.29
chunked loss, A100-80G, linear_cross_entropy, liger, forward
    4096:119.5 8192:168.1 16384:274.1 32768:508.5
chunked loss, A100-80G, linear_cross_entropy, liger, full
    4096:121.4 8192:166.7 16384:277.1 32768:511.1
products, A100-80G, linear_cross_entropy, eager, forward
    4096:20.91 8192:37.97 16384:76.39 32768:151.9
products, A100-80G, linear_cross_entropy, eager, full
    4096:55.97 8192:111.5 16384:220.8 32768:452.5
one kernel, B200, cross_entropy, liger, forward
1024:0.3287 2048:0.5417 4096:0.9615 8192:1.788
one kernel, B200, cross_entropy, liger, backward
1024:0.3727 2048:0.6902 4096:1.333 8192:2.609
eager, B200, cross_entropy, eager, forward
1024:0.3779 2048:0.6954 4096:1.351 8192:2.647
eager, B200, cross_entropy, eager, backward
1024:0.4578 2048:0.8262 4096:1.623 8192:3.167
one kernel, B200, add_rms_norm, liger, forward
1024:0.02552 2048:0.02538 4096:0.02861 8192:0.0471
norm backward, B200, add_rms_norm, liger, backward
1024:0.1085 2048:0.1047 4096:0.1096 8192:0.1824
eager, B200, add_rms_norm, eager, forward
1024:0.09213 2048:0.1536 4096:0.3011 8192:0.5893
eager, B200, add_rms_norm, eager, backward
1024:0.1453 2048:0.2447 4096:0.4692 8192:0.9164
one kernel, B200, rope, liger, forward
1024:0.01021 2048:0.01427 4096:0.02048 8192:0.03277
eager, B200, rope, eager, forward
1024:0.09523 2048:0.1587 4096:0.296 8192:0.5867
products, B200, swiglu_mlp, liger, forward
1024:0.2847 2048:0.5273 4096:1.059 8192:2.05
products, B200, swiglu_mlp, liger, backward
1024:0.6967 2048:1.222 4096:2.313 8192:4.69
products, B200, swiglu_mlp, eager, forward
1024:0.2969 2048:0.5488 4096:1.106 8192:2.147
products, B200, swiglu_mlp, eager, backward
1024:0.7332 2048:1.258 4096:2.375 8192:5.804
"""

_ATTENTION_TFLOPS = {
    512: 328.882,
    1024: 389.723,
    2048: 433.721,
    4096: 458.359,
    8192: 470.732,
    16384: 476.753,
}


def _read() -> tuple[Series, ...]:
    lines = _TABLE.strip().splitlines()
    found = []
    for head, body in zip(lines[::2], lines[1::2], strict=True):
        pairs = (point.split(":") for point in body.split())
        points = tuple((int(size), float(ms)) for size, ms in pairs)
        found.append(Series(*head.split(", "), points))
    points = tuple(
        (length, 4 * 16 * 16384 * length * 128 / tflops * 1e-9)
        for length, tflops in _ATTENTION_TFLOPS.items()
    )
    return *found, Series("attention", "H100", "attention", "triton", "forward", points)


SERIES = _read()
