"""The operators that skip: their names, attributes, and what they mean in standard ONNX.

Each is a node of the domain `laud` with a model-local function of the same name. Where a consumer
has a plugin of that name (TensorRT, which asks for the attributes `plugin_namespace` and
`plugin_version`), the plugin computes what is active; where it has none (ONNX Runtime), the
function computes everything and masks.

Legend: N images, U units of a masker (patches row by row, or channel groups), M maskers, C
channels, H x W pixels of a map, Q pixels of the map that a 3x3 reads. Maps are (N, C, H, W),
weights (kernel, kernel, inputs, outputs). A list is `index` int32 (N, U), of which the first
`count` int32 (N,) are active.

partition: logits (N, U), thresholds (N, M), caps (N, M) -> index, place, count. Active units in
    rising order, then the others; place[index[i]] = i. `masker` is the column of thresholds, caps.
dilate: place, count of patches and x, the block's input -> index (N, Q), count of the pixels that a
    3x3 of `stride` reads. x gives the size alone: Q is that of x after `stride_before`.
block_conv: ReLU(convolution) on the pixels of active patches; elsewhere it is not to be read.
block_conv_add: ReLU(convolution + residual) on active patches, ReLU(residual) elsewhere.
block_conv_linear_add: the same without ReLU. With a residual of one number both say what a map
    holds where nothing is active.
conv_to_groups: ReLU(convolution) in active channel groups; elsewhere it is not to be read.
conv_within_groups: the same from the same groups of inputs; what is inactive is not read.
conv_from_groups_add: ReLU(convolution of active input groups + residual).
block_conv_to_groups, block_conv_within_groups, block_conv_from_groups_add: both lists, patches
    first.

pixel_mask: place, count of patches and y -> which pixels of the map y are active, bool
    (N, 1, H, W). channel_mask: place, count of groups and y -> which channels are, (N, C, 1, 1).
    These two have no plugin: they are what their functions are, everywhere.

`patch` is the side of a patch in pixels of the output, WHOLE_MAP where one decision covers the map;
`group` is the channels of a group, `stride` that of the convolution, which is padded so that a
stride of 1 keeps the size.

All attributes are single integers, and no function refers to a list of them: the parser of TensorRT
(seen in TensorRT-RTX 1.7) silently takes strides that are a function's attribute for 1. Functions
therefore convolve at a stride of 1 and drop what lies between.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx
from onnx import parser

from engines.core import MAX_IMAGE_SIZE

DOMAIN = "laud"
VERSION = 1
OPSET = 18

_PLUGIN = {"plugin_namespace": DOMAIN, "plugin_version": str(VERSION)}
_WITHOUT_PLUGIN = ("pixel_mask", "channel_mask")

WHOLE_MAP = MAX_IMAGE_SIZE
"""`patch` of layer skipping: no map is larger."""

_CONSTANTS = """
    zero = Constant <value_int: int = 0> ()
    one = Constant <value_int: int = 1> ()
    axis_0 = Constant <value_ints: ints = [0]> ()
    axis_1 = Constant <value_ints: ints = [1]> ()
"""

_PARTITION = """
    masker = Constant <value_int: int = @masker> ()
    column = Unsqueeze (masker, axis_0)
    threshold = Gather <axis = 1> (thresholds, column)
    cap = Gather <axis = 1> (caps, column)
    likely = GreaterOrEqual (logits, threshold)
    units = Shape <start = 1, end = 2> (logits)
    falling, order = TopK <axis = 1, largest = 1, sorted = 1> (logits, units)
    all = Shape (logits)
    num_units = Squeeze (units)
    numbers = Range (zero, num_units, one)
    numbers_32 = Cast <to = 6> (numbers)
    rows = Expand (numbers_32, all)
    unranked = ConstantOfShape <value = int32[1] {0}> (all)
    rank = ScatterElements <axis = 1> (unranked, order, rows)
    allowed = Less (rank, cap)
    active = And (likely, allowed)
"""

# The size of the map that the 3x3 reads, (1,) each, and that of the block's output, scalars.
_SIZES = """
    before = Constant <value_int: int = @stride_before> ()
    stride = Constant <value_int: int = @stride> ()
    x_height = Shape <start = 2, end = 3> (x)
    x_width = Shape <start = 3, end = 4> (x)
    before_less = Sub (before, one)
    stride_less = Sub (stride, one)
    x_height_more = Add (x_height, before_less)
    x_width_more = Add (x_width, before_less)
    read_height = Div (x_height_more, before)
    read_width = Div (x_width_more, before)
    read_height_more = Add (read_height, stride_less)
    read_width_more = Add (read_width, stride_less)
    map_height = Div (read_height_more, stride)
    map_width = Div (read_width_more, stride)
    height = Squeeze (map_height)
    width = Squeeze (map_width)
"""

_LIVE = """
    column = Unsqueeze (count, axis_1)
    live = Less (place, column)
    units = Cast <to = 6> (live)
