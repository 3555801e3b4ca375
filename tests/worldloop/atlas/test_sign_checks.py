import pytest

from worldloop.atlas.csv_tables import DATA, read_rows
from worldloop.atlas.sign_checks import SOURCE_FORMS, off_script, text_problems

SCRIPTS = {row["tag"]: row["script"] for row in read_rows(DATA / "languages.csv")}


def test_every_text_of_the_atlas_could_be_a_sign_and_has_a_source():
    for row in read_rows(DATA / "signs.csv"):
        assert list(text_problems(row["text"], SCRIPTS[row["language"]], "sign")) == []
        assert SOURCE_FORMS.fullmatch(row["source"])


def test_marks_and_shared_signs_belong_to_every_script():
    assert off_script("ไม่มี - 3", "Thai") == ""
    assert off_script("ไม่มี x", "Thai") == "x"


def test_simplified_letters_are_not_traditional_ones():
    assert off_script("图书馆", "Hans") == ""
    assert off_script("图书馆", "Hant") == "图书馆"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1 to 48 letters"),
        ("Zoo ", "1 to 48 letters"),
        ("Zoo  park", "1 to 48 letters"),
        ("Z" * 49, "1 to 48 letters"),
        ("Zoo (grounds)", "'()'"),
        ("Zoo / park", "'/'"),
        ("Лев", "is not of script Latn"),
    ],
)
def test_a_text_that_fits_no_sign_is_named(text, message):
    problems = list(text_problems(text, "Latn", "sign"))
    assert any(message in problem for problem in problems), problems


@pytest.mark.parametrize("source", ["curated", "cldr", "cldr:", "guess", "english:en"])
def test_a_source_names_its_cell(source):
    assert not SOURCE_FORMS.fullmatch(source)
