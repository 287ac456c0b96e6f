"""Liger-Kernel's Triton kernels beside ours for the same jobs: what the compilers make of both.

    python scripts/kernel_peers.py
    python scripts/kernel_peers.py scale=135m archs=[sm_90] json=peers.json

scale=<name>      of configs/scale/ that both have a case for: 1_8b, the default, or 135m
archs=[<name>,…]  sm_80, sm_90, sm_100 and gfx942 by default
json=<path>       writes the lines there too
jobs=<n>          compilers at a time, 2 by default

Ours runs with the first tile of its table, Liger's with the block and warps that it chooses; both
with bf16 tensors. Registers, spills and shared memory are facts of the code; bytes are predicted.
No GPU is needed and none is used. Liger-Kernel is optional: pip install --no-deps liger-kernel
"""

import json
import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

# The checkout need not be installed: its root is not where Python looks for a script's imports.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plm.errors import ConfigError, PlmError
from scripts.arguments import read
from scripts.roofline import scale as read_scale

DEFAULTS = {"scale": "1_8b", "archs": [], "json": "", "jobs": 2}
SCALES = ("1_8b", "135m")
_ROW = "liger_kernel.ops.rms_norm:_rms_norm_{}_kernel"
_ADD = "liger_kernel.ops.fused_add_rms_norm:_fused_add_rms_norm_{}_kernel"
_RELU2 = "liger_kernel.ops.relu_squared:_relu_squared_{}_kernel"


@dataclass(frozen=True)
class Job:
    """One job, their kernel and ours.

    Attributes:
        name: of the job.
        source: of theirs, "package.module:function".
        pointers: its tensors, by Triton's type.
        constants: of it.
        width: columns that it chooses block and warps by.
        ours: names of our kernels for the job, and the configs module that describes them.
        op, mode: of plm.kernels.roofline, for the bytes; "" where there are none.
        odd: its numbers that are no multiples of 16.
    """

    name: str
    source: str
    pointers: Mapping[str, str]
    constants: Mapping[str, Any]
    width: int
    ours: tuple[str, ...]
    configs: str
    op: str
    mode: str
    odd: tuple[str, ...] = ()


def settings(width: int, arch: str, loss: bool = False) -> tuple[int, int]:
    """Block and warps that Liger-Kernel 0.8.5 chooses (ops/utils.py, ops/cross_entropy.py)."""
    block = 1 << (width - 1).bit_length()
    amd = arch.startswith("gfx")
    if loss:
        return min(block, 32768), 16 if amd else 8 if arch == "sm_100" else 32
    if block >= 32768:
        return block, 16 if amd else 32
    return block, 16 if block >= 8192 else 8 if block >= 2048 else 4


def _norms(size: int) -> list[Job]:
    bf16, single = "*bf16", "*fp32"
    plain, fused = {"casting_mode": 0, "elementwise_affine": True}, {"casting_mode": 0}
    forward = {"Y_ptr": bf16, "X_ptr": bf16, "W_ptr": bf16, "RSTD_ptr": single}
    backward = {"dY_ptr": bf16, "dX_ptr": bf16, "X_ptr": bf16, "W_ptr": bf16, "RSTD_ptr": single}
    backward["dW_ptr"] = single
    summed = {"dS_out_ptr": bf16}
    odd = ("RSTD_row_stride", "W_row_stride", "n_rows", "rows_per_program")
    norm, add = ("rms_norm_configs", "rms_norm"), ("rms_norm_configs", "add_rms_norm")
    return [
        Job("rms_norm forward", _ROW.format("forward"), forward, plain, size,
            ("rms_norm",), *norm, "forward", odd),
        Job("rms_norm backward", _ROW.format("backward"), backward,
            {**plain, "X_dtype": "bfloat16", "COMPUTE_DW": True}, size,
            ("rms_norm_backward",), *norm, "backward", odd),
        Job("add_rms_norm forward", _ADD.format("forward"),
            {**forward, "S_ptr": bf16, "R_ptr": bf16}, fused, size,
            ("add_rms_norm",), *add, "forward", odd),
        Job("add_rms_norm backward", _ADD.format("backward"), {**backward, **summed},
            {**fused, "X_dtype": "bfloat16", "has_dS_out": True, "COMPUTE_DW": True,
             "rows_per_program": 125}, size,
            ("add_rms_norm_backward",), *add, "backward", odd),
    ]  # fmt: skip


