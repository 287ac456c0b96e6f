"""The command line that prepares data: its table, its help, its one-line errors."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("prepare_data", ROOT / "scripts/prepare_data.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_book(script, tmp_path, capsys):
    book = tmp_path / "book.txt"
    book.write_text("".join(f"{i} green bottles hanging on the wall\n" for i in range(900)))
    sizes = ["vocab_size=300", "block_tokens=64", "workers=1", "ngrams=true"]
    arguments = ["recipe=text", f"path={book}", f"data_dir={tmp_path / 'data'}", *sizes]
    assert script.main(arguments) == 0
    out = capsys.readouterr().out
    assert "text    train" in out
    assert "fingerprint" in out
    assert "trigram_kneser_ney" in out


def test_help(script, capsys):
    assert script.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"    {key} " in out for key in script.DEFAULTS)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("vocab=3", "unknown setting 'vocab=3'; did you mean vocab_size=…?"),
        ("vocab_size=many", "vocab_size=many is not a whole number"),
        ("ngrams=perhaps", "ngrams=perhaps must be true or false"),
        ("recipe=nothing", "recipe=nothing: no such file, and data_recipes/ has "),
        ("recipe=text", "recipe text reads your own text"),
    ],
)
def test_one_line_and_exit_code_2(script, argument, message, capsys):
    assert script.main([argument]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_what_is_dropped_is_said_or_an_error(script, tmp_path, capsys):
    turns = (
        '{"messages": [{"role": "user", "content": "%d?"}, {"role": "assistant", "content": "%s"}]}'
    )
    rows = [turns % (i, "" if i == 7 else f"{i} bottles on the wall") for i in range(60)]
    talks = tmp_path / "talks.jsonl"
    talks.write_text("\n".join(rows) + "\n")
    arguments = ["recipe=conversations", f"path={talks}", f"data_dir={tmp_path / 'data'}"]
    arguments += ["vocab_size=300", "block_tokens=128", "workers=1"]
    assert script.main(arguments) == 0
    said = capsys.readouterr().out
    assert "dropped      conversations: 1 of 60 (" in said and "talks.jsonl" in said
    assert script.main([*arguments, "bad_rows=error"]) == 2
    assert "talks.jsonl, row 8" in capsys.readouterr().err
