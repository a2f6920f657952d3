"""One kernel for all convolutions that skip: of patches, of channel groups, of both.

An implicit GEMM over the pixels of active patches (rows), active output channels (columns) and
active input channels times taps (depth). A pointer that is None is no argument of the kernel.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sparse_conv(
    x_ptr: tl.tensor,
    index_ptr: tl.tensor,
    count_ptr: tl.tensor,
    groups_ptr: tl.tensor,
    num_groups_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    residual_ptr: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    out_height: tl.tensor,
    out_width: tl.tensor,
    num_units: tl.tensor,
    grid_width: tl.tensor,
    y_ptr: tl.tensor,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    X_PITCH: tl.constexpr,
    Y_PITCH: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PATCH: tl.constexpr,
    GROUP: tl.constexpr,
    READ: tl.constexpr,
    WRITTEN: tl.constexpr,
    RELU: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """ReLU(convolution + bias), or with a residual ReLU(convolution + bias + residual).

    Without RELU it is those sums as they are.

    Grid: tiles of BLOCK_M pixels, tiles of BLOCK_N channels, images.

    x (N, height, width, X_PITCH), weight (KERNEL, KERNEL, INPUTS, OUTPUTS), bias (OUTPUTS,),
    residual and y (N, out_height, out_width, Y_PITCH). index (N, U), count (N,): patches of PATCH
    pixels on a side, active ones first; PATCH 0: one unit, the whole map. groups (N, channels /
    GROUP), num_groups (N,): channel groups, of the inputs where READ, of the outputs where WRITTEN.

    What is not active is not written; with a residual it is written too, as that (and its ReLU),
    and index has to name every patch. Channels of the pitch beyond OUTPUTS become 0 where all
    outputs are written.
    """
    image = tl.program_id(2)
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    # Rows to pixels of the output.
    count = num_units
    if count_ptr is not None:
        count = tl.minimum(tl.maximum(tl.load(count_ptr + image), 0), num_units)
    if PATCH == 0:
        area = out_height * out_width
        inside = rows < area
        y = rows // out_width
        x = rows % out_width
        last = count * area
    else:
        slots = rows // (PATCH * PATCH)
        inside = slots < num_units
        if residual_ptr is None:
            inside = slots < count
        units = tl.load(index_ptr + image.to(tl.int64) * num_units + slots, mask=inside, other=0)
        within = rows % (PATCH * PATCH)
        y = units // grid_width * PATCH + within // PATCH
        x = units % grid_width * PATCH + within % PATCH
        inside = inside & (units >= 0) & (units < num_units) & (y < out_height) & (x < out_width)
        last = count * (PATCH * PATCH)
    active = inside & (rows < last)
    working = tl.program_id(0) * BLOCK_M < last
    # Columns to output channels.
    limit = INPUTS
    if WRITTEN or READ:
        num_all = (OUTPUTS if WRITTEN else INPUTS) // GROUP
        num_groups = tl.minimum(tl.maximum(tl.load(num_groups_ptr + image), 0), num_all)
        groups_ptr += image.to(tl.int64) * num_all
        if READ:
            limit = num_groups * GROUP
    if WRITTEN:
        known = columns < num_groups * GROUP
        group = tl.load(groups_ptr + columns // GROUP, mask=known, other=0)
        known = known & (group >= 0) & (group < num_all)
        channels = group * GROUP + columns % GROUP
        stored = known
        working = working & (tl.program_id(1) * BLOCK_N < num_groups * GROUP)
    else:
        channels = columns
        known = columns < OUTPUTS
        stored = columns < Y_PITCH
    out = ((image.to(tl.int64) * out_height + y) * out_width + x) * Y_PITCH
    places = out[:, None] + channels[None, :]
    if residual_ptr is not None:
        kept = inside[:, None] & known[None, :]
        residual = tl.load(residual_ptr + places, mask=kept, other=0.0).to(tl.float32)
    if working:
        total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        origin = image.to(tl.int64) * height
        for tap in range(KERNEL * KERNEL):
            source_y = y * STRIDE + tap // KERNEL - KERNEL // 2
            source_x = x * STRIDE + tap % KERNEL - KERNEL // 2
            there = active & (source_y >= 0) & (source_y < height)
            there = there & (source_x >= 0) & (source_x < width)
            source = ((origin + source_y) * width + source_x) * X_PITCH
            for start in range(0, limit, BLOCK_K):
                depth = start + tl.arange(0, BLOCK_K)
                given = depth < limit
                inputs = depth
                if READ:
                    read_group = tl.load(groups_ptr + depth // GROUP, mask=given, other=0)
                    given = given & (read_group >= 0) & (read_group < num_all)
                    inputs = read_group * GROUP + depth % GROUP
                a = tl.load(
                    x_ptr + source[:, None] + inputs[None, :],
                    mask=there[:, None] & given[None, :],
                    other=0.0,
                )
                b = tl.load(
                    weight_ptr + (tap * INPUTS + inputs)[:, None] * OUTPUTS + channels[None, :],
                    mask=given[:, None] & known[None, :],
                    other=0.0,
                )
                total = tl.dot(a, b, total, input_precision="ieee")
        total += tl.load(bias_ptr + channels, mask=known, other=0.0).to(tl.float32)[None, :]
        written = active
        if residual_ptr is not None:
            total = tl.where(active[:, None], total, 0.0) + residual
            written = inside
        value = tl.maximum(total, 0.0) if RELU else total
        value = value.to(y_ptr.dtype.element_ty)
        tl.store(y_ptr + places, value, mask=written[:, None] & stored[None, :])
    elif residual_ptr is not None:
        value = tl.maximum(residual, 0.0) if RELU else residual
        value = value.to(y_ptr.dtype.element_ty)
        tl.store(y_ptr + places, value, mask=inside[:, None] & stored[None, :])