def jobs_of(scale: Mapping[str, Any]) -> list[Job]:
    """What is compared at a scale."""
    heads, rope, feed = (
        scale["num_attention_heads"], scale["qk_rope_head_dim"], scale["intermediate_size"]
    )  # fmt: skip
    vocab, bf16 = scale["vocab_size"], "*bf16"
    many = 1 << (heads - 1).bit_length()
    turn = {"bs": scale["micro_batch_size"], "cos_bs": 1, "n_qh": heads, "n_kh": 1, "hd": rope}
    turn |= {"pad_n_qh": many, "pad_n_kh": 1, "pad_hd": rope, "pad_rd": rope, "rd": rope}
    tables = {"q_ptr": bf16, "k_ptr": bf16, "cos": "*fp32", "sin": "*fp32"}
    relu = ("relu2_configs", "relu2")
    loss = {
        "weight_ptr": None, "z_loss_ptr": None, "token_accuracy_ptr": None,
        "predicted_tokens_ptr": None, "softcap": None, "lse_square_scale": 0.0,
        "label_smoothing": 0.0, "reduction": "mean", "RETURN_Z_LOSS": False,
        "RETURN_TOKEN_ACCURACY": False, "RETURN_PREDICTED_TOKENS": False, "HAS_WEIGHT": False,
        "HAS_SOFTCAPPING": False, "HAS_GRADIENTS": True,
    }  # fmt: skip
    strides = ("Y_stride", "loss_stride", "token_accuracy_stride", "predicted_tokens_stride")
    return [
        *_norms(scale["hidden_size"]),
        Job("rope", "liger_kernel.ops.rope:_triton_rope", tables,
            {**turn, "BACKWARD_PASS": False}, many, ("rope",), "rope_configs", "rope", "forward"),
        Job("relu2 forward", _RELU2.format("forward"), {"Y_ptr": bf16, "X_ptr": bf16},
            {"n_cols": feed}, feed, ("relu2",), *relu, "forward"),
        Job("relu2 backward", _RELU2.format("backward"),
            {"dX_ptr": bf16, "dY_ptr": bf16, "X_ptr": bf16},
            {"n_cols": feed}, feed, ("relu2_backward",), *relu, "backward"),
        Job("cross_entropy", "liger_kernel.ops.cross_entropy:liger_cross_entropy_kernel",
            {"X_ptr": bf16, "Y_ptr": "*i64", "loss_ptr": "*fp32"}, loss, vocab,
            ("linear_rows_stats", "linear_rows_gradient"), "linear_rows_configs", "", "",
            (*strides, "n_non_ignore", "ignore_index")),
    ]  # fmt: skip


def their_kernel(job: Job, arch: str) -> tuple[Any, Any]:
    """Their kernel as ours are described, and the tile that it chooses."""
    import triton.language as tl

    from plm.kernels.tiles import Kernel, Tile

    block, warps = settings(job.width, arch, loss=job.name == "cross_entropy")
    # Triton's own default is three stages; four warps for the rotation, which sets none.
    tile = Tile({"BLOCK_SIZE": block}, 4 if job.name == "rope" else warps, 3)
    constants = dict(job.constants)
    if "X_dtype" in constants:
        constants["X_dtype"] = getattr(tl, constants["X_dtype"])
    kernel = Kernel(
        f"liger {job.name}", job.source, {}, {"case": constants}, {}, tile, matrix=False,
        odd=job.odd,
    )  # fmt: skip
    names = kernel.function().arg_names
    floats = ("eps", "offset", "n_non_ignore", "sum_non_ignore_weight", "weight_sum")
    loss = job.name == "cross_entropy"
    types = {
        name: job.pointers.get(name)
        or ("fp32" if name in floats and not (loss and name.startswith("n_")) else "i32")
        for name in names
        if name not in constants and name != "BLOCK_SIZE"
    }
    return Kernel(**{**vars(kernel), "arguments": types}), tile


def our_kernels(job: Job, scale: str, arch: str) -> list[tuple[Any, str, Any]]:
    """Our kernels for the job, with the case of the scale and the first tile; none if unknown."""
    try:
        module = import_module(f"plm.kernels.{job.configs}")
    except ImportError:
        return []
    by_name = {kernel.name: kernel for kernel in module.KERNELS}
    found = []
    for name in job.ours:
        kernel = by_name.get(name)
        if kernel is None or not kernel.tiles.get(arch):
            return []
        case = scale if scale in kernel.cases else next(iter(kernel.cases))
        found.append((kernel, case, kernel.tiles[arch][0]))
    return found


