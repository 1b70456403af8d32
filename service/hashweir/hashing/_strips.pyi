import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

def down(
    levels: npt.NDArray[np.uint8],
    rows: int,
    channels: int,
    edges: npt.NDArray[np.int64],
    weights: Floats,
    luma: Floats,
    out: Floats,
    plain: bool = False,
) -> None:
    """Sum up 64 strips of a picture's rows, each with two rows of weights, into `out`: width x 2 x 64, luma.

    `levels` is rows x width x channels; of three channels, `luma` has the weights, and one is luma already. `edges` is
    64 x 2: a strip's first row and the one after its last. `weights` are, strip by strip, 2 x its rows. All are
    C-contiguous. `plain` forgoes instructions that not every processor has. Works without the GIL. Raises ValueError
    and BufferError where sizes don't fit each other; types are not looked at.
    """

def across(
    strips: Floats, edges: npt.NDArray[np.int64], weights: Floats, out: Floats, turning: bool, plain: bool = False
) -> None:
    """The same of what `down` made, into `out`: 64 x 64, of the first half of each row by the first row of weights.

    `turning`: of both halves by both rows of weights, 64 x 2 (rows of weights) x 2 (halves) x 64.
    """
