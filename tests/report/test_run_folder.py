"""Reading a run folder: what is tolerated, and what is one clear line."""

import pytest

from plm.errors import DataError
from plm.report.run_folder import Band, read_run


def _folder(tmp_path, metrics):
    (tmp_path / "metrics.csv").write_text(metrics)
    return tmp_path


def test_bands_come_from_the_summary(run_folder):
    run = read_run(run_folder)
    assert run.bands == [
        Band("stable", 0, 1_862_000),
        Band("decay", 1_862_000, 2_483_600),
        Band("constant", 2_483_600, 2_800_000),
    ]
    assert run.status == "done" and run.name == "plm_pretrain-3fa9c1"


def test_bands_come_from_the_rows_of_an_unfinished_run(tmp_path):
    text = "step,tokens,phase,loss\n1,110,stable,8\n2,120,stable,7\n3,130,decay,6\n4,140,decay,5\n"
    run = read_run(_folder(tmp_path, text))
    assert run.bands == [Band("stable", 100, 120), Band("decay", 120, 140)]
    assert run.span == (100, 140)
    assert run.status == "unfinished"


def test_rows_past_the_summary_win(run_folder):
    with (run_folder / "metrics.csv").open("a") as stream:
        cells = (run_folder / "metrics.csv").read_text().splitlines()[-1].split(",")
        cells[1] = "9000000"
        stream.write(",".join(cells) + "\n")
    assert read_run(run_folder).span[1] == 9_000_000


def test_blank_torn_and_not_finite_cells(tmp_path):
    text = "step,tokens,loss\n1,10,8\n2,20,\n3,30,nan\n4,40,7\n5,5"
    run = read_run(_folder(tmp_path, text))
    assert run.points("loss") == [(10, 8), (40, 7)]
    assert run.not_finite == {"loss": 1}
    assert run.columns["tokens"] == [10, 20, 30, 40]


def test_named_columns(tmp_path):
    text = "tokens,val/a/b/loss,val/loss,val/a/b/bpb\n10,3,4,1\n"
    run = read_run(_folder(tmp_path, text))
    assert run.named("val/", "/loss") == {"a/b": [(10, 3)]}


def test_a_run_of_one_row(tmp_path):
    low, high = read_run(_folder(tmp_path, "tokens,loss\n0,8\n")).span
    assert high > low


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ("", r"metrics\.csv holds no row: the run has not logged a step yet"),
        ("step,tokens\n", r"metrics\.csv holds no row"),
        ("step,tokens\n1", r"metrics\.csv holds no whole row"),
        ("step,loss\n1,2\n", r"metrics\.csv has no column 'tokens'"),
        ("tokens,loss\n10,8\n20,x\n", r"metrics\.csv row 3, column loss: 'x' is not a number"),
    ],
)
def test_bad_metrics(tmp_path, metrics, message):
    with pytest.raises(DataError, match=message):
        read_run(_folder(tmp_path, metrics))


def test_no_folder_and_no_metrics(tmp_path):
    with pytest.raises(DataError, match="nowhere is not a folder"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"metrics\.csv is missing"):
        read_run(tmp_path)


@pytest.mark.parametrize(("text", "message"), [("{", "is not JSON"), ("[]", "not a mapping")])
def test_bad_summary(run_folder, text, message):
    (run_folder / "summary.json").write_text(text)
    with pytest.raises(DataError, match=rf"summary\.json.*{message}"):
        read_run(run_folder)