def predicted_bytes(job: Job, scale: Mapping[str, Any]) -> tuple[float, list[float]]:
    """Of a micro-batch: their kernel's, and those of each of ours."""
    from plm.kernels.roofline import Shape, works
    from plm.kernels.roofline_peers import liger_cross_entropy
    from plm.kernels.roofline_report import PEERS
    from plm.kernels.roofline_work import total_bytes

    shape = Shape.of(scale)
    if not job.op:
        # Of bf16 logits alone: read for the statistics, then read and written for the gradient.
        logits = 2.0 * shape.tokens * shape.vocab
        theirs = total_bytes(liger_cross_entropy(shape.tokens, shape.vocab, 2)[0])
        return theirs, [logits, 2 * logits]
    forward, backward = PEERS[job.op]["Liger-Kernel"](shape)
    theirs = total_bytes(forward if job.mode == "forward" else backward)
    return theirs, [total_bytes(works(job.op, shape, job.mode)[0])]


def compile_job(index: int, name: str, arch: str) -> list[dict[str, Any]]:
    """Their line and ours of one job, in a process of its own."""
    from plm.kernels.aot import compile_one

    scale = read_scale(name)
    job = jobs_of(scale)[index]
    kernel, tile = their_kernel(job, arch)
    theirs, own = predicted_bytes(job, scale)
    lines = [("Liger", compile_one(kernel, "case", arch, tile), theirs)]
    for (ours, case, first), size in zip(our_kernels(job, name, arch), own, strict=False):
        lines.append(("ours", compile_one(ours, case, arch, first), size))
    return [
        {"job": job.name, "whose": whose, **made.record(), "predicted_bytes": size}
        for whose, made, size in lines
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """The lines as Markdown."""
    head = ("job", "architecture", "whose", "tile", "registers", "spills", "stack", "shared",
            "widest load", "predicted bytes")  # fmt: skip
    lines = [head, ("---",) * len(head)]
    for row in rows:
        cells = (
            row["job"], row["arch"], f"{row['whose']}: {row['kernel'].removeprefix('liger ')}",
            row["tile"], row["registers"], row["spills"], row["stack_bytes"],
            f"{row['shared_bytes'] / 1024:.1f} KiB", f"{row['load_bits']} bits",
            f"{row['predicted_bytes'] / 1e6:,.0f} MB",
        )  # fmt: skip
        if row["failed"]:
            cells = (*cells[:4], f"does not compile: {row['failed']}", *("–",) * 5)
        lines.append(tuple(str(cell) for cell in cells))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def compare(scale: str, archs: list[str], jobs: int) -> list[dict[str, Any]]:
    """Compile everything at a scale."""
    count = len(jobs_of(read_scale(scale)))
    tasks = [(index, scale, arch) for index in range(count) for arch in archs]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        found = pool.map(compile_job, *zip(*tasks, strict=True))
        return [row for rows in found for row in rows]


def _checked(arguments: list[str]) -> dict[str, Any]:
    from plm.kernels.tiles import GATED, SHARED_KIB, interpreting

    chosen = read(arguments, DEFAULTS, numbers=("jobs",), lists=("archs",))
    chosen["archs"] = chosen["archs"] or list(GATED)
    if chosen["scale"] not in SCALES:
        raise ConfigError(f"scale={chosen['scale']} is not one of: {', '.join(SCALES)}")
    for arch in chosen["archs"]:
        if arch not in SHARED_KIB:
            raise ConfigError(f"archs: {arch} is not one of: {', '.join(SHARED_KIB)}")
    if chosen["jobs"] < 1:
        raise ConfigError(f"jobs={chosen['jobs']} must be at least 1")
    for package in ("liger_kernel", "triton"):
        if find_spec(package) is None:
            raise ConfigError(
                f"{package} is not installed; pip install --no-deps {package.replace('_', '-')}"
            )
    if interpreting():
        raise ConfigError("TRITON_INTERPRET is set; kernels are compiled without it")
    return chosen


def main(arguments: list[str]) -> int:
    """Compile, print the table."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(__doc__)
        return 0
    try:
        chosen = _checked(arguments)
        rows = compare(chosen["scale"], chosen["archs"], chosen["jobs"])
    except PlmError as error:
        print(error, file=sys.stderr)
        return 2
    versions = {name: version(name) for name in ("liger-kernel", "triton")}
    print(f"Scale {chosen['scale']}, {', '.join(f'{k} {v}' for k, v in versions.items())}.\n")
    print(table(rows), end="")
    if chosen["json"]:
        record = {"versions": versions, "scale": chosen["scale"], "rows": rows}
        Path(chosen["json"]).write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
