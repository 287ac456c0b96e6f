import logging

import pytest
import torch

from plm.errors import ConfigError
from plm.kernels import devices, dispatch
from plm.kernels.dispatch import use_triton

X = {"x": torch.randn(4, 6)}


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch):
    """Tensors of this process count as an H100's."""
    monkeypatch.setattr(dispatch, "interpreting", lambda: True)
    monkeypatch.setattr(dispatch, "_said", set())


def test_a_cpu_takes_torch_and_says_nothing(caplog: pytest.LogCaptureFixture):
    assert not use_triton("op", "auto", X)
    assert not use_triton("op", "torch", X)
    assert caplog.records == []


def test_insisting_on_a_cpu_without_the_interpreter(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dispatch, "interpreting", lambda: False)
    with pytest.raises(ConfigError, match=r"op: x is on cpu; the Triton kernel takes GPU tensors"):
        use_triton("op", "triton", X)


def test_insisting_names_the_argument(a_gpu):
    assert use_triton("op", "triton", X)
    with pytest.raises(ConfigError, match=r"op: x is not contiguous \(strides \(1, 6\)\)"):
        use_triton("op", "triton", {"x": X["x"].t()})
    with pytest.raises(ConfigError, match="op: y is on meta, x on cpu"):
        use_triton("op", "triton", {**X, "y": torch.empty(3, device="meta")})
    with pytest.raises(ConfigError, match="op: q has 48 columns"):
        use_triton("op", "triton", X, lambda: "q has 48 columns")
    with pytest.raises(ConfigError, match="form='fast' of op is not one of: auto, triton, torch"):
        use_triton("op", "fast", X)


def test_a_missing_or_old_triton(monkeypatch: pytest.MonkeyPatch):
    import sys

    import triton

    problem = dispatch._triton.__wrapped__
    assert problem() is None
    monkeypatch.setattr(triton, "__version__", "3.5.1")
    assert problem() == "triton 3.5.1 is older than 3.6; pip install -U triton"
    monkeypatch.setitem(sys.modules, "triton", None)
    assert problem().startswith("triton cannot be imported")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert problem() == "there is no Triton for this system"


@pytest.mark.parametrize(
    ("arch", "problem"),
    [
        ("sm_75", "this GPU is sm_75, and sm_80 or later is needed (bf16)"),
        ("gfx906", "there are no tiles for gfx906"),
        ("sm_86", None),
        ("sm_90", None),
    ],
)
def test_a_gpu_that_is_too_old(arch: str, problem: str | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dispatch, "architecture", lambda index: arch)
    assert dispatch._gpu.__wrapped__(0) == problem


class OnGpu(torch.Tensor):
    """A tensor that says it is on a GPU."""

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", 0)


def test_auto_on_a_gpu(monkeypatch, caplog: pytest.LogCaptureFixture, tmp_path):
    monkeypatch.setattr(dispatch, "interpreting", lambda: False)
    monkeypatch.setattr(dispatch, "_said", set())
    monkeypatch.setattr(dispatch, "_gpu", lambda index: None)
    x = {"x": torch.randn(3).as_subclass(OnGpu)}
    monkeypatch.setattr(devices, "_verdicts", dict)
    assert use_triton("op", "auto", x)
    verdicts = {"Card": {"op": {"off": True}, "other": {"off": False}}}
    monkeypatch.setattr(devices, "_verdicts", lambda: verdicts)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Card")
    assert not use_triton("op", "auto", x)
    assert use_triton("op", "triton", x)
    assert use_triton("other", "auto", x)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert not use_triton("other", "auto", x, lambda: "x is odd")
    assert [r.getMessage() for r in caplog.records] == ["other: x is odd; plain torch runs instead"]


def test_the_record_of_a_machine(monkeypatch: pytest.MonkeyPatch, tmp_path):
    read = devices._verdicts.__wrapped__
    monkeypatch.setenv("PLM_KERNELS", str(tmp_path / "kernels.json"))
    assert read() == {}
    (tmp_path / "kernels.json").write_text('{"Card": {"op": {"off": true}}}')
    assert read() == {"Card": {"op": {"off": True}}}
    (tmp_path / "kernels.json").write_text("{")
    assert read() == {}
    monkeypatch.delenv("PLM_KERNELS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert devices.record() == tmp_path / "plm" / "kernels.json"


@pytest.mark.parametrize(
    ("kernels", "device", "interpreted", "gpu", "says"),
    [
        ("reference", "cuda", False, None, "plain torch (reference)"),
        ("auto", "cpu", False, None, "torch's, chosen for a CPU; chunked loss"),
        ("auto", "cuda", False, None, "Triton"),
        ("auto", "cuda", False, "too old", "plain torch, chunked loss: too old"),
        ("triton", "cuda", False, None, "Triton"),
        ("triton", "cpu", True, None, "Triton in its interpreter (TRITON_INTERPRET): for tests"),
    ],
)
def test_what_runs_in_words(kernels, device, interpreted, gpu, says: str, monkeypatch):
    monkeypatch.setattr(dispatch, "interpreting", lambda: interpreted)
    monkeypatch.setattr(dispatch, "_gpu", lambda index: gpu)
    assert dispatch.which(kernels, device) == says


@pytest.mark.parametrize(
    ("device", "gpu", "says"),
    [
        ("cpu", None, "the Triton kernels need a GPU, and this run is on the CPU"),
        ("cuda", "this GPU is sm_75", "this GPU is sm_75"),
    ],
)
def test_insisting_for_a_whole_model(device: str, gpu: str | None, says: str, monkeypatch):
    monkeypatch.setattr(dispatch, "interpreting", lambda: False)
    monkeypatch.setattr(dispatch, "_gpu", lambda index: gpu)
    with pytest.raises(ConfigError, match=f"kernels=triton: {says}; kernels=auto takes plain"):
        dispatch.which("triton", device)


def test_triton_needs_a_compiler_and_headers(monkeypatch: pytest.MonkeyPatch, tmp_path):
    problem = dispatch._no_compiler
    monkeypatch.setattr(dispatch.shutil, "which", lambda name: name if name == "clang" else None)
    monkeypatch.setattr(dispatch.sysconfig, "get_path", lambda name: str(tmp_path))
    assert problem().endswith(f"{tmp_path} has no Python.h")
    (tmp_path / "Python.h").touch()
    assert problem() is None
    monkeypatch.setattr(dispatch.shutil, "which", lambda name: None)
    assert problem() == "triton needs a C compiler to start kernels; install gcc"
    monkeypatch.setattr(dispatch, "architecture", lambda index: "sm_90")
    assert dispatch._gpu.__wrapped__(0) == problem()


def test_the_interpreter_as_it_is_gets_no_bf16(a_gpu):
    with pytest.raises(ConfigError, match="op: x is bf16, which Triton's interpreter calculates"):
        use_triton("op", "triton", {"x": torch.ones(3, dtype=torch.bfloat16)})


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(devices.Path, "home", lambda: tmp_path)
    assert devices.user_cache() == tmp_path / ".cache"

    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(devices.Path, "home", nobody)
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
    assert devices.user_cache() == tmp_path
