"""scripts/gguf_table.py: windows, losses and rows of a tiny run; a line for each mistake."""

import json
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from plm import checkpoint
from plm.config import build
from plm.data.open import open_data
from plm.formats import llama_cpp, llama_cpp_types
from plm.formats.llama_cpp_types import VARIABLE, find_library
from plm.pretrained import load
from plm.stages.evaluate import validate
from scripts import gguf_table
from tests.model.common import compose

# Widths are multiples of 32 and not of 256; scores far from those of a uniform guess.
MODEL = ("scale=test", "scale.vocab_size=300", "scale.initializer_range=0.1")
SOURCES = ("first", "second")
LONGEST = 48


def save(folder: Path, tokenizer: Path) -> None:
    """A checkpoint as a run writes it, its rotary base not the model's own."""
    model = build(compose(*MODEL)["model"])
    model.init_weights(0)

    def write(target: Path) -> None:
        save_file(model.state_dict(), target / "model.safetensors")
        (target / "tokenizer.json").write_bytes(tokenizer.read_bytes())

    meta = {
        "stage": "pretrain",
        "tokens_seen": 2048,
        "transforms": [],
        "rope_theta": 77.0,
        "model": compose(*MODEL)["model"],
        "end_of_text": "<|endoftext|>",
    }
    checkpoint.save(folder, 2048, meta, write)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two small sources, in phases of two lengths."""
    folder, sources = tmp_path_factory.mktemp("table"), {}
    for name in SOURCES:
        (folder / name).mkdir()
        for i in range(40):
            text = f"{i} {name} bottles on the wall, {i * i} in the town\n" * (2 + i % 3)
            (folder / name / f"{i}.txt").write_text(text)
        origin = {"_target_": "plm.data.sources.files.files", "path": str(folder / name)}
        split = {"by": "group", "val_share": 0.2}
        sources[name] = {"origin": origin, "licence": "none", "revision": "1", "split": split}
    recipe = {"sources": sources, "tokenizer": {"sample_bytes": 50_000}}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    data = {
        "recipe": str(folder / "tiny.yaml"), "path": None, "dir": str(folder / "data"),
        "vocab_size": 300, "block_tokens": LONGEST, "seed": 0, "workers": 1,
    }  # fmt: skip
    phase = {"tokens": 960, "mixture": {"first": 1}, "global_batch_tokens": 480}
    phase["rate"] = {"shape": "hold", "to": 1.0}
    phases = {"short": {**phase, "seq_len": 16}, "long": {**phase, "seq_len": LONGEST}}
    save(folder / "small" / "checkpoints", open_data(data).tokenizer_path)
    config = yaml.safe_dump({"data": data, "phases": phases})
    (folder / "small" / "config.yaml").write_text(config)
    return folder / "small"


class Peer:
    """In llama.cpp's place: it says what it was opened with, and figures of its own."""

    opened: list[tuple[str, int, int, str]]

    def __init__(
        self, path: Path, *, n_ctx: int, library: Any, threads: int, kv_type: str = "f32"
    ) -> None:
        assert path.is_file() and library == "some/libllama.so"
        self.opened.append((path.stem, n_ctx, threads, kv_type))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *of_error: object) -> None:
        pass

    def losses(self, rows: np.ndarray) -> tuple[float, int]:
        count = rows.shape[0] * (rows.shape[1] - 1)
        return 2.5 * count, count

    def speed(self, prompt: list[int], n: int, repeats: int) -> dict[str, float]:
        assert (len(prompt), n, repeats) == (8, 4, 1)
        turn = len(self.opened)
        return {"prefill_tokens_s": 1000.0 * turn, "decode_tokens_s": 10.0 * turn}


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> type[Peer]:
    Peer.opened = []
    monkeypatch.setattr(llama_cpp, "LlamaCpp", Peer)
    return Peer


def test_windows_are_spread_over_the_held_out_text(run: Path):
    found = gguf_table.held_out(str(run), 3)
    assert tuple(found) == SOURCES
    for rows in found.values():
        assert rows.shape == (3, LONGEST + 1) and len({tuple(row) for row in rows}) == 3
    most = gguf_table.held_out(str(run), 10_000)
    for name, rows in most.items():
        # End to end, the last token of one window being the first of the next.
        assert 3 < len(rows) < 10_000 and (rows[1:, 0] == rows[:-1, -1]).all()
        assert (found[name][0] == rows[0]).all()


def test_our_losses_are_those_of_the_run_s_own_evaluation(run: Path):
    found = load(run)
    assert found.rope_theta == 77.0
    settings = yaml.safe_load((run / "config.yaml").read_text())
    prepared = open_data(settings["data"])
    told = validate(
        found.model,
        prepared.held_out,
        prepared.token_bytes,
        seq_len=LONGEST,
        windows=3,
        micro_batch_size=2,
        isolate=False,
        device=torch.device("cpu"),
        rope_theta=found.rope_theta,
    )
    rows = gguf_table.held_out(str(run), 3)
    losses = gguf_table.our_losses(found, rows)
    # fp32 in batches of other shapes.
    assert losses == pytest.approx({name: told[name]["loss"] for name in SOURCES}, rel=1e-6)
    found.rope_theta = None
    other = gguf_table.our_losses(found, rows)
    assert all(abs(other[name] - losses[name]) > 1e-4 for name in SOURCES)


