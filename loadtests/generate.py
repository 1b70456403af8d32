"""What is uploaded: files made of bundled photos and running prose, as a pure function of the scenario and its seed.

A file is made once and sent many times, each time with a number inside (a comment, white space), so that no two uploads
have the same bytes and none is answered from a cache. Planted copies are kept only where the brute-force matcher of
the system tests finds them, with room to spare.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import tlsh
from PIL import Image, ImageEnhance

from loadtests.scenario import Scenario
from tests import clips, pdfs
from tests.pictures import photo
from tests.system import oracle
from tests.system.corpus import PHOTOS, edited_text, passage
from tests.system.oracle import Known

SET_OF = {"pdq": "photos", "tlsh": "texts"}
POST_CHARS = 1_000
GRAIN = 4.0
"""Standard deviation of noise, in grey levels: enlarged photos are smoother than a camera's, and too small as files."""
QUALITIES = (81, 84, 88)
"""Of JPEG; with the grain they give some 210 KB in the mean for 0.5 to 2 megapixels."""
PDQ_ROOM, TLSH_ROOM = 7, 15
QUALITY = 80
"""Of a known picture and of a planted copy: well above what is looked up at all."""
FRAMES = 24


@dataclass(frozen=True)
class Piece:
    """One file to upload. A planted one is a copy of the entry `original`, made by `edit`."""

    medium: str
    media_type: bytes
    content: bytes
    original: Known | None = None
    edit: str = ""

    @property
    def planted(self) -> bool:
        """Whether it is a copy of something known."""
        return self.original is not None


@dataclass
class Material:
    """All that a run needs: known entries, and pieces by medium, planted ones apart."""

    known: list[Known] = field(default_factory=list)
    plain: dict[str, list[Piece]] = field(default_factory=dict)
    copies: dict[str, list[Piece]] = field(default_factory=dict)

    def pieces(self) -> list[Piece]:
        """Every piece."""
        return [one for held in (*self.plain.values(), *self.copies.values()) for one in held]