"""


def _near(side: str) -> str:
    """Which pixels of the output a pixel's 3x3 may touch along a side: `side`_0, _1 and _2."""
    return f"""
    read_{side}_scalar = Squeeze (read_{side})
    {side}_pixels = Range (zero, read_{side}_scalar, one)
    {side}_first = Sub (stride, two)
    {side}_below = Add ({side}_pixels, {side}_first)
    {side}_below_pixel = Div ({side}_below, stride)
    {side}_0 = Max ({side}_below_pixel, zero)
    {side}_1 = Div ({side}_pixels, stride)
    {side}_above = Add ({side}_pixels, one)
    {side}_above_pixel = Div ({side}_above, stride)
    {side}_2 = Min ({side}_above_pixel, {side}_last)
"""


def _spread() -> str:
    """`active`, bool (N, Q), and `rows` for a list of it, from `wide`, decisions (N, H, W)."""
    lines = "    two = Constant <value_int: int = 2> ()\n" + _near("height") + _near("width")
    source = "wide"
    for axis, side in ((1, "height"), (2, "width")):
        for near in range(3):
            lines += f"    {side}_at_{near} = Gather <axis = {axis}> ({source}, {side}_{near})\n"
        lines += f"    {side}_any = Max ({side}_at_0, {side}_at_1, {side}_at_2)\n"
        source = f"{side}_any"
    return f"""{lines}
    flat = Flatten <axis = 1> ({source})
    active = Cast <to = 9> (flat)
    all = Shape (flat)
    per_image = Shape <start = 1, end = 2> (flat)
    num_pixels = Squeeze (per_image)
    numbers = Range (zero, num_pixels, one)
    numbers_32 = Cast <to = 6> (numbers)
    rows = Expand (numbers_32, all)
"""


_WEIGHT = """
    weight_OIHW = Transpose <perm = [3, 2, 0, 1]> (weight)
    float_0 = Constant <value = float {0}> ()
    nothing = CastLike (float_0, bias)
"""

_STRIDED = f"""
    stride = Constant <value_int: int = @stride> ()
    step = Unsqueeze (stride, axis_0)
    steps = Concat <axis = 0> (step, step)
    begin = Constant <value_ints: ints = [0, 0]> ()
    end = Constant <value_ints: ints = [{MAX_IMAGE_SIZE}, {MAX_IMAGE_SIZE}]> ()
    sides = Constant <value_ints: ints = [2, 3]> ()
    sums = Slice (everywhere, begin, end, sides, steps)
"""

_GROUP = """
    group = Constant <value_int: int = @group> ()
    axes_23 = Constant <value_ints: ints = [2, 3]> ()
"""


def _size(of: str) -> str:
    """The scalars `height` and `width` of a map."""
    return f"""
    map_height = Shape <start = 2, end = 3> ({of})
    map_width = Shape <start = 3, end = 4> ({of})
    height = Squeeze (map_height)
    width = Squeeze (map_width)
"""


def _list(place: str, count: str) -> str:
    """`index`, `place` and `count` from active, bool (N, U), and rows, int32 (N, U) of 0, 1, ..."""
    return f"""
    chosen = Cast <to = 6> (active)
    idle = Not (active)
    left_out = Cast <to = 6> (idle)
    sum_chosen = ReduceSum (chosen, axis_1)
    chosen_before = CumSum <exclusive = 1> (chosen, one)
    left_out_before = CumSum <exclusive = 1> (left_out, one)
    behind = Add (sum_chosen, left_out_before)
    {place} = Where (active, chosen_before, behind)
    index = ScatterElements <axis = 1> (rows, {place}, rows)
    {count} = Squeeze (sum_chosen, axis_1)
"""


def _units(index: str, count: str, to: str) -> str:
    """Decisions `to`_units, int32 (N, U), from a list."""
    return f"""
    {to}_size = Shape <start = 1, end = 2> ({index})
    {to}_last = Squeeze ({to}_size)
    {to}_range = Range (zero, {to}_last, one)
    {to}_slots = Cast <to = 6> ({to}_range)
    {to}_counts = Unsqueeze ({count}, axis_1)
    {to}_live = Less ({to}_slots, {to}_counts)
    {to}_flags = Cast <to = 6> ({to}_live)
    {to}_all = Shape ({index})
    {to}_none = ConstantOfShape <value = int32[1] {{0}}> ({to}_all)
    {to}_units = ScatterElements <axis = 1> ({to}_none, {index}, {to}_flags)
"""


def _pixels(units: str) -> str:
    """`pixels`, bool (N, 1, H, W), from decisions and the scalars `height` and `width`."""
    sides = "".join(
        f"""
    {side}_range = Range (zero, {side}, one)
    {side}_patch = Div ({side}_range, patch)
    {side}_last = Sub ({side}, one)
    {side}_whole = Div ({side}_last, patch)
    {side}_patches = Add ({side}_whole, one)
    {side}_grid = Unsqueeze ({side}_patches, axis_0)
"""
        for side in ("height", "width")
    )
    return f"""
    patch = Constant <value_int: int = @patch> ()
    {sides}
    as_it_is = Constant <value_ints: ints = [0]> ()
    grid = Concat <axis = 0> (as_it_is, height_grid, width_grid)
    coarse = Reshape ({units}, grid)
    tall = Gather <axis = 1> (coarse, height_patch)
    wide = Gather <axis = 2> (tall, width_patch)
    plane = Unsqueeze (wide, axis_1)
    pixels = Cast <to = 9> (plane)
"""


