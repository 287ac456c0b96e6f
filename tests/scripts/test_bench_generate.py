import json

import pytest

from scripts import bench_generate

TINY = "scale=test threads=1 alternations=2 rows=3 prompt=4 new=6".split()


def test_all_parts_print_json(capsys, monkeypatch):
    monkeypatch.setattr(bench_generate, "GROUP", {"prompts": 2, "prompt": 9, "group": 2, "new": 3})
    monkeypatch.setattr(bench_generate, "FLOOR_STEPS", 1)
    assert bench_generate.main(TINY) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["greedy"]["same_tokens"] == 1.0
    assert found["greedy"]["peer"] == found["group"]["peer"] == "PLMForCausalLM"
    assert found["group"]["tokens_per_s_ours_over_transformers"]["rounds"] == 2
    assert found["floor"]["operators"] > 20
    assert found["flips"]["greedy"]["tokens_compared"] == 18
    assert found["conditions"]["products"] == "torch"


def test_llama_has_a_peer_of_transformers_own(capsys):
    assert bench_generate.main([*TINY, "part=greedy", "model=llama"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["greedy"]["peer"] == "LlamaForCausalLM" and found["greedy"]["same_tokens"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["alternations=1"], "alternations=1 has no spread"),
        (["rows=0"], "rows=0 is not a whole number of at least 1"),
        (["part=fast"], "part=fast is not one of greedy, group, floor, flips or all"),
        (["products=mkl"], "products=mkl is not torch or auto"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], said: str, capsys):
    assert bench_generate.main(arguments) == 2
    assert said in capsys.readouterr().err


def test_help(capsys):
    assert bench_generate.main(["--help"]) == 0
    assert "alternations=<n>" in capsys.readouterr().out
