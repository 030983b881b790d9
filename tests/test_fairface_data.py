"""FairFace's label files, whole and damaged, are read strictly."""

import warnings

import pytest

from faces import HEADER, fairface, write_labels
from nnface.datasets import fairface as data
from nnface.datasets.samples import is_chosen, split
from nnface.errors import DataError
from nnface.spec import FAIRFACE_HEADS, FAIRFACE_HEADS_4

ROW = ["train/1.jpg", "3-9", "Male", "White", "True"]


def parsed(tmp_path, *rows, header=HEADER):
    return data.parse(write_labels(tmp_path, "train", [list(row) for row in rows], header), tmp_path)


def test_the_published_layout(tmp_path):
    root = fairface(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train, val = data.read(root), data.read(root, "val")
    assert (len(train), len(val)) == (60, 24)
    assert train[4].key == "train/5" and train[4].path == root / "train/5.jpg"
    assert {head for s in train for head in s.labels} == set(FAIRFACE_HEADS)
    kept, chosen = split(train)
    assert len(kept) + len(chosen) == 60
    assert [s.key for s in chosen] == [s.key for s in train if is_chosen(s.key)]


@pytest.mark.parametrize("age", ["9-Mar", "03-Sep", "3-Sep", "Sep-03"])
def test_ages_that_a_spreadsheet_took_for_dates_are_mended_and_named(tmp_path, age):
    with pytest.warns(UserWarning, match=rf"went through a spreadsheet; mended: {age} to 3-9 \(1 times\)"):
        samples = parsed(tmp_path, [*ROW[:1], age, *ROW[2:]])
    assert samples[0].labels["age"] == FAIRFACE_HEADS["age"].index("3-9")


def test_october_and_capital_flags_are_mended(tmp_path):
    with pytest.warns(UserWarning, match=r"19-Oct to 10-19 \(2 times\), TRUE to True \(1 times\)"):
        samples = parsed(
            tmp_path,
            ["train/1.jpg", "19-Oct", "Male", "White", "TRUE"],
            ["train/2.jpg", "19-Oct", "Female", "Black", "False"],
        )
    assert [s.labels["age"] for s in samples] == [2, 2]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[*ROW[:1], "9-Apr", *ROW[2:]]], r"line 2: age is '9-Apr', which FairFace does not have; it has 0-2, 3-9"),
        ([[*ROW[:2], "male", *ROW[3:]]], r"line 2: gender is 'male'"),
        ([ROW, ["train/2.jpg", "3-9", "Male", "Latino", "True"]], r"line 3: race is 'Latino'"),
        ([[*ROW[:4], "perhaps"]], r"line 2: service_test is 'perhaps', neither True nor False"),
        ([ROW, ROW], r"line 3 names train/1.jpg again, which line 2 has already"),
        ([["../1.jpg", *ROW[1:]]], r"line 2: the file name '../1.jpg' leads out of the data set"),
        ([["/etc/passwd", *ROW[1:]]], r"leads out of the data set"),
        ([ROW[:4]], r"line 2 has 4 fields, not 5"),
    ],
)
def test_what_cannot_be_right_is_named(tmp_path, rows, words):
    with pytest.raises(DataError, match=words):
        parsed(tmp_path, *rows)


def test_a_file_that_is_no_label_file(tmp_path):
    with pytest.raises(DataError, match=r"its first line must name file, age, gender, race"):
        parsed(tmp_path, ["a", "b"], header=["x", "y"])
    with pytest.raises(DataError, match=r"fairface_label_val.csv is not there"):
        data.read(tmp_path, "val")


def test_missing_pictures_are_counted(tmp_path):
    root = fairface(tmp_path)
    for number in (3, 7):
        (root / f"train/{number}.jpg").unlink()
    with pytest.raises(DataError, match=r"2 of the 60 pictures of .* are not there, the first .*train/3.jpg"):
        data.read(root)


def test_the_four_races():
    root = [[*ROW[:3], race, "True"] for race in FAIRFACE_HEADS["race"]]
    joined = {"White": "White", "Black": "Black", "East Asian": "Asian", "Southeast Asian": "Asian", "Indian": "Indian"}
    sample = data.AttributeSample
    for number, row in enumerate(root):
        (found,) = data.four_races([sample(key="a", path=None, labels={"race": number, "gender": 0, "age": 1})])
        race = found.labels["race"]
        assert (FAIRFACE_HEADS_4["race"][race] if race >= 0 else None) == joined.get(row[3])
        assert found.labels["age"] == 1
