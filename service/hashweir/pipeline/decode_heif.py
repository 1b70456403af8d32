"""HEIC and AVIF on one thread: what can be decoded here, and the pixels of a HEIC.

AVIF is part of Pillow. The well-known library for HEIC starts a thread for every picture, and a scan process may start
none; so a HEIC's boxes are read by `heif_file`, and its coded pictures decoded by FFmpeg (decision 0009). Runs inside a
scan process.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
from PIL import AvifImagePlugin

from hashweir.model import Limits, Turn
from hashweir.pipeline.heif_file import Coded, places, read, shown
from hashweir.pipeline.video_file import HAVE_DECODER

if HAVE_DECODER:
    import av
    import av.error

if TYPE_CHECKING:
    from av.video.codeccontext import VideoCodecContext

AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # a scan process may start no thread

Pixels = npt.NDArray[np.uint8]

AVIF: Final = "image/avif"
HEIC: Final = "image/heic"
AVIF_NAMES: Final[Mapping[str, str]] = {AVIF: "AVIF"} if AvifImagePlugin.SUPPORTED else {}
"""The media type with Pillow's name for it, where Pillow was built with it."""


def heic(
    content: bytes | bytearray, require_size: Callable[[tuple[int, int]], None], limits: Limits
) -> tuple[Pixels, bool, Turn | None]:
    """The primary picture of a HEIC: pixels, whether some of them are made up, and the turn that makes it upright.

    The pixels (height x width x 3, uint8, RGB) are those that are stored; what the file says is cut off. Before any is
    decoded, `require_size` is asked about (width, height) and raises what it will. Raises ValueError, LookupError,
    ArithmeticError and MemoryError.
    """
    still = read(content)
    require_size((still.width, still.height))
    if still.crop is not None:
        require_size(still.crop[2:])
    rgb = np.zeros((still.height, still.width, 3), np.uint8)
    decoder = _Decoder(limits.pixels)
    size: tuple[int, int] | None = None
    damaged = False
    for number, coded in enumerate(still.coded):
        piece, whole = decoder.decode(coded)
        damaged |= not whole
        if piece is None:
            continue
        if size is None:
            size = piece.shape[0], piece.shape[1]
            at = places(still, *size)
        if piece.shape[:2] != size:
            raise ValueError("tiles of different sizes")
        top, left = at[number]
        under = rgb[top : top + size[0], left : left + size[1]]
        under[:] = piece[: under.shape[0], : under.shape[1]]
    if size is None:
        raise ValueError("nothing of it can be decoded")
    return shown(still, rgb), damaged, still.turn


class _Decoder:
    """Coded pictures to pixels; those of one configuration share a context."""

    def __init__(self, most_pixels: int) -> None:
        self._options = {"max_pixels": str(most_pixels)}
        self._config: bytes | None = None

    def decode(self, coded: Coded) -> tuple[Pixels | None, bool]:
        """The pixels of one, None where there are none, and whether they are undamaged. Raises MemoryError."""
        if coded.data is None:
            return None, False
        if coded.config != self._config:
            self._context: VideoCodecContext = av.CodecContext.create("hevc", "r")
            self._context.extradata = coded.config
            self._context.thread_count = 1  # a scan process may start no thread
            self._context.options = self._options
            self._config = coded.config
        try:
            frames = self._context.decode(av.Packet(coded.data)) + self._context.decode(None)
            self._context.flush_buffers()
            if len(frames) != 1:
                return None, False
            rgb = frames[0].reformat(format="rgb24", threads=1).to_ndarray()
        except av.error.FFmpegError as error:
            self._config = None
            if isinstance(error, MemoryError):
                raise MemoryError(str(error)) from error
            return None, False
        return rgb.astype(np.uint8, copy=False), not frames[0].is_corrupt


_AVIF_SAMPLE: Final = (
    "0000WW^{RQVRmU|00000VRmU|ZE0pPZE0a<O+hh20002%ZDn*}000000000XXk=`10000000000aA{+700000000000000000000"
    "4sdC7Z2$lO000310016oY;R)#0000)000310RR910RR926951JD*ylhC~0YKW&i*H00031000_kZf0cy000000RRADb}%tRZ)|UJ"
    "00000YH4tCZ~y=ROKEUpZvX%Q6lrsCWdHyG00000KmY&$KmY&$5O8UDX#fBK00RgJ2mk;83}JRLLxBJc000006Ju{|a&BX6cmM$a"
    "4FCp!0000NX>e^}0000000001009I60)qqq001*>WMOm?0162h6@UGr0vZhnG8`1ghlXVW2q2z8007U<QLQQ(VnQDRwC01mOAi"
)
_HEIC_SAMPLE: Final = (
    "0000SW^{RQXk}?*00000ZE0pPXk}?*ZE0a<0003(ZDn*}000000000XXk=`10000000000aA{+700000000000000000000B57=I"
    "V*mgE07O6l0RRC200001W&i;I00000000*N001LtX>Mi!000000RR916=`l}WdZ;I000310BCk&F#rGn01j|zbZr0t000010002O"
    "X>f9I0001_X>en20001ZXm(>m0RwOV0058x000009`FGC{rLC*01pFT0096PKmiN^|NjGU00093kN^M!000939=ZZRVE_RDD?$MQ"
    "18@KU0|1Z!00RI30{|YNAb|yz>PacCZUPz%2mk;B0LTCU0{{p>VgLaE2SfqEa<C#m0000KX>)L8000000000$0000$0000GaA|mH"
    "000000|*ER0000MX>e^}0000000001009Gm0s{a503U5+VRQfh023$yuLT(WJ0+^W_j+$|G`T=K3j"
)
SAMPLES: Final = tuple(
    base64.b85decode(text) for text, have in ((_AVIF_SAMPLE, AVIF_NAMES), (_HEIC_SAMPLE, HAVE_DECODER)) if have
)
"""A small flat picture of each, where it can be decoded."""
