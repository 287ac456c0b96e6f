"""scripts/export.py: each format from a run, a checkpoint and a folder; a line for each mistake."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from plm import checkpoint, config
from plm.data import tokenizer as bpe
from plm.handoff import TOKENIZER
from plm.pretrained import load
from scripts.export import main
from tests.formats.foreign import make
from tests.model.common import ROOT, TINY, compose, tiny

SIZES = ("scale.vocab_size=300", "scale.max_position_embeddings=64")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
THIRD = '''"""A format of a user's own."""

def names(model, tokenizer, target, *, about, greeting):
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(f"{greeting} {about.name} {sum(1 for _ in model.parameters())}")
    return target
'''


def save(run: Path, tokens: int, model: torch.nn.Module) -> Path:
    """A checkpoint as a run writes it, as far as an export reads it."""
    tokenizer = bpe.train(["some text\n"] * 3, vocab_size=290, special_tokens=SPECIAL)

    def write(folder: Path) -> None:
        save_file(model.state_dict(), folder / "model.safetensors")
        bpe.save(tokenizer, folder / "tokenizer.json")

    meta = {
        "stage": "pretrain",
        "tokens_seen": tokens,
        "transforms": [],
        "rope_theta": 777.0,
        "model": compose(*TINY, *SIZES)["model"],
        "end_of_text": SPECIAL[0],
    }
    return checkpoint.save(run / "checkpoints", tokens, meta, write)


def finish(run: Path) -> None:
    summary = {"stage": "pretrain", "tokens": 2048, "steps": 64, "val_after": {"x": {"loss": 1.5}}}
    (run / "summary.json").write_text(json.dumps(summary))
    (run / "status.json").write_text(json.dumps({"status": "done"}))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run with two checkpoints, in the second of which every weight is doubled."""
    folder = tmp_path / "runs" / "small"
    model = tiny(*SIZES, dtype=torch.float32)
    save(folder, 1024, model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    save(folder, 2048, model)
    (folder / "config.yaml").write_text("seed: 0\n")
    finish(folder)
    return folder


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of the user's own with a format; the YAML that names it."""
    (tmp_path / "theirlab").mkdir()
    (tmp_path / "theirlab" / "__init__.py").write_text("")
    (tmp_path / "theirlab" / "names.py").write_text(THIRD)
    (tmp_path / "names.yaml").write_text("_target_: theirlab.names.names\ngreeting: hello\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(config, "_TRUSTED", ["plm"])
    return tmp_path / "names.yaml"


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line on stderr of a command that must end with exit code 2."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1
    return said.err


def test_a_run_as_a_hugging_face_folder(run: Path, capsys: pytest.CaptureFixture[str]):
    assert main([f"run={run}", "to=hf"]) == 0
    out, folder = capsys.readouterr().out, run / "export" / "hf"
    for part in (
        f"from        {run}/checkpoints/tokens-000000000002048",
        f"written     {folder}\n",
    ):
        assert part in out
    parameters = sum(p.numel() for p in load(run).model.parameters())
    assert f"parameters  {parameters:,}\n" in out and "types       float32\n" in out
    assert "MB in 8 files" in out and "trust_remote_code=True" in out and "note" not in out
    there, here = load(run), load(folder)
    assert here.model.layers[0].self_attn.rope_theta == 777.0
    for name, value in there.model.state_dict().items():
        assert torch.equal(here.model.state_dict()[name], value)
    card = (folder / "README.md").read_text()
    assert "# small\n" in card and "| x | – | 1.500 | – |" in card


def test_an_older_checkpoint_has_no_figures_of_the_run_s_end(
    run: Path, capsys: pytest.CaptureFixture[str]
):
    first = run / "checkpoints" / "tokens-000000000001024"
    assert main([f"run={first}", "to=hf", "dtype=bfloat16", "name=early", "shard_gb=0.00001"]) == 0
    assert "note        not the weights that a whole run ended with" in capsys.readouterr().out
    folder = run / "export" / "hf"
    card = (folder / "README.md").read_text()
    assert "# early\n" in card and "## Results" not in card
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) > 1
    weights = {name: value for file in files for name, value in load_file(file).items()}
    expected = load_file(first / "model.safetensors")["norm.weight"].bfloat16()
    assert torch.equal(weights["model.norm.weight"], expected)


def test_averaged_weights(run: Path, capsys: pytest.CaptureFixture[str]):
    assert "average.safetensors" in refused(capsys, f"run={run}", "to=hf", "weights=average")
    first, last = (run / "checkpoints" / f"tokens-{n:015d}" for n in (1024, 2048))
    shutil.copyfile(first / "model.safetensors", last / "average.safetensors")
    assert main([f"run={run}", "to=hf", "weights=average"]) == 0
    expected = load_file(first / "model.safetensors")["norm.weight"]
    found = load_file(run / "export" / "hf" / "model.safetensors")["model.norm.weight"]
    assert torch.equal(found, expected)
    assert "## Results" not in (run / "export" / "hf" / "README.md").read_text()
    said = refused(capsys, f"run={run}/export/hf", "to=hf", f"out={run}/x", "weights=average")
    assert "is a Hugging Face folder, with one set only" in said


def test_types_of_gguf(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([f"run={run}", "to=gguf"]) == 0
    assert f"written     {run}/export/gguf/small-F16.gguf" in capsys.readouterr().out
    arguments = [f"run={run}", "to=gguf", "type=[F32,BF16]", "name=tiny"]
    assert main([*arguments, f"out={tmp_path}/many"]) == 0
    out = capsys.readouterr().out
    assert {p.name for p in (tmp_path / "many").iterdir()} == {"tiny-F32.gguf", "tiny-BF16.gguf"}
    assert "types       F32\n" in out and "-no-cnv -fa off" in out
    assert main([*arguments[:2], "type=F32", f"out={tmp_path}/one.gguf"]) == 0
    assert (tmp_path / "one.gguf").read_bytes()[:4] == b"GGUF"
    said = refused(capsys, *arguments, f"out={tmp_path}/two.gguf")
    assert "is one file for 2 types; name a folder" in said


def test_all_types_or_none(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    said = refused(capsys, f"run={run}", "to=gguf", "type=[F32,F17]", f"out={tmp_path}/many")
    assert "F17 is no type of GGUF file; known: F32, F16" in said
    assert not list((tmp_path / "many").iterdir())


def test_a_folder_in_and_out_again(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([f"run={run}", "to=hf", f"out={tmp_path}/first"]) == 0
    said = refused(capsys, f"run={tmp_path}/first", "to=gguf")
    assert "out=… is missing" in said
    assert main([f"run={tmp_path}/first", "to=hf", f"out={tmp_path}/second"]) == 0
    first, second = tmp_path / "first", tmp_path / "second"
    same = {p.name for p in first.iterdir()} - {"README.md"}
    assert same == {p.name for p in second.iterdir()} - {"README.md"}
    for name in same:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    assert "Nothing is known here of its training" in (second / "README.md").read_text()


def test_a_folder_of_somebody_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    peer, hf, gguf = tmp_path / "peer", tmp_path / "hf", tmp_path / "m.gguf"
    make("smollm2", peer, vocab_size=300)
    bpe.save(bpe.train(["a text"] * 2, vocab_size=280, special_tokens=SPECIAL), peer / TOKENIZER)
    assert main([f"run={peer}", "to=hf", f"out={hf}"]) == 0
    there, here = (load_file(path / "model.safetensors") for path in (peer, hf))
    assert there.keys() == here.keys() and all(torch.equal(here[k], there[k]) for k in there)
    assert main([f"run={peer}", "to=gguf", "type=F16", f"out={gguf}"]) == 0
    assert gguf.read_bytes()[:4] == b"GGUF"
    out = capsys.readouterr().out
    assert "trust_remote_code" not in out and "-fa off" not in out


def test_a_format_of_one_s_own(run: Path, lab: Path, capsys: pytest.CaptureFixture[str]):
    said = refused(capsys, f"run={run}", f"to={lab}")
    assert "theirlab.names.names lies outside plm" in said and "add trust=[theirlab]" in said
    assert main([f"run={run}", f"to={lab}", "trust=[theirlab]", "name=small"]) == 0
    assert f"written     {run}/export/names\n" in capsys.readouterr().out
    written = (run / "export" / "names").read_text()
    assert written == f"hello small {sum(1 for _ in load(run).model.parameters())}"
    assert "no types; dtype=… chooses" in refused(
        capsys, f"run={run}", f"to={lab}", "trust=[theirlab]", "type=F16", f"out={lab}.x"
    )
    assert "writes one file" in refused(
        capsys, f"run={run}", f"to={lab}", "trust=[theirlab]", "shard_gb=5", f"out={lab}.x"
    )


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["to=hf"], "run=<run folder, checkpoint or Hugging Face folder> is missing"),
        (["run=RUN"], "to=<format> is missing; there are gguf, hf"),
        (["run=RUN", "to=onnx"], "to=onnx is not a format that is there: gguf, hf, or"),
        (["run=RUN", "to=hf", "typ=F16"], "unknown setting 'typ=F16'; did you mean type=…?"),
        (["run=nowhere", "to=hf"], "run=nowhere does not exist"),
        (["run=RUN", "to=hf", "dtype=int8"], "dtype=int8 is not one of float32"),
        (["run=RUN", "to=hf", "type=F16"], "to=hf has no types; dtype=… chooses"),
        (["run=RUN", "to=gguf", "dtype=float16"], "to=gguf has types; type=… chooses"),
        (["run=RUN", "to=gguf", "type=F17"], "F17 is no type of GGUF file"),
        (["run=RUN", "to=gguf", "shard_gb=5"], "shard_gb=5: to=gguf writes one file"),
        (["run=RUN", "to=hf", "shard_gb=0"], "shard_gb=0 is not a positive number"),
        (["run=RUN", "to=hf", "shard_gb=nan"], "shard_gb=nan is not a positive number"),
        (["run=RUN", "to=hf", "weights=best"], "weights=best is not last or average"),
        (["run=RUN", "to=gguf", "name=a/b"], "name=a/b cannot be a part of a file's name"),
        (["run=RUN", "to=hf", "trust=[no way]"], "trust='no way' is not the name of a package"),
        (["run=RUN", "to=hf", "out=RUN"], "exists already; remove it, or give another out=…"),
        (["run=RUN/checkpoints", "to=hf", "out=x"], "is not a run folder, a checkpoint or"),
    ],
)
def test_a_mistake_is_one_line(
    run: Path, arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]
):
    before = sorted(run.rglob("*"))
    said = refused(capsys, *(argument.replace("RUN", str(run)) for argument in arguments))
    assert part in said and "init_from" not in said
    assert sorted(run.rglob("*")) == before


def test_a_run_without_a_whole_checkpoint(run: Path, capsys: pytest.CaptureFixture[str]):
    for torn in (run / "checkpoints").glob("*/model.safetensors"):
        torn.write_bytes(torn.read_bytes()[:-1])
    said = refused(capsys, f"run={run}", "to=hf")
    assert f"run={run} has no whole checkpoint" in said and "is torn" in said
    shutil.rmtree(run / "checkpoints")
    assert "has no checkpoint yet" in refused(capsys, f"run={run}", "to=hf")
    (run / "config.yaml").unlink()
    assert "out=… is missing" in refused(capsys, f"run={run}", "to=hf")
    said = refused(capsys, f"run={run}", "to=hf", f"out={run}/x")
    assert "is not a run folder, a checkpoint or a Hugging Face folder" in said


def test_a_tokenizer_larger_than_the_embedding(run: Path, capsys: pytest.CaptureFixture[str]):
    text = Path(__file__).read_text(encoding="utf-8")
    tokenizer = bpe.train([text], vocab_size=320, special_tokens=SPECIAL)
    last = run / "checkpoints" / "tokens-000000000002048"
    bpe.save(tokenizer, last / "tokenizer.json")
    meta = json.loads((last / "meta.json").read_text())
    meta["files"]["tokenizer.json"] = (last / "tokenizer.json").stat().st_size
    (last / "meta.json").write_text(json.dumps(meta))
    said = refused(capsys, f"run={run}", "to=hf")
    assert "the tokenizer has 320 ids and the embedding 300 rows" in said
    assert not (run / "export").exists()


def test_help_needs_no_torch():
    code = (
        "import sys; from scripts.export import main; code = main(['--help']); "
        "assert not {'torch', 'yaml', 'omegaconf'} & set(sys.modules); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "scripts/export.py run=runs/plm_pretrain to=hf" in done.stdout


@pytest.mark.parametrize(("asked", "has"), [("auto", None), ("none", None), ("chatml", "im_start")])
def test_a_base_model_brings_a_chat_template_when_asked(run, tmp_path, asked, has):
    out = tmp_path / "out"
    given = [f"run={run}", "to=hf", f"out={out}", f"chat_template={asked}"]
    assert main(given) == 0
    file = out / "chat_template.jinja"
    assert file.is_file() if has else not file.exists()
    assert has is None or has in file.read_text()


def test_a_chat_template_of_one_s_own_and_a_missing_one(run, tmp_path, capsys):
    own = tmp_path / "own.jinja"
    own.write_text("{{ messages }}")
    given = [f"run={run}", "to=hf", f"out={tmp_path / 'out'}"]
    assert main([*given, f"chat_template={tmp_path / 'no.jinja'}"]) == 2
    assert "no.jinja is none of auto, none, chatml" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*given, f"chat_template={own}"]) == 0
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"
