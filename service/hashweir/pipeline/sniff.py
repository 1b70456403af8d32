"""What a file is, by its magic bytes. Reads a few bytes and imports no codec, so that the parent may ask too."""

from __future__ import annotations

PDF = "application/pdf"
PDF_MAGIC = b"%PDF-"
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_ANY_PICTURE_BRANDS = frozenset({b"mif1", b"msf1", b"mif2"})
"""Of ISO files that hold pictures (ISO/IEC 23008-12, annex B; AV1 Image File Format, 6): the last don't say how they
are compressed, a compatible brand does."""
_BRANDS_WITHIN = 64
"""Bytes from the beginning in which brands are looked for: so many are enough for 12 of them."""


def sniff(content: bytes) -> str | None:
    """The media type that the magic bytes name, of those that can be decoded here."""
    if content.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if content.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if content.startswith(PDF_MAGIC):
        return PDF
    if content.startswith(b"RIFF"):
        return {b"WEBP": "image/webp", b"AVI ": "video/x-msvideo"}.get(bytes(content[8:12]))
    if content.startswith(b"\x1a\x45\xdf\xa3"):  # EBML; the document type stands near the beginning (RFC 8794)
        return "video/webm" if b"webm" in content[:64] else "video/x-matroska"
    if content[4:8] == b"ftyp":
        return _by_brand(content)
    if content[4:8] in (b"moov", b"mdat", b"wide"):  # QuickTime files from before brands
        return "video/quicktime"
    return None


def _by_brand(content: bytes) -> str:
    major = bytes(content[8:12])
    if major in _AVIF_BRANDS:
        return "image/avif"
    if major in _HEIC_BRANDS:
        return "image/heic"
    if major in _ANY_PICTURE_BRANDS:
        end = min(int.from_bytes(content[:4], "big"), _BRANDS_WITHIN)
        others = {bytes(content[at : at + 4]) for at in range(16, end - 3, 4)}
        return "image/avif" if others & _AVIF_BRANDS else "image/heic"
    return "video/quicktime" if major == b"qt  " else "video/mp4"
