"""Running text in eight languages out of Debian packages, for the experiments with texts; none of it is kept here.

    python -m tests.bench.text_corpus FOLDER

FOLDER gets a folder per language, in it a text file per package, paragraphs apart by blank lines. The packages of
`SOURCES` are downloaded as archives (`apt-get download`: 170 MB) and read, not installed. They are those of
Debian 12, with which decision 0006 was measured; another release may lack one, or have somewhat different texts.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

LANGUAGES = ("en", "ar", "de", "fa", "fr", "ps", "ru", "ur")
"""English first: what others leave in English is known by it."""
LATIN = ("en", "de", "fr")
LEAST_CHARACTERS = 40
"""Shorter paragraphs are headings, buttons and names."""

Reader = Callable[[str], Iterator[str]]
"""From what a file says to its paragraphs."""


# ── paragraphs of each kind of file ──


class _Page(HTMLParser):
    """Collects the paragraphs of a page."""

    BLOCK = re.compile("blockquote|br|d[dt]|div|h[1-6]|li|p|pre|t[dhr]|title")
    SKIPPED = ("pre", "script", "style")

    def __init__(self) -> None:
        super().__init__()
        self.paragraphs = [""]
        self._skipping: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in self.SKIPPED:
            self._skipping.append(tag)
        if self.BLOCK.fullmatch(tag):
            self.paragraphs.append("")

    def handle_endtag(self, tag: str) -> None:
        if self._skipping[-1:] == [tag]:
            self._skipping.pop()
        if self.BLOCK.fullmatch(tag):
            self.paragraphs.append("")

    def handle_data(self, data: str) -> None:
        if not self._skipping:
            self.paragraphs[-1] += data


def of_page(text: str) -> Iterator[str]:
    """Of HTML: without tags, listings and scripts."""
    page = _Page()
    page.feed(text)
    page.close()
    yield from page.paragraphs


def of_fortunes(text: str) -> Iterator[str]:
    """Of aphorisms apart by lines of `%`: without the signature, which would stand after every other sentence."""
    for fortune in text.split("\n%\n"):
        yield re.sub(r"(?m)^\s*--\s.*\Z", "", fortune, flags=re.DOTALL)


def of_messages(text: str) -> Iterator[str]:
    """Of MediaWiki's messages in JSON: without templates, parameters, markup and addresses."""
    for key, message in json.loads(text).items():
        if key != "@metadata":
            message = re.sub(r"\{\{[^{}]*\}\}|\$\d|\[{1,2}[^\s\]|]*[\s|]|https?://\S+|'{2,}", " ", message)
            yield from of_page(re.sub(r"[\[\]{}*#]", " ", message))


def of_verses(text: str) -> Iterator[str]:
    """Of TeX macros, one for each verse: without its number and, as Arabic is mostly written, without vowel signs."""
    for verse in re.findall(r"(?m)^\\qt@newcmd\\[^{]*\{(.*?)\\qt@no\{", text):
        yield re.sub(r"\\[A-Za-z@]+|[\u064b-\u0652\u0670\u06d6-\u06ed]", "", verse)


# ── where the texts come from ──


class Source(NamedTuple):
    """A package for each of the languages, under the licence that Debian states; `{}` stands for the language."""

    package: str
    languages: str
    files: str
    reader: Reader
    licence: str


