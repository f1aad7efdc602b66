"""Prompts files in the shapes people keep them in."""

import json
from pathlib import Path, PurePosixPath

import pytest

from ccray.evaluation import prompts
from ccray.interfaces import Refused
from ccray.schema import PROMPTS
from ccray.shapes import world


def written(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_parti_prompts(tmp_path: Path) -> None:
    """The header of PartiPrompts.tsv; its quotation marks belong to the prompt."""
    text = 'Prompt\tCategory\tChallenge\tNote\nbond\tAbstract\tBasic\tBiology\n"G I G" on a wall\tIllustrations\tWriting & Symbols\t\n'
    rows = prompts.read_file(written(tmp_path, "PartiPrompts.tsv", text))
    assert rows == [prompts.Prompt("1", "bond", "en", "Abstract"), prompts.Prompt("2", '"G I G" on a wall', "en", "Illustrations")]


def test_japanese_captions_without_a_language(tmp_path: Path) -> None:
    lines = [{"id": "s01", "text": "牧場のシマウマ"}, {"id": "s02", "text": "a\u2028b", "lang": "ja"}]
    path = written(tmp_path, "stair.jsonl", "\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n")
    assert prompts.read_file(path) == [prompts.Prompt("s01", "牧場のシマウマ"), prompts.Prompt("s02", "a\u2028b", "ja")]


def test_csv_and_txt(tmp_path: Path) -> None:
    rows = prompts.read_file(written(tmp_path, "p.csv", '\ufeffid,prompt,language\nx,"a dog, a cat",de\n'))
    assert rows == [prompts.Prompt("x", "a dog, a cat", "de")]
    assert [one.prompt for one in prompts.read_file(written(tmp_path, "p.txt", "a dog\n\na cat\n"))] == ["a dog", "a cat"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.jsonl", "", "holds no prompts"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt"\n', "line 2 is not JSON"),
        ("p.jsonl", '["a"]\n', "expected an object"),
        ("p.jsonl", '{"id": "1", "words": "a"}\n', "row 1 has no prompt: expected a column prompt or text or caption, found id, words"),
        ("p.tsv", "id\tprompt\n1\ta\n1\tb\n", "the id '1' twice"),
        ("p.xlsx", "x", "ends in '.xlsx'"),
    ],
)
def test_refusals(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(Refused, match=message):
        prompts.read_file(written(tmp_path, name, text))


def test_refuses_what_is_no_text_file(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot be read"):
        prompts.read_file(tmp_path)
    (tmp_path / "p.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Refused, match="not UTF-8"):
        prompts.read_file(tmp_path / "p.jsonl")


def test_held_out_prompts_are_read_back() -> None:
    rows = prompts.held_out(0, 40)
    assert len({one.id for one in rows}) == 40
    for index, one in enumerate(rows):
        scene = world.parse(one.prompt)
        assert scene is not None
        assert world.scenes_match(scene, world.held_out_scene(0, index))
        assert one.category == ("one thing", "two things")[len(scene.things) - 1]


def test_rows_and_their_noise() -> None:
    rows = prompts.held_out(0, 5)
    made = prompts.table(rows, seed=3, rows_per_shard=2)
    assert made.schema == PROMPTS
    assert made.column("shard").to_pylist() == [0, 0, 1, 1, 2]
    again = prompts.table(rows[3:], seed=3, rows_per_shard=2)
    assert again.column("seed").to_pylist() == made.column("seed").to_pylist()[3:]
    assert prompts.table(rows, seed=4, rows_per_shard=2).column("seed").to_pylist() != made.column("seed").to_pylist()
    assert len(set(made.column("key").to_pylist())) == 5


def test_file_names_stay_in_their_folder_and_differ() -> None:
    ids = ["a", "A/b", "a/b", "a%2Fb", "../../etc/passwd", "..", ".", ".hidden", "牧場", "x" * 500, "x" * 501, "a b", "a\\b", "C:x", "a\0b", "-"]
    names = [prompts.file_name(one) for one in ids]
    assert len(set(names)) == len(ids)
    for name in names:
        assert PurePosixPath(name).name == name
        assert not name.startswith(".")
        assert len(name.encode()) < 200
        assert name.isascii()
        assert name.isprintable()
    assert prompts.file_name("0-17") == "0-17.png"
