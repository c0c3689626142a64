import re

import pytest

from fttune.data.tables import csv_samples
from fttune.errors import DataError


@pytest.fixture
def table(tmp_path, write_image):
    """Write a CSV file beside the images a.png, b.png and c.png."""
    for seed, name in enumerate("abc"):
        write_image(tmp_path / "deep" / f"{name}.png", seed)

    def write(text: str, encoding: str = "utf-8"):
        file = tmp_path / "deep" / "table.csv"
        file.write_text(text, encoding=encoding)
        return file

    return write


def test_paths_are_relative_to_the_table_and_values_stay_text(table):
    file = table("path,label\na.png,007\n./b.png,NA\n")
    samples = csv_samples(file, group_by=None).samples
    assert [(s.name, s.label, s.split, s.group) for s in samples] == [
        ("a.png", "007", None, None),
        ("b.png", "NA", None, None),
    ]
    assert [s.image for s in samples] == [file.parent / "a.png", file.parent / "b.png"]


def test_split_and_group_columns_are_honoured_in_any_order_with_a_byte_order_mark(table):
    file = table("group,split,label,path\ng1,train,x,a.png\ng2,test,y,b.png\n", "utf-8-sig")
    samples = csv_samples(file, group_by=None).samples
    assert [(s.label, s.split, s.group) for s in samples] == [("x", "train", "g1"), ("y", "test", "g2")]


def test_group_by_names_another_column(table):
    file = table("path,label,patient,group\na.png,x,p1,g\nb.png,y,p2,g\n")
    assert [s.group for s in csv_samples(file, group_by="patient").samples] == ["p1", "p2"]


def test_missing_columns_are_named_with_the_near_ones(table):
    file = table("path,lable\na.png,x\n")
    with pytest.raises(
        DataError, match=r"has the columns path, lable, but lacks label; add them; did you mean 'lable'"
    ):
        csv_samples(file, group_by=None)
    with pytest.raises(DataError, match=r"but lacks label, patient"):
        csv_samples(file, group_by="patient")


def test_every_broken_row_is_named_at_once(table):
    file = table("path,label,split\na.png,,train\n,x,train\nb.png,x,dev\nno.png,x,val\na.png,x,test\n/dev/null,x,\n")
    with pytest.raises(DataError) as error:
        csv_samples(file, group_by=None)
    assert str(error.value).splitlines() == [
        f"{file}: 7 rows cannot be used; correct or remove them",
        "  line 3: path is empty",
        "  line 2: label is empty",
        "  line 7: split is empty",
        "  line 4: split is 'dev', but must be train, val or test",
        f"  line 5: path no.png is no file in {file.parent}",
        "  line 6: path a.png stands twice",
        f"  line 7: path /dev/null must be relative and without .., since it lies below {file.parent}",
    ]


def test_a_long_list_of_broken_rows_is_cut(table):
    file = table("path,label\n" + "".join(f"{i}.png,x\n" for i in range(30)))
    with pytest.raises(DataError) as error:
        csv_samples(file, group_by=None)
    assert len(str(error.value).splitlines()) == 22
    assert str(error.value).endswith("\n  and 10 more")


@pytest.mark.parametrize("text", ["", "path,label\na.png,x\nb.png,y,z,w\n"])
def test_what_is_no_csv_is_refused(table, text):
    with pytest.raises(DataError, match=r"cannot be read as CSV \(.*\); it must be UTF-8"):
        csv_samples(table(text), group_by=None)


def test_text_in_another_encoding_is_refused(table):
    with pytest.raises(DataError, match="must be UTF-8"):
        csv_samples(table("path,label\na.png,Kätzchen\n", "latin-1"), group_by=None)


def test_rows_longer_than_the_header_do_not_shift_the_columns(table):
    with pytest.raises(DataError, match="more values than its header has columns; name every column"):
        csv_samples(table("path,label\na.png,x,1\nb.png,y,1\n"), group_by=None)


def test_a_missing_table_and_a_folder_are_refused_with_the_remedy(tmp_path):
    with pytest.raises(DataError, match=r"data\.path is .*no\.csv, but there is no such file"):
        csv_samples(tmp_path / "no.csv", group_by=None)
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}, but source csv needs a file; for a folder use")):
        csv_samples(tmp_path, group_by=None)
