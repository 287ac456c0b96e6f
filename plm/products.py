"""Which library multiplies fp32 matrices on this CPU.

torch gives fp32 products to MKL, which takes its AVX2 code on CPUs that are not Intel's, and with
AVX-512 there that is half the rate or less. oneDNN, which torch brings along for bf16, has AVX-512
code for all of them, of the same precision. torch has no setting for this (2.13).
"""

import platform
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Below, the way through Python costs more than is won; so does a product that is hardly one.
SMALLEST = 2**21
NARROWEST = 16

# Elements of a product that waits to be added to something. A larger one is made in parts, which
# do not come from the system anew each time (plm/memory.py), each of enough rows for the other
# operand's preparation; in one piece oneDNN takes a transposed operand faster.
LARGEST_SUMMAND, FEWEST_ROWS = 2**22, 1024

_active: list[torch.library.Library] = []
_passes: list[Any] = []


def mkl_is_slow_here() -> bool:
    """Whether torch would multiply with AVX2 instructions though the CPU has AVX-512."""
    return (
        torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.library, "get_kernel")
        and _vendor() not in ("GenuineIntel", "")
    )


def _vendor() -> str:
    if platform.system() == "Windows":
        return platform.processor().rpartition(", ")[2]
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((li.partition(":")[2].strip() for li in lines if li.startswith("vendor_id")), "")


def choose(kernels: str) -> None:
    """Take what is faster here; under kernels="reference" torch's own."""
    if kernels == "auto" and mkl_is_slow_here():
        use_onednn()
    else:
        use_torch()


def use_onednn() -> None:
    """From now on, oneDNN makes this process's large fp32 products on the CPU.

    It stands in for torch's own `mm` below autograd and torch.compile, which see the same op.
    """
    if _active:
        return
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        # That is what is meant here.
        warnings.filterwarnings("ignore", message="(?s).*Overriding a previously registered kernel")
        for name, stand_in in _STAND_INS.items():
            own = torch.library.get_kernel(f"aten::{name}", "CPU")
            library.impl(name, stand_in(own), "CPU", with_keyset=True)
    _active.append(library)


def use_torch() -> None:
    """Give the products back to torch's own choice."""
    while _active:
        _active.pop()._destroy()
    if _passes:
        import torch._inductor.config as inductor

        if inductor.post_grad_custom_post_pass is _passes.pop():
            inductor.post_grad_custom_post_pass = None


def tell_compiler() -> None:
    """Let torch.compile take over what is in use now; to be called before anything is compiled.

    It writes products into memory that it has planned, and oneDNN's only come in their own: each
    would be copied. So its graphs get an op that returns its product.
    """
    import torch._inductor.config as inductor

    if _active and not _passes:
        _passes.append(_pass())
        inductor.post_grad_custom_post_pass = _passes[0]


def in_use() -> str:
    """ "oneDNN" or "torch"."""
    return "oneDNN" if _active else "torch"


def _fits(a: Tensor, b: Tensor) -> bool:
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[0]:
        return False
    if not a.dtype == b.dtype == torch.float32 or not a.device.type == b.device.type == "cpu":
        return False
    (m, k), n = a.shape, b.shape[1]
    return min(m, k, n) >= NARROWEST and m * k * n >= SMALLEST


def _takes(to: Tensor, a: Tensor, b: Tensor) -> bool:
    return to.dtype == torch.float32 and to.shape == (a.shape[0], b.shape[1])


def _product(a: Tensor, b: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.default(a, b.t(), None, "none", [], "")


# Without a derivative: it only comes into graphs that have theirs already. Not a custom_op, which
# takes some 20 us longer a call.
_library = torch.library.Library("plm", "FRAGMENT")
_library.define("product(Tensor a, Tensor b) -> Tensor")
_library.impl("product", _product, "CPU")


@torch.library.register_fake("plm::product")
def _(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])


def _pass() -> Any:
    from torch._inductor.custom_graph_pass import CustomGraphPass

    class Products(CustomGraphPass):
        def __call__(self, graph: torch.fx.Graph) -> None:
            for node in graph.find_nodes(op="call_function", target=torch.ops.aten.mm.default):
                if _fits(*(argument.meta["val"] for argument in node.args)):
                    node.target = torch.ops.plm.product.default

        def uuid(self) -> str:
            # Part of the key of torch's cache: to be changed with what the pass does.
            return "plm.products 2"

    return Products()


def _mm(own: Any) -> Any:
    def mm(keys: Any, a: Tensor, b: Tensor) -> Tensor:
        return _product(a, b) if _fits(a, b) else own.call_boxed(keys, a, b)

    return mm


def _mm_out(own: Any) -> Any:
    def mm_out(keys: Any, a: Tensor, b: Tensor, *, out: Tensor) -> Tensor:
        if _fits(a, b) and _takes(out, a, b):
            return out.copy_(_product(a, b))
        return own.call_boxed(keys, a, b, out=out)

    return mm_out


def _addmm_(own: Any) -> Any:
    def addmm_(
        keys: Any, to: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1
    ) -> Tensor:
        if _fits(a, b) and beta == 1 and alpha != 0 and _takes(to, a, b):
            whole = to.numel() <= LARGEST_SUMMAND
            rows = len(to) if whole else max(FEWEST_ROWS, LARGEST_SUMMAND // (4 * b.shape[1]))
            for part, rows_of_a in zip(to.split(rows), a.split(rows), strict=True):
                part.add_(_product(rows_of_a, b), alpha=alpha)
            return to
        return own.call_boxed(keys, to, a, b, beta=beta, alpha=alpha)

    return addmm_


def _addmm(own: Any) -> Any:
    def addmm(
        keys: Any, to: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1
    ) -> Tensor:
        if _fits(a, b) and beta != 0 and alpha != 0 and _takes(to, a, b):
            made = _product(a, b)
            return (made if alpha == 1 else made.mul_(alpha)).add_(to, alpha=beta)
        return own.call_boxed(keys, to, a, b, beta=beta, alpha=alpha)

    return addmm


_STAND_INS = {"mm": _mm, "mm.out": _mm_out, "addmm": _addmm, "addmm_": _addmm_}