def test_the_types_take_turns_and_what_does_not_fit_is_left_out(run: Path, peer, tmp_path, capsys):
    file = tmp_path / "found.json"
    arguments = [
        f"run={run}", "types=[F32,Q8_0,Q4_K_M]", "windows=2", "prompt=8", "new=4", "repeats=3",
        "threads=5", "llama_cpp=some/libllama.so", f"json={file}",
    ]  # fmt: skip
    assert gguf_table.main(arguments) == 0
    # Losses with a cache in fp32, as torch has it; speed as llama.cpp is run.
    losses = [(kind, LONGEST + 1, 5, "f32") for kind in ("F32", "Q8_0")]
    speeds = [(kind, LONGEST + 1, 5, "f16") for kind in ("F32", "Q8_0")]
    assert peer.opened == losses + 3 * speeds
    found, shown = json.loads(file.read_text()), capsys.readouterr().out
    assert gguf_table.table(found) + "\n" == shown
    assert found["windows"] == {name: [2, LONGEST + 1] for name in SOURCES}
    assert found["parameters"] == sum(p.numel() for p in load(run).model.parameters())
    f32, q8 = found["types"]["F32"], found["types"]["Q8_0"]
    assert f32["losses"] == dict.fromkeys(SOURCES, 2.5)
    # Four bytes a weight, and 34 for 32 weights; the rest is keys and tokenizer.
    for figures, each in ((f32, 4), (q8, 34 / 32)):
        assert 0 < figures["bytes"] - each * found["parameters"] < 15_000
    assert f32["prefill_tokens_s"] == {"median": 5000.0, "least": 3000.0, "most": 7000.0}
    assert q8["decode_tokens_s"] == {"median": 60.0, "least": 40.0, "most": 80.0}
    assert list(found["left_out"]) == ["Q4_K_M"]
    assert "\nleft out: Q4_K_M: Q4_K_M needs widths that are multiples of 256, but " in shown


def test_the_lines_of_a_table():
    speed = {"median": 1234.4, "least": 1200.0, "most": 1300.6}
    figures = {"losses": {"a": 1.23456, "longer": 2.0}, "bytes": 5_406_000}
    figures |= {"prefill_tokens_s": speed, "decode_tokens_s": {**speed, "median": 9.0}}
    result = {"ours": {"a": 1.2, "longer": 2.34567}, "types": {"F32": figures}}
    assert gguf_table.table({**result, "left_out": {"Q4_0": "why"}}).splitlines() == [
        "type        MB    a       longer  prefill tok/s     decode tok/s",
        "ours, fp32        1.2000  2.3457",
        "F32         5.41  1.2346  2.0000  1234 (1200–1301)  9 (1200–1301)",
        "left out: Q4_0: why",
    ]


@pytest.mark.slow
def test_llama_cpp_has_our_losses(run: Path, tmp_path: Path, capsys, llama_cpp):
    file = tmp_path / "found.json"
    arguments = [
        f"run={run}", "types=[F32,Q4_0,Q4_K_M]", "windows=3", "prompt=8", "new=4", "repeats=2",
        "threads=1", f"llama_cpp={find_library()}", f"json={file}",
    ]  # fmt: skip
    assert gguf_table.main(arguments) == 0
    found, shown = json.loads(file.read_text()), capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines()] == "type ours, F32 Q4_0 left".split()
    ours, types = found["ours"], found["types"]
    # Only another order of fp32 sums; four bits a weight are seen.
    assert types["F32"]["losses"] == pytest.approx(ours, rel=1e-5)
    assert all(abs(types["Q4_0"]["losses"][name] - ours[name]) > 1e-4 for name in SOURCES)
    assert types["Q4_0"]["bytes"] < types["F32"]["bytes"]
    for figures in types.values():
        for what in ("prefill_tokens_s", "decode_tokens_s"):
            assert 0 < figures[what]["least"] <= figures[what]["median"] <= figures[what]["most"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "run=<run folder> is missing, for example run=runs/plm_pretrain"),
        (["run=nowhere"], "run=nowhere does not exist"),
        (["run={run}", "windows=0"], "windows=0 must be at least 1"),
        (["run={run}", "threads=0"], "threads=0 must be at least 1"),
        (["run={run}", "types=[F32,Q9]"], "types: Q9 is none of F32, F16, BF16, Q8_0, Q4_0, "),
        (["run={run}", "window=3"], "unknown setting 'window=3'; did you mean windows=…?"),
        (["run={run}", "repeats=some"], "repeats=some is not a whole number"),
        (["run={run}", "windows=1"], "llama.cpp is not there; `make llama-cpp` fetches it"),
        (["run={model}", "windows=1"], "is not a run folder"),
        (["run={run}", "windows=1", "llama_cpp=gone"], "gone does not exist; it must be a libll"),
    ],
)
def test_mistakes_are_one_line(arguments, said, run: Path, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(llama_cpp_types, "HOME", tmp_path / "none")
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "found.json"
    arguments = [a.format(run=run, model=next(run.glob("checkpoints/*"))) for a in arguments]
    assert gguf_table.main([*arguments, f"json={file}"]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith("error: ") and told.err.count("\n") == 1
    assert said in told.err and not file.exists()


def test_help(capsys):
    assert gguf_table.main(["--help"]) == 0
    assert "types=[F32,F16,BF16,Q8_0,Q4_0,Q4_K_M]" in capsys.readouterr().out
