"""Compile kernels ahead of time for GPUs that are not here, and read what the compiler made.

Triton brings the assembler and disassembler for NVIDIA along and makes AMD's code by itself, so
that registers, spills, shared memory and instructions are known without a GPU. Speed is not.
"""

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from plm.errors import ConfigError
from plm.kernels.tiles import SHARED_KIB, Kernel, Tile, interpreting

# Instructions by what they are called in the record; the first of `matrix` that occurs is named.
_MATRIX = {
    "tcgen05": r"\bUTC\w*MMA",
    "wgmma": r"\b[HIQ]GMMA\.",
    "mma.sync": r"\b[HIQ]MMA\.",
    "mfma": r"\bv_mfma_",
}
_WIDTHS = (
    (128, r"\bLDG\.E\S*\.128|\bLDGSTS\S*\.128|\bUTMALDG|\b(?:buffer|global|flat)_load_dwordx4"),
    (64, r"\bLDG\.E\S*\.64|\bLDGSTS\S*\.64|\b(?:buffer|global|flat)_load_dwordx2"),
    (32, r"\bLDG\.E|\bLDGSTS|\b(?:buffer|global|flat)_load_dword\b"),
)
# Of sm_100's tensor memory a block may have at most; Triton does not refuse more.
_TENSOR_COLUMNS = 512
_EXPECTED = {"sm_80": "mma.sync", "sm_89": "mma.sync", "sm_90": "wgmma", "sm_100": "tcgen05"} | {
    "sm_120": "mma.sync", "gfx942": "mfma"
}  # fmt: skip


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of one kernel, case, architecture and tile.

    Attributes:
        registers: a thread's; on AMD vector and accumulation registers together.
        stack_bytes: of local memory a thread; on AMD scratch.
        spills: instructions that store to or load from local memory; on AMD spilled registers.
        shared_bytes: of a block.
        matrix: the matrix instruction that is used, or "".
        load_bits: widest load from global memory.
        copies: how tiles reach shared memory: "tma", "cp.async", or "".
        failed: the compiler's complaint, where it made nothing.
    """

    kernel: str
    case: str
    arch: str
    tile: str
    registers: int = 0
    stack_bytes: int = 0
    spills: int = 0
    shared_bytes: int = 0
    matrix: str = ""
    load_bits: int = 0
    copies: str = ""
    failed: str = ""

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    def problems(self, matrix: bool) -> list[str]:
        """Why this may not ship; matrix: the kernel is to use the matrix unit."""
        if self.failed:
            return [f"does not compile: {self.failed}"]
        found = []
        if self.stack_bytes:
            found.append(f"{self.stack_bytes} bytes of stack")
        if self.spills:
            found.append(f"{self.spills} spills")
        limit = SHARED_KIB[self.arch] * 1024
        if self.shared_bytes > limit:
            found.append(f"{self.shared_bytes} bytes of shared memory, above {limit}")
        if matrix and self.matrix != _EXPECTED[self.arch]:
            found.append(f"{self.matrix or 'no matrix instruction'}, not {_EXPECTED[self.arch]}")
        if matrix and self.arch == "sm_80" and self.copies != "cp.async":
            found.append("no cp.async")
        if not matrix and self.load_bits < 128:
            found.append(f"loads of {self.load_bits} bits at most")
        return found


def target(arch: str) -> Any:
    """Triton's target of an architecture.

    Raises:
        ConfigError: it is not one that we know.
    """
    from triton.backends.compiler import GPUTarget

    if arch not in SHARED_KIB:
        raise ConfigError(f"arch={arch} is not one of: {', '.join(SHARED_KIB)}")
    if arch.startswith("gfx"):
        return GPUTarget("hip", arch, 64)
    return GPUTarget("cuda", int(arch[3:]), 32)


def _source(kernel: Kernel, constants: Mapping[str, Any], small: bool) -> Any:
    from triton.compiler import ASTSource

    function = kernel.function()
    signature, attributes = {}, {}
    for index, name in enumerate(function.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        signature[name] = kind = kernel.arguments[name]
        # As the launcher finds on a GPU, where torch aligns tensors and our sizes are even.
        if kind.startswith("*") or (kind.startswith("i") and name not in kernel.odd):
            attributes[(index,)] = [["tt.divisibility", 16]]
        if small and kind.startswith("*"):
            attributes[(index,)].append(["tt.pointer_range", 32])
    return ASTSource(function, signature, dict(constants), attributes)


def compile_one(kernel: Kernel, case: str, arch: str, tile: Tile) -> Compiled:
    """Compile and look: in all forms that a launcher would compile, the worst of them.

    Args:
        kernel: what; its function must not be Triton's interpreter.
        case: a name in kernel.cases.
        arch: a key of SHARED_KIB.
        tile: how.
    Raises:
        ConfigError: TRITON_INTERPRET is set, or arch is unknown.
    """
    if interpreting():
        raise ConfigError("TRITON_INTERPRET is set; kernels are compiled without it")
    # A GPU's launcher compiles for multiples of 16 where it is given some.
    forms = [kernel, replace(kernel, odd=())] if kernel.odd else [kernel]
    # AMD's compiles for tensors below 2 GiB where they are.
    small = (False, True) if arch.startswith("gfx") else (False,)
    made = [_compile(form, case, arch, tile, s) for form in forms for s in small]
    return max(made, key=lambda m: (len(m.problems(kernel.matrix)), m.spills, m.registers))


def _compile(kernel: Kernel, case: str, arch: str, tile: Tile, small: bool) -> Compiled:
    import triton

    label = {"kernel": kernel.name, "case": case, "arch": arch, "tile": str(tile)}
    options: dict[str, Any] = {**tile.options(), "enable_fp_fusion": True}
    if arch.startswith("gfx"):
        options.pop("maxnreg", None)
    source = _source(kernel, {**kernel.cases[case], **tile.blocks}, small)
    try:
        made = triton.compile(source, target=target(arch), options=options)
    except Exception as error:
        return Compiled(**label, failed=str(error).strip().splitlines()[-1][:200])
    read = _amd if arch.startswith("gfx") else _nvidia
    tensor_columns = getattr(made.metadata, "tmem_size", 0) or 0
    if tensor_columns > _TENSOR_COLUMNS:
        return Compiled(**label, failed=f"{tensor_columns} columns of tensor memory")
    return Compiled(**label, shared_bytes=made.metadata.shared, **read(made.asm))


def _nvidia(asm: Mapping[str, Any]) -> dict[str, Any]:
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(asm["cubin"])
        file.flush()
        usage = _output([str(tools / "cuobjdump"), "-res-usage", file.name])
        code = _output([str(tools / "nvdisasm"), "-c", file.name])
    registers, stack = (re.search(rf"{key}:(\d+)", usage) for key in ("REG", "STACK"))
    return {
        "registers": int(registers[1]) if registers else 0,
        "stack_bytes": int(stack[1]) if stack else 0,
        "spills": len(re.findall(r"\b(?:STL|LDL)\b", code)),
        **_instructions(code),
    }


def _amd(asm: Mapping[str, Any]) -> dict[str, Any]:
    code = asm["amdgcn"]
    fields = ("vgpr_count", "agpr_count", "vgpr_spill_count", "private_segment_fixed_size")
    values = {}
    for name in fields:
        found = re.search(rf"\.{name}:\s*(\d+)", code)
        values[name] = int(found[1]) if found else 0
    return {
        # vgpr_count holds both kinds on this architecture.
        "registers": values["vgpr_count"],
        "stack_bytes": values["private_segment_fixed_size"],
        "spills": values["vgpr_spill_count"],
        **_instructions(code),
    }


def _instructions(code: str) -> dict[str, Any]:
    matrix = next((name for name, form in _MATRIX.items() if re.search(form, code)), "")
    width = next((bits for bits, form in _WIDTHS if re.search(form, code)), 0)
    tma = re.search(r"\bUTMALDG", code)
    copies = "tma" if tma else "cp.async" if re.search(r"\bLDGSTS\b", code) else ""
    return {"matrix": matrix, "load_bits": width, "copies": copies}


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