def _channels(of: str, to: str, units: str) -> str:
    """`to`, bool (N, C, 1, 1), for the channels of the map `of`, from decisions on groups."""
    return f"""
    {to}_size = Shape <start = 1, end = 2> ({of})
    {to}_last = Squeeze ({to}_size)
    {to}_range = Range (zero, {to}_last, one)
    {to}_group = Div ({to}_range, group)
    {to}_units = Gather <axis = 1> ({units}, {to}_group)
    {to}_planes = Unsqueeze ({to}_units, axes_23)
    {to} = Cast <to = 9> ({to}_planes)
"""


@dataclass(frozen=True)
class _Operator:
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: Sequence[str]
    body: str


def _convolution(
    *,
    patches: bool = False,
    read: bool = False,
    written: bool = False,
    add: bool = False,
    relu: bool = True,
) -> _Operator:
    """patches: on a list of them. read, written: inputs, outputs of a list of groups. add: a
    residual. relu: False only where a residual is added."""
    inputs, attributes, body = ["x"], ["stride"], _WEIGHT
    groups = read or written
    if patches:
        inputs += ["index", "count"]
        attributes += ["patch"]
    if groups:
        inputs += ["groups", "num_groups"]
        attributes += ["group"]
        body += _GROUP + _units("groups", "num_groups", "group")
    source = "x"
    if read:
        body += _channels("x", "inputs", "group_units")
        body += "    known = Where (inputs, x, nothing)\n"
        source = "known"
    body += f'    everywhere = Conv <auto_pad = "SAME_UPPER"> ({source}, weight_OIHW, bias)\n'
    body += _STRIDED
    if patches:
        body += _size("sums") + _units("index", "count", "block") + _pixels("block_units")
    last = "sums"
    if not add:
        body += "    values = Relu (sums)\n"
        last = "values"
    if written:
        body += _channels("sums", "outputs", "group_units")
        body += f"    grouped = Where (outputs, {last}, nothing)\n"
        last = "grouped"
    if patches:
        body += f"    blocked = Where (pixels, {last}, nothing)\n"
        last = "blocked"
    if add:
        body += f"    both = Add ({last}, residual)\n"
        body += f"    y = {'Relu' if relu else 'Identity'} (both)\n"
    else:
        body += f"    y = Identity ({last})\n"
    last_inputs = ["weight", "bias", *(["residual"] if add else [])]
    return _Operator([*inputs, *last_inputs], ["y"], attributes, body)


_OPERATORS = {
    "partition": _Operator(
        ["logits", "thresholds", "caps"],
        ["index", "place", "count"],
        ["masker"],
        _PARTITION + _list("place", "count"),
    ),
    "dilate": _Operator(
        ["place", "count", "x"],
        ["index", "num_pixels_active"],
        ["patch", "stride", "stride_before"],
        _SIZES + _LIVE + _pixels("units") + _spread() + _list("pixel_place", "num_pixels_active"),
    ),
    "pixel_mask": _Operator(
        ["place", "count", "y"],
        ["pixels"],
        ["patch"],
        _LIVE + _size("y") + _pixels("units"),
    ),
    "channel_mask": _Operator(
        ["place", "count", "y"],
        ["channels"],
        ["group"],
        _LIVE + _GROUP + _channels("y", "channels", "units"),
    ),
    "block_conv": _convolution(patches=True),
    "block_conv_add": _convolution(patches=True, add=True),
    "block_conv_linear_add": _convolution(patches=True, add=True, relu=False),
    "conv_to_groups": _convolution(written=True),
    "conv_within_groups": _convolution(read=True, written=True),
    "conv_from_groups_add": _convolution(read=True, add=True),
    "block_conv_to_groups": _convolution(patches=True, written=True),
    "block_conv_within_groups": _convolution(patches=True, read=True, written=True),
    "block_conv_from_groups_add": _convolution(patches=True, read=True, add=True),
}

OPERATORS = tuple(_OPERATORS)


def plugin(name: str) -> dict[str, str]:
    """Attributes by which TensorRT's parser finds the plugin of an operator, and prefers it to the
    function; none where there is no plugin."""
    return {} if name in _WITHOUT_PLUGIN else dict(_PLUGIN)


def function(name: str) -> onnx.FunctionProto:
    """What the operator of that name means. Raises KeyError for a name not in OPERATORS."""
    found = _OPERATORS[name]
    return parser.parse_function(
        f'<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>\n'
        f"{name} <{', '.join((*found.attributes, *plugin(name)))}> ({', '.join(found.inputs)}) => "
        f"({', '.join(found.outputs)})\n{{{_CONSTANTS}{found.body}}}"
    )


def functions(names: Iterable[str]) -> list[onnx.FunctionProto]:
    """Those of the operators, in the order of OPERATORS."""
    wanted = set(names)
    return [function(name) for name in OPERATORS if name in wanted]
