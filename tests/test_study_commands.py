"""``rwkvedit study`` and ``/study``: words in, documents and files out."""

import json

import pytest

from rwkvedit.cli import main
from rwkvedit.study import STUDIES


def run(capsys, *argv):
    code = main(["study", *argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_list_names_every_study(capsys):
    code, out, _ = run(capsys, "list", "--json")
    assert code == 0
    assert [s["study"] for s in json.loads(out)["studies"]] == list(STUDIES)
    assert "layer-sweep" in run(capsys, "list")[1]


def test_json_is_one_document_with_meta(capsys):
    code, out, err = run(capsys, "norms", "--worlds", "2", "--seed", "3", "--json")
    document = json.loads(out)
    assert code == 0 and err == ""
    assert {"study", "question", "finding", "columns", "rows", "tables", "plots", "settings",
            "meta"} <= set(document)
    assert document["meta"]["command"] == "rwkvedit study norms --worlds 2 --seed 3"


def test_the_table_the_finding_and_the_command_are_shown(capsys):
    code, out, _ = run(capsys, "rank", "--worlds", "2")
    assert code == 0
    assert "The first direction holds" in out and "rank-k edits" in out
    assert "rwkvedit study rank --worlds 2 --seed 0" in out and "seed 0" in out


def test_out_writes_json_pictures_and_a_page(capsys, tmp_path):
    folder = tmp_path / "made" / "here"
    code, _, err = run(capsys, "remove-add", "--worlds", "2", "--out", str(folder))
    assert code == 0 and "wrote" in err
    assert {p.name for p in folder.iterdir()} == {
        "remove-add.json", "remove-add-flips.png", "remove-add-effect.png", "index.html"}


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["nothing"], 2, "no study called nothing; there are layer-sweep,"),
        (["all"], 2, "say where with --out DIR"),
        (["norms", "--worlds", "0"], 2, "--worlds takes a number from 2 on, not 0"),
        (["norms", "--model", "nowhere.pth"], 3, "no model 'nowhere.pth'"),
        (["probes", "--a", "x"], 2, "--a needs --b"),
    ],
)
def test_mistakes_are_one_line(capsys, argv, code, said):
    got, out, err = run(capsys, *argv)
    assert (got, out) == (code, "")
    assert said in err and err.count("\n") == 1


def test_a_folder_that_cannot_be_made_is_one_line(capsys, tmp_path):
    (tmp_path / "file").write_text("x")
    code, _, err = run(capsys, "norms", "--worlds", "2", "--out", str(tmp_path / "file" / "in"))
    assert code == 1 and "cannot make the folder" in err and err.count("\n") == 1


def test_the_chat_studies_its_model_and_leaves_the_conversation_alone(shell):
    shell.execute("Bob lives in Austin.")
    state, tokens = shell.session.state.clone(), shell.session.place.tokens
    result = shell.execute("/study rank --worlds 2")
    assert result.kind == "result" and result.data["study"] == "rank"
    assert result.data["rows"] and "first direction" in result.data["finding"]
    assert shell.session.state.equal(state) and shell.session.place.tokens == tokens


def test_the_chat_lists_studies_and_explains_mistakes(shell):
    assert shell.execute("/study").data["studies"] == list(STUDIES)
    for line, said in (("/study nothing", "no study called nothing"),
                       ("/study all", "--out DIR"), ("/study norms --worlds x", "whole number")):
        result = shell.execute(line)
        assert result.kind == "error" and said in result.data["message"]


def test_the_chat_writes_a_page_where_asked(shell, tmp_path):
    result = shell.execute(f"/study remove-add --worlds 2 --out {tmp_path}")
    assert (tmp_path / "index.html").exists() and "index.html" in result.notices[0]


def test_a_page_shows_the_folders_other_studies_of_the_same_model(capsys, tmp_path):
    for name in ("norms", "rank"):
        assert run(capsys, name, "--worlds", "2", "--out", str(tmp_path))[0] == 0
    (tmp_path / "heads.json").write_text("not a study")
    assert run(capsys, "norms", "--worlds", "2", "--out", str(tmp_path))[0] == 0
    page = (tmp_path / "index.html").read_text("utf-8")
    assert 'id="norms"' in page and 'id="rank"' in page and 'id="heads"' not in page
