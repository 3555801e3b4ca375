import json

import pytest

from worldloop.atlas.bake_words import Cells, alternatives, read_cells, sign_case, sign_rows
from worldloop.atlas.csv_tables import DATA, read_rows
from worldloop.atlas.records import is_english
from worldloop.errors import MalformedRecordError

SIGNS = read_rows(DATA / "signs.csv")
CURATED = read_rows(DATA / "inputs/curated_signs.csv")
WORDS = read_rows(DATA / "inputs/sign_words.csv")
CELLS = Cells(
    {
        "osm:tourism/zoo": "zoo / wildlife (park)",
        "cldr:🚭": "ban: smoke",
        "osm:entrance": "in / out",
    },
    {"cldr:🚭": ("no smoke",)},
)


def texts(tag, cells=CELLS):
    return {row["word"]: row for row in sign_rows(tag, cells)}


def plan(monkeypatch, **rows):
    """Let the bake read other rows than the committed ones of some input files."""
    read = read_rows
    monkeypatch.setattr(
        "worldloop.atlas.bake_words.read_rows", lambda path: rows.get(path.stem, read(path))
    )


def test_every_text_names_its_cell_or_page():
    forms = ("cldr:", "osm:", "page:")
    own = {row["language"] for row in SIGNS if row["source"] == "english"}
    assert all(row["source"].startswith(forms) for row in SIGNS if row["source"] != "english")
    assert own == {row["language"] for row in SIGNS if is_english(row["language"])}


def test_curated_words_win_and_empty_ones_bar_the_packages():
    baked = {(row["language"], row["word"]): row["text"] for row in SIGNS}
    english = {row["word"]: sign_case(row["english"]) for row in WORDS}
    for row in CURATED:  # English is never without a text
        text = row["text"] or (english[row["word"]] if is_english(row["language"]) else "")
        assert baked.get((row["language"], row["word"]), "") == text


def test_every_wanted_language_has_a_row_even_where_no_package_has_its_words():
    wanted = [row["tag"] for row in read_rows(DATA / "inputs/languages.csv")]
    assert [row["tag"] for row in read_rows(DATA / "languages.csv")] == wanted
    cities = read_rows(DATA / "cities.csv")
    assert {tag for city in cities for tag in city["languages"].split(";")} <= set(wanted)


def test_words_are_keys_and_have_keys_of_cells():
    words = [row["word"] for row in WORDS]
    assert len(set(words)) == len(words)
    for row in WORDS:
        assert row["word"].isidentifier()
        assert all(key.startswith(("cldr:", "osm:")) for key in row["keys"].split())


def test_labels_of_editors_become_words_of_signs():
    assert alternatives("Museo (edificio) / Galería, otra") == ["Museo", "Galería", "otra"]
    assert sign_case("ქართული") == "ქართული"  # its capitals are another alphabet
    assert sign_case("ijs", "nl") == "IJs"
    assert sign_case("giriş", "tr") == "Giriş"
    strips = [{"where": "from", "strip": " ou "}, {"where": "end", "strip": " público"}]
    assert sign_case("mercado público ou feira", "pt", strips) == "Mercado"


def test_the_first_alternative_stands_unless_the_key_names_another():
    assert texts("tlh")["zoo"]["text"] == "Zoo"
    assert texts("tlh")["entrance"]["text"] == "In"
    assert texts("tlh")["exit"] == {
        "language": "tlh",
        "word": "exit",
        "text": "Out",
        "source": "osm:entrance#1",
    }


def test_a_language_without_a_word_has_no_row_but_english_has(monkeypatch):
    plan(monkeypatch, curated_signs=[])
    assert "hospital" not in texts("tlh")
    assert texts("en")["science_centre"]["source"] == "english"


def test_a_strip_list_takes_the_word_sign_off(monkeypatch):
    plan(monkeypatch, sign_strips=[{"language": "tlh", "where": "start", "strip": "ban: "}])
    assert texts("tlh")["no_smoking"]["text"] == "Smoke"


@pytest.mark.parametrize(
    ("text", "source", "message"),
    [
        ("Do not smoke", "cldr:🚭", "Cite the cell that has it"),
        ("No smoke", "hearsay", "Cite one, or drop the row"),
    ],
)
def test_a_curated_text_that_its_cell_does_not_hold_is_refused(monkeypatch, text, source, message):
    row = {"language": "tlh", "word": "no_smoking", "text": text, "source": source}
    plan(monkeypatch, curated_signs=[row])
    with pytest.raises(MalformedRecordError, match=message):
        texts("tlh")


def test_a_language_of_a_place_has_the_curated_words_of_its_like_and_its_own_first(monkeypatch):
    rows = [
        {"language": "tlh", "word": "zoo", "text": "Wildlife", "source": "osm:tourism/zoo"},
        {"language": "tlh", "word": "no_smoking", "text": "", "source": ""},
        {"language": "tlh-QO", "word": "no_smoking", "text": "No smoke", "source": "cldr:🚭"},
    ]
    cells = Cells({**CELLS.labels, "osm:tourism/zoo": "zoo / wildlife"}, CELLS.synonyms)
    plan(monkeypatch, curated_signs=rows)
    found = {row["word"]: row["text"] for row in sign_rows("tlh-QO", cells, like="tlh")}
    assert (found["zoo"], found["no_smoking"]) == ("Wildlife", "No smoke")
    assert {row["word"]: row["text"] for row in sign_rows("tlh-QO", cells)}["zoo"] == "Zoo"


def test_of_several_locales_the_first_that_has_a_cell_wins(tmp_path):
    said = {
        "en": {"🛗": {"tts": ["elevator"]}, "🚇": {"default": ["subway"], "tts": ["metro"]}},
        "en-001": {"🛗": {"tts": ["lift"]}},
        "en-GB": {"🚇": {"default": ["underground"]}},
    }
    for locale, entries in said.items():
        path = tmp_path / "cldr-annotations-full/annotations" / locale / "annotations.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"annotations": {"annotations": entries}}), encoding="utf-8")
    for locale, name in (("nb", ""), ("no", "utgang")):
        path = tmp_path / "@openstreetmap/id-tagging-schema/dist/translations" / f"{locale}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        presets = {"presets": {"entrance": {"name": name}}}
        path.write_text(json.dumps({locale: {"presets": presets}}), encoding="utf-8")
    cells = read_cells(tmp_path, {"cldr_locale": "en-GB en-001", "osm_locale": "nb no"})
    assert (cells.label("cldr:🛗"), cells.label("cldr:🚇")) == ("lift", "metro")
    assert cells.hold("cldr:🚇", "Underground")
    assert cells.hold("cldr:🚇", "Subway")
    assert cells.label("osm:entrance") == "utgang"


def test_a_curated_text_may_be_a_synonym_of_its_cell(monkeypatch):
    row = {"language": "tlh", "word": "no_smoking", "text": "No smoke", "source": "cldr:🚭"}
    plan(monkeypatch, curated_signs=[row])
    assert texts("tlh")["no_smoking"]["text"] == "No smoke"
