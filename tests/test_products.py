"""oneDNN's fp32 products in the place of torch's: the same numbers, and back again."""

import warnings

import pytest
import torch

from plm import products


@pytest.fixture(autouse=True)
def torch_s_own():
    yield
    products.use_torch()


def layouts(m: int, k: int, n: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Operands as a projection's forward and its two gradients have them."""
    a, b = torch.randn(m, k), torch.randn(k, n)
    return [(a, b), (a, b.t().contiguous().t()), (a.t().contiguous().t(), b), (a[:, :], b[:, :])]


@pytest.mark.parametrize("size", [(130, 129, 131), (257, 64, 320), (128, 1000, 33)])
def test_products_are_fp32_s_in_every_layout(size):
    for a, b in layouts(*size):
        exact, own = a.double() @ b.double(), a @ b
        products.use_onednn()
        assert products._fits(a, b)
        made, given = a @ b, torch.empty(a.shape[0], b.shape[1])
        torch.mm(a, b, out=given)
        added = torch.ones_like(made).addmm_(a, b, alpha=-2)
        joined = torch.addmm(torch.ones_like(made), a, b, beta=3, alpha=-2)
        products.use_torch()
        # Sums of k products of about 1, each rounded to 24 bits.
        bound = 2e-6 * exact.abs().max()
        assert (made - exact).abs().max() <= bound and (own - exact).abs().max() <= bound
        assert made.is_contiguous() and torch.equal(made, given)
        assert torch.equal(added, 1 - 2 * made) and torch.equal(joined, 3 - 2 * made)


def test_a_large_sum_is_made_in_parts(monkeypatch):
    monkeypatch.setattr(products, "LARGEST_SUMMAND", 2**10)
    monkeypatch.setattr(products, "FEWEST_ROWS", 60)
    a, b = torch.randn(1000, 199).t(), torch.randn(1000, 65)
    exact = 1 + a.double() @ b.double()
    products.use_onednn()
    made = torch.ones(199, 65).addmm_(a, b)
    assert (made - exact).abs().max() <= 2e-6 * exact.abs().max()


def test_gradients_go_through_it_and_are_the_same_twice():
    a = torch.randn(256, 96, requires_grad=True)
    weight = torch.randn(128, 96, requires_grad=True)
    grad = torch.randn(256, 128)
    own = torch.autograd.grad(torch.nn.functional.linear(a, weight), (a, weight), grad)
    products.use_onednn()
    first, again = (
        torch.autograd.grad(torch.nn.functional.linear(a, weight), (a, weight), grad)
        for _ in range(2)
    )
    for x, y, z in zip(own, first, again, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-4)
        assert torch.equal(y, z)


def test_what_does_not_fit_is_left_to_torch():
    cases = [
        (torch.randn(4, 5), torch.randn(5, 6)),
        (torch.randn(2048, 8), torch.randn(8, 2048)),
        (torch.randn(200, 200).double(), torch.randn(200, 200).double()),
        (torch.randn(200, 200).bfloat16(), torch.randn(200, 200).bfloat16()),
        (torch.ones(200, 200, dtype=torch.long), torch.ones(200, 200, dtype=torch.long)),
        (torch.empty(0, 200), torch.randn(200, 200)),
    ]
    for a, b in cases:
        own = a @ b
        products.use_onednn()
        assert not products._fits(a, b) and torch.equal(a @ b, own)
        products.use_torch()
    products.use_onednn()
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        torch.mm(torch.randn(300, 200), torch.randn(300, 200))
    half = torch.zeros(200, 200)
    half.addmm_(torch.ones(200, 200), torch.ones(200, 200), beta=0)
    assert (half == 200).all()
    bias = torch.addmm(torch.ones(200), torch.ones(200, 200), torch.ones(200, 200))
    assert (bias == 201).all()


def test_it_is_put_in_and_taken_out_without_a_word():
    a, b = torch.randn(200, 200), torch.randn(200, 200)
    own = a @ b
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            products.use_onednn()
            products.use_onednn()
            assert products.in_use() == "oneDNN"
            products.use_torch()
    assert products.in_use() == "torch" and torch.equal(a @ b, own)


@pytest.mark.parametrize(
    ("vendor", "capability", "slow"),
    [
        ("AuthenticAMD", "AVX512", True),
        ("AuthenticAMD", "AVX2", False),
        ("GenuineIntel", "AVX512", False),
        ("", "AVX512", False),
    ],
)
def test_only_where_mkl_is_slow(vendor, capability, slow, monkeypatch):
    monkeypatch.setattr(products, "_vendor", lambda: vendor)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    assert products.mkl_is_slow_here() is slow
    products.choose("auto")
    assert products.in_use() == ("oneDNN" if slow else "torch")
    products.choose("reference")
    assert products.in_use() == "torch"


def test_compiled_graphs_get_an_op_that_returns_its_product():
    graph = torch.fx.Graph()
    a, b = (graph.placeholder(name) for name in "ab")
    large = graph.call_function(torch.ops.aten.mm.default, (a, b))
    small = graph.call_function(torch.ops.aten.mm.default, (large, b))
    a.meta["val"], b.meta["val"] = torch.empty(200, 200), torch.empty(200, 200)
    large.meta["val"] = torch.empty(4, 200)
    products._pass()(graph)
    assert large.target is torch.ops.plm.product.default
    assert small.target is torch.ops.aten.mm.default
    torch.library.opcheck(
        torch.ops.plm.product.default, (torch.randn(130, 129), torch.randn(129, 131)),
        test_utils=("test_schema", "test_faketensor"),
    )  # fmt: skip


def test_what_is_no_product_of_ours_is_left_to_torch():
    a, b = torch.randn(300, 200), torch.randn(200, 300)
    assert products._fits(a, b)
    assert not products._fits(a[0], b) and not products._fits(a[None], b)
    assert not products._fits(a.to("meta"), b.to("meta"))
    products.use_onednn()
    with pytest.raises(RuntimeError, match="self must be a matrix"):
        torch.mm(a[0], b)
    infinite = a.clone()
    infinite[0, 0] = float("inf")
    assert torch.ones(300, 300).addmm_(infinite, b, alpha=0).isfinite().all()
    assert torch.addmm(torch.ones(300, 300), infinite, b, alpha=0).isfinite().all()


def test_a_user_s_own_pass_stays(monkeypatch):
    import torch._inductor.config as inductor

    with inductor.patch(post_grad_custom_post_pass=print):
        products.tell_compiler()
        products.use_torch()
        assert inductor.post_grad_custom_post_pass is print
        products.use_onednn()
        products.tell_compiler()
        assert inductor.post_grad_custom_post_pass is not print
        products.use_torch()
        assert inductor.post_grad_custom_post_pass is None