def make(scenario: Scenario) -> Material:
    """Everything that the scenario's media need."""
    made, chance = Material(), random.Random(f"material-{scenario.seed}")
    wanted = {medium for mix in (scenario.mix, scenario.also) for medium, share in mix.items() if share}
    if "photo" in wanted:
        _photos(made, chance, scenario)
    if "post" in wanted:
        _posts(made, chance, scenario)
    if "frame" in wanted:
        _frames(made)
    if "pdf" in wanted:
        made.plain["pdf"] = [_pdf(chance) for _ in range(max(2, scenario.pool // 4))]
    if "clip" in wanted:
        made.plain["clip"] = [clip(number) for number in range(len(clips.NAMES))]
    made.known += [
        Known("filler", f"none-{n}", "pdq", f"{chance.getrandbits(256):064x}") for n in range(scenario.entries)
    ]
    return made


def draw(material: Material, mix: Mapping[str, float], planted: float, seed: str) -> Iterator[Piece]:
    """Pieces without end, in the shares of the mix."""
    chance = random.Random(seed)
    media, shares = list(mix), list(mix.values())
    while True:
        medium = chance.choices(media, shares)[0]
        copies, plain = material.copies.get(medium, []), material.plain.get(medium, [])
        yield chance.choice(copies if copies and (not plain or chance.random() < planted) else plain)


def numbered(piece: Piece, number: int) -> bytes:
    """The piece's file with this number inside: the same media, other bytes."""
    mark, content = b"%d" % number, piece.content
    match piece.media_type:
        case b"image/jpeg":
            comment = b"\xff\xfe" + (len(mark) + 2).to_bytes(2) + mark
            # Joined, the picture is copied once: with `+` and a slice it would be twice.
            return b"".join((content[:2], comment, memoryview(content)[2:]))
        case b"video/mp4":
            return content + (len(mark) + 8).to_bytes(4) + b"free" + mark
        case b"application/pdf":
            return content + b"\n%" + mark + b"\n"
        case _:
            # White space at the end: other bytes, and the same text after normalisation.
            return content + b"\n" + f"{number:b}".translate({48: " ", 49: "\t"}).encode()


def measured(piece: Piece, number: int) -> tuple[int, int]:
    """How far a planted copy is from its original as it is sent under this number, and the radius: by the oracle."""
    assert piece.original is not None
    content, original = numbered(piece, number), piece.original
    if original.kind == "pdq":
        seen, quality = oracle.pdq(content)
        return _distance(seen, original.value), oracle.PDQ_RADIUS if quality >= QUALITY else 0
    text = content.decode()
    lengths = (len(oracle.normal(text)), original.length or 0)
    distance = tlsh.diffxlen(oracle.normal_tlsh(text), original.value)
    return distance, min(oracle.tlsh_radius(length) for length in lengths)


def _plant(made: Material, piece: Piece, room: int) -> None:
    """Plant a copy, and know its original, if the oracle finds it as it is sent with so much room."""
    distance, radius = measured(piece, 0)
    if piece.original is not None and distance <= radius - room:
        made.known.append(piece.original)
        made.copies[piece.medium].append(piece)


def _photos(made: Material, chance: random.Random, scenario: Scenario) -> None:
    made.plain["photo"] = [_jpeg("photo", _crop(chance, scenario), chance) for _ in range(scenario.pool)]
    made.copies["photo"] = []
    while len(made.copies["photo"]) < max(4, scenario.pool // 5):
        original = _crop(chance, scenario)
        value, quality = oracle.pdq(_encoded(original, 95))
        if quality < QUALITY:
            continue
        edit, content = _edited(original, chance)
        entry = Known(SET_OF["pdq"], f"photo-{len(made.known)}", "pdq", value)
        _plant(made, Piece("photo", b"image/jpeg", content, entry, edit), PDQ_ROOM)


def _posts(made: Material, chance: random.Random, scenario: Scenario) -> None:
    made.plain["post"] = [_post(passage(chance)[:POST_CHARS].encode()) for _ in range(scenario.pool * 4)]
    made.copies["post"] = []
    while len(made.copies["post"]) < max(4, scenario.pool // 5):
        text = passage(chance)[:POST_CHARS]
        value, length = oracle.normal_tlsh(text), len(oracle.normal(text))
        entry = Known(SET_OF["tlsh"], f"post-{len(made.known)}", "tlsh", value, length)
        _plant(made, _post(edited_text(text.encode(), chance), entry, "words reversed"), TLSH_ROOM)


def _frames(made: Material) -> None:
    """Frames of one video, every one known; an upload is a frame, recompressed."""
    made.copies["frame"] = []
    for number, rgb in enumerate(clips.pan("astronaut.png", (1280, 720), FRAMES)):
        image = Image.fromarray(rgb)
        value, _ = oracle.pdq(_encoded(image, 95))
        entry = Known(SET_OF["pdq"], f"frame-{number}", "pdq", value)
        made.known.append(entry)
        made.copies["frame"].append(Piece("frame", b"image/jpeg", _encoded(image, 70), entry, "recompressed"))


def _crop(chance: random.Random, scenario: Scenario) -> Image.Image:
    """A window of a photo, enlarged to the scenario's megapixels and given grain."""
    whole = photo(chance.choice(PHOTOS))
    share = chance.uniform(0.5, 0.95)
    width, height = int(whole.width * share), int(whole.height * share)
    left, top = chance.randint(0, whole.width - width), chance.randint(0, whole.height - height)
    scale = (chance.uniform(*scenario.megapixels) * 1e6 / (width * height)) ** 0.5
    cut = whole.crop((left, top, left + width, top + height))
    large = cut.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(chance.getrandbits(32)).normal(0, GRAIN, (large.height, large.width, 1))
    return Image.fromarray(np.clip(np.asarray(large) + noise, 0, 255).astype(np.uint8))


def _edited(original: Image.Image, chance: random.Random) -> tuple[str, bytes]:
    """What was done, and the file."""
    match chance.randrange(3):
        case 0:
            return "recompressed", _encoded(original, chance.choice((50, 70)))
        case 1:
            factor = chance.uniform(0.6, 0.9)
            smaller = original.resize((int(original.width * factor), int(original.height * factor)))
            return "made smaller", _encoded(smaller, 85)
        case _:
            return "brightened", _encoded(ImageEnhance.Brightness(original).enhance(chance.uniform(0.85, 1.15)), 85)


def _jpeg(medium: str, image: Image.Image, chance: random.Random) -> Piece:
    return Piece(medium, b"image/jpeg", _encoded(image, chance.choice(QUALITIES)))


def _post(text: bytes, original: Known | None = None, edit: str = "") -> Piece:
    return Piece("post", b"text/plain", text, original, edit)


def _pdf(chance: random.Random) -> Piece:
    sheets = [pdfs.Sheet(pdfs.lines(_plain(passage(chance)))) for _ in range(chance.randint(1, 5))]
    return Piece("pdf", b"application/pdf", pdfs.pdf(*sheets))


def _plain(text: str) -> str:
    return "".join(one for one in text if one.isascii() and one not in "()\\")


def clip(number: int, frames: int = 150) -> Piece:
    """A pan over a photo, 640 by 360, 30 frames a second."""
    shown = clips.pan(clips.NAMES[number], (640, 360), frames)
    return Piece("clip", b"video/mp4", clips.encode(shown, options={"preset": "veryfast", "crf": "30"}))


def _encoded(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def _distance(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()
