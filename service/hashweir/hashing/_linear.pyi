import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Edges = npt.NDArray[np.int64]

def samples(
    levels: npt.NDArray[np.uint8],
    rows: int,
    channels: int,
    down_edges: Edges,
    down_weights: Floats,
    across_edges: Edges,
    across_weights: Floats,
    out: Floats,
    plain: bool = False,
) -> None:
    """Sum up a picture's luma to 64 x 64 samples, four times: `out` is 2 (upside down) x 2 (mirrored) x 64 x 64.

    `levels` is rows x width x channels; three channels are R, G, B, and one is luma already. Edges are 64 x 2: the
    first row (or column) of a band and the one after its last. Weights are, band by band, 2 x its length: the second
    half are those of the turned views. All are C-contiguous. `plain` forgoes instructions that not every processor has.
    Works without the GIL. Raises ValueError and BufferError where sizes don't fit each other, MemoryError; types are
    not looked at.
    """
