"""The texts of the experiment behind the radii, and its distances."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import tlsh

from tests.bench import text_corpus as corpus
from tests.bench.text_radii import (
    DISTANCES,
    EDITS,
    LEAST_PAIRS,
    MOST_RADIUS,
    TABLE,
    Distances,
    corpora_of,
    curve,
    hashed,
    radius_at,
    summary,
)


def test_a_page_loses_tags_and_listings_and_falls_into_paragraphs() -> None:
    page = "<title>T</title><p>one <b>b</b>old<pre>$ ls</pre><script>x()</script><li>two &amp; more</li>"
    assert [one.strip() for one in corpus.of_page(page) if one.strip()] == ["T", "one bold", "two & more"]


def test_an_aphorism_loses_its_signature_and_keeps_its_dashes() -> None:
    fortunes = "Life -- is short.\n\t\t-- A. Sage,\n\t\t   Book\n%\nNo one signed\nthis.\n%\n"
    assert list(corpus.of_fortunes(fortunes)) == ["Life -- is short.\n", "No one signed\nthis.", ""]


def test_a_message_loses_its_markup() -> None:
    messages = "{\"@metadata\": {}, \"one\": \"See [[Help:A|the <i>help</i>]] for '''$1''' {{PLURAL:$1|page|pages}}.\"}"
    assert " ".join("".join(corpus.of_messages(messages)).split()) == "See the help for ."


def test_a_verse_loses_its_macros_and_number() -> None:
    tex = "%% \\qt@no\n\\qt@newcmd\\verse@ii{\\opening First [one], second\\qt@no{(2)}}%\n"
    assert [one.strip() for one in corpus.of_verses(tex)] == ["First [one], second"]


def test_kept_are_paragraphs_of_the_language() -> None:
    russian, english = (
        "Это длинное предложение, в котором есть apt-get, " * 2,
        "This was never translated, as it happens. " * 2,
    )
    kept = corpus.clean(iter((russian, english, "Да.", "1 2 " * 30)), "ru", set())
    assert kept == [" ".join(russian.split())]
    assert corpus.clean(iter((english,)), "fr", {english.strip()}) == []


def test_every_language_has_a_source_and_no_file_has_two() -> None:
    files = [(one.package.format(name), name) for one in corpus.SOURCES for name in one.languages.split()]
    assert len(set(files)) == len(files)
    assert {name for _, name in files} == set(corpus.LANGUAGES)


@pytest.mark.parametrize("apt", [None, "#!/bin/sh\necho noise >&2\necho 'E: no such package' >&2\nexit 100\n"])
def test_where_packages_cannot_be_had_one_line_says_so(
    apt: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if apt:
        (tmp_path / "apt-get").write_text(apt)
        (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit) as said:
        corpora_of(tmp_path / "texts")
    assert ("no such package" if apt else "no apt-get") in str(said.value)
    assert "\n" not in str(said.value)
    assert not (tmp_path / "texts").exists()


def test_a_folder_that_is_there_is_read_as_it_is_each_paragraph_once(tmp_path: Path) -> None:
    (tmp_path / "en").mkdir()
    (tmp_path / "en" / "a.txt").write_text("One\nline.\n\nTwo.\n\none  line")
    assert corpora_of(tmp_path) == {"en": "One line. Two."}


@pytest.mark.parametrize("distance", DISTANCES)
def test_distances_are_those_of_the_reference(distance: str) -> None:
    rng = random.Random(1)
    texts = ["".join(rng.choices("abcdefgh .", k=rng.choice((200, 220, 400, 5_000)))) for _ in range(40)]
    values = [value for text in texts if (value := hashed("raw", text))]
    names = ["T1" + value.hex() for value in values]
    expected = [getattr(tlsh, distance)(names[0], other) for other in names[1:]]
    np.testing.assert_array_equal(Distances(values, distance).of(0), expected)
    assert len(set(expected)) > 1


def test_a_radius_is_no_larger_than_what_pays() -> None:
    """Where a hundredth of the copies would be all that the rest of an allowed radius finds, it ends before."""
    far = np.full(LEAST_PAIRS, 250, np.int16)
    for late, expected in ((1, 10), (5, 90)):
        edits = dict.fromkeys(EDITS, [10] * (200 - late) + [90] * late)
        rows = [
            {"form": "raw", "size": 300, "language": "en", "distance": one, "far": far, "copies": 0, "edits": edits}
            for one in DISTANCES
        ]
        assert radius_at(rows) == MOST_RADIUS
        (found,) = curve(rows, "raw", {"en"})
        assert found["radius"] == found["with_length_term"]["radius"] == expected


def test_the_decision_tells_what_was_measured() -> None:
    decision = Path(__file__).parents[2] / "service" / "decisions" / "0006-text-radii.md"
    assert summary(json.loads(TABLE.read_text(encoding="utf-8"))["curves"]) in decision.read_text(encoding="utf-8")
