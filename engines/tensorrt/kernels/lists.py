"""From logits to lists of active units, and from those to the pixels that a 3x3 reads.

A program handles an image, so that lists are in order and the same every time.
"""

from __future__ import annotations

import triton
import triton.language as tl

_NEVER = tl.constexpr(-(2**31))
"""The key of a unit that is not active; those of all numbers are greater."""


@triton.jit
def _keys(logits: tl.tensor, active: tl.tensor) -> tl.tensor:
    """int32 in the order of the logits; both zeros are equal."""
    bits = tl.where(logits == 0.0, 0.0, logits).to(tl.int32, bitcast=True)
    keys = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return tl.where(active, keys, _NEVER)


@triton.jit
def partition(
    logits_ptr: tl.tensor,
    thresholds_ptr: tl.tensor,
    caps_ptr: tl.tensor,
    num_units: tl.tensor,
    num_maskers: tl.tensor,
    index_ptr: tl.tensor,
    place_ptr: tl.tensor,
    count_ptr: tl.tensor,
    MASKER: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Active units in rising order, then the others. Grid: images.

    logits (N, U), thresholds (N, M) float32, caps (N, M) -> index, place (N, U), count (N,), int32.
    A unit is active when its logit >= threshold; of more than the cap, those with higher logits,
    ties to the lower index. The logit at the cap is found by halving the range of keys.
    """
    image = tl.program_id(0)
    lanes = tl.arange(0, BLOCK)
    column = image * num_maskers + MASKER
    threshold = tl.load(thresholds_ptr + column)
    cap = tl.minimum(tl.maximum(tl.load(caps_ptr + column), 0), num_units)
    row = image.to(tl.int64) * num_units
    total = 0
    for start in range(0, num_units, BLOCK):
        units = start + lanes
        inside = units < num_units
        logits = tl.load(logits_ptr + row + units, mask=inside, other=0.0)
        total += tl.sum(((logits >= threshold) & inside).to(tl.int32), 0)
    bound = _NEVER
    ties = 0
    if total > cap:
        low = tl.full((), _NEVER, tl.int64)
        high = tl.full((), 2**31 - 1, tl.int64)
        for _ in range(32):
            middle = low + (high - low + 1) // 2
            found = 0
            for start in range(0, num_units, BLOCK):
                units = start + lanes
                inside = units < num_units
                logits = tl.load(logits_ptr + row + units, mask=inside, other=0.0)
                keys = _keys(logits, (logits >= threshold) & inside)
                found += tl.sum((keys >= middle.to(tl.int32)).to(tl.int32), 0)
            low = tl.where(found >= cap, middle, low)
            high = tl.where(found >= cap, high, middle - 1)
        bound = low.to(tl.int32)
        above = 0
        for start in range(0, num_units, BLOCK):
            units = start + lanes
            inside = units < num_units
            logits = tl.load(logits_ptr + row + units, mask=inside, other=0.0)
            keys = _keys(logits, (logits >= threshold) & inside)
            above += tl.sum((keys > bound).to(tl.int32), 0)
        ties = cap - above
    num_active = tl.minimum(total, cap)
    ahead = 0
    behind = num_active
    tied_before = 0
    for start in range(0, num_units, BLOCK):
        units = start + lanes
        inside = units < num_units
        logits = tl.load(logits_ptr + row + units, mask=inside, other=0.0)
        likely = (logits >= threshold) & inside
        keys = _keys(logits, likely)
        tied = (likely & (keys == bound)).to(tl.int32)
        tie_ranks = tied_before + tl.cumsum(tied, 0) - tied
        active = likely & ((keys > bound) | ((tied > 0) & (tie_ranks < ties)))
        ones = active.to(tl.int32)
        others = inside.to(tl.int32) - ones
        places = tl.where(
            active,
            ahead + tl.cumsum(ones, 0) - ones,
            behind + tl.cumsum(others, 0) - others,
        )
        tl.store(index_ptr + row + places, units, mask=inside)
        tl.store(place_ptr + row + units, places, mask=inside)
        ahead += tl.sum(ones, 0)
        behind += tl.sum(others, 0)
        tied_before += tl.sum(tied, 0)
    tl.store(count_ptr + image, num_active)


@triton.jit
def dilate(
    place_ptr: tl.tensor,
    count_ptr: tl.tensor,
    x_ptr: tl.tensor,
    num_units: tl.tensor,
    grid_width: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    read_height: tl.tensor,
    read_width: tl.tensor,
    index_ptr: tl.tensor,
    num_pixels_ptr: tl.tensor,
    PATCH: tl.constexpr,
    STRIDE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """The pixels of a map (read_height, read_width) that a 3x3 of STRIDE reads. Grid: images.

    place (N, U) and count (N,) of patches of the 3x3's output (height, width), grid_width patches
    in a row -> index (N, read pixels), num_pixels (N,), int32. What is behind num_pixels is not
    written. x is not read: TensorRT takes sizes from it.
    """
    image = tl.program_id(0)
    lanes = tl.arange(0, BLOCK)
    count = tl.load(count_ptr + image)
    units = image.to(tl.int64) * num_units
    num_read = read_height * read_width
    row = image.to(tl.int64) * num_read
    total = 0
    for start in range(0, num_read, BLOCK):
        pixels = start + lanes
        inside = pixels < num_read
        needed = pixels < 0
        for tap in tl.static_range(9):
            y = pixels // read_width + (tap // 3 - 1)
            x = pixels % read_width + (tap % 3 - 1)
            meets = inside & (y >= 0) & (x >= 0) & (y % STRIDE == 0) & (x % STRIDE == 0)
            meets = meets & (y // STRIDE < height) & (x // STRIDE < width)
            unit = (y // STRIDE // PATCH) * grid_width + x // STRIDE // PATCH
            meets = meets & (unit >= 0) & (unit < num_units)
            place = tl.load(place_ptr + units + unit, mask=meets, other=0)
            needed = needed | (meets & (place < count))
        ones = needed.to(tl.int32)
        tl.store(index_ptr + row + total + tl.cumsum(ones, 0) - ones, pixels, mask=needed)
        total += tl.sum(ones, 0)
    tl.store(num_pixels_ptr + image, total)
