"""What a file is, by its magic bytes. Reads a few bytes and imports no codec, so that the parent may ask too."""

from __future__ import annotations

PDF = "application/pdf"
PDF_MAGIC = b"%PDF-"
_STILL_BRANDS = frozenset({b"avif", b"avis", b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"})
"""Brands of ISO files that hold pictures (ISO/IEC 23008-12), which are not decoded here."""


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
    if content[4:8] == b"ftyp" and bytes(content[8:12]) not in _STILL_BRANDS:
        return "video/quicktime" if content[8:12] == b"qt  " else "video/mp4"
    if content[4:8] in (b"moov", b"mdat", b"wide"):  # QuickTime files from before brands
        return "video/quicktime"
    return None