_TEX = "usr/share/texlive/texmf-dist/tex/latex"
_FORTUNES = "usr/share/games/fortunes"
SOURCES = (
    Source("debian-handbook", "ar de en fa fr ru", "**/html/{}-*/*.html", of_page, "GPL-2+ or CC-BY-SA-3.0"),
    Source("installation-guide-amd64", "de en fr ru", "usr/share/doc/*/{}/*.html", of_page, "GPL-2"),
    Source("debian-reference-{}", "de en fr", "usr/share/debian-reference/*.html", of_page, "GPL-2+"),
    Source("aptitude-doc-{}", "en fr ru", "usr/share/doc/aptitude/html/{}/*.html", of_page, "GPL-2+"),
    Source("maint-guide-{}", "de fr ru", "usr/share/doc/*/html/*.html", of_page, "GPL-2+"),
    Source("maint-guide", "en", "usr/share/doc/*/html/*.html", of_page, "GPL-2+"),
    Source("developers-reference-{}", "de fr ru", "usr/share/developers-reference/{}/*.html", of_page, "GPL-2+"),
    Source("developers-reference", "en", "usr/share/developers-reference/*.html", of_page, "GPL-2+"),
    Source("debian-faq-{}", "de fr ru", "usr/share/doc/debian/FAQ/**/*.html", of_page, "its own, copyleft"),
    Source("debian-faq", "en", "usr/share/doc/debian/FAQ/*.html", of_page, "its own, copyleft"),
    Source("fortunes", "en", f"{_FORTUNES}/*.u8", of_fortunes, "BSD-3-Clause"),
    Source("fortunes-min", "en", f"{_FORTUNES}/*.u8", of_fortunes, "BSD-3-Clause"),
    Source("fortunes-ru", "ru", f"{_FORTUNES}/ru/*.u8", of_fortunes, "GPL-2"),
    Source("mediawiki", "ar de en fa fr ps ru ur", "**/i18n/**/{}.json", of_messages, "GPL-2+"),
    # The Koran and its translations by M. M. Fooladvand and F. M. Jalandhry (1900).
    Source("texlive-lang-arabic", "ar", f"{_TEX}/quran/qurantext-simple.def", of_verses, "LPPL-1.3c"),
    Source("texlive-lang-arabic", "fa", f"{_TEX}/quran/qurantext-{{}}.translation.def", of_verses, "LPPL-1.3c"),
    Source("texlive-lang-other", "ur", f"{_TEX}/quran-ur/qurantext-urii.translation.def", of_verses, "LPPL-1.3c"),
)


def clean(paragraphs: Iterator[str], language: str, english: set[str]) -> list[str]:
    """Those long enough and in this language, spaces joined: a translated manual is never translated to the end."""
    kept = []
    for text in (" ".join(paragraph.split()) for paragraph in paragraphs):
        letters = [one for one in text if one.isalpha()]
        own = language in LATIN or 2 * sum(one > "\u02ff" for one in letters) > len(letters)
        if len(text) >= LEAST_CHARACTERS and letters and own and text not in english:
            kept.append(text)
    return kept


def make(folder: Path) -> None:
    """The texts of every language into a folder.

    Raises SystemExit with one line where apt-get or dpkg-deb is missing or fails.
    """
    english: set[str] = set()
    # Moved to its place when complete: what is there is taken as it is.
    with tempfile.TemporaryDirectory() as scratch:
        archives = _downloaded(Path(scratch))
        made = Path(scratch) / "texts"
        for language in LANGUAGES:
            (made / language).mkdir(parents=True)
            for source in SOURCES:
                if language in source.languages.split():
                    package = source.package.format(language)
                    found = sorted(archives[package].glob(source.files.format(language)))
                    texts = (path.read_text(encoding="utf-8", errors="replace") for path in found)
                    kept = clean((one for text in texts for one in source.reader(text)), language, english)
                    print(f"{language} {package}: {sum(map(len, kept)):,} characters", file=sys.stderr)
                    (made / language / f"{package}.txt").write_text("\n\n".join(kept), encoding="utf-8")
                    if language == "en":
                        english.update(kept)
        shutil.copytree(made, folder, dirs_exist_ok=True)


def _downloaded(scratch: Path) -> dict[str, Path]:
    """The unpacked archive of every package."""
    wanted = sorted({one.package.format(language) for one in SOURCES for language in one.languages.split()})
    scratch.chmod(0o755)
    _run(["apt-get", "download", *wanted], scratch, "is the list of packages fresh (apt-get update)?")
    unpacked = {package: scratch / package for package in wanted}
    for package, place in unpacked.items():
        (archive,) = scratch.glob(f"{package}_*.deb")
        _run(["dpkg-deb", "-x", archive.name, place.name], scratch, "")
        archive.unlink()
    return unpacked


def _run(command: list[str], folder: Path, hint: str) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise SystemExit(f"no {command[0]}: these texts come from Debian's packages") from None
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip().splitlines() or [""])[-1]
        raise SystemExit(f"{command[0]} failed: {said} {hint}".rstrip()) from None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    make(parser.parse_args().folder)


if __name__ == "__main__":
    main()
