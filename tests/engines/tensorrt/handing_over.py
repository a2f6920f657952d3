"""What NVIDIA's parser hands to a plugin: a program of its own, because TensorRT-RTX aborts after
it has made a plugin. Takes an ONNX file; prints a line of JSON per operator: of its first node."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt_rtx as trt

from engines.export.onnx.operators import DOMAIN, OPERATORS, VERSION, function, plugin


def hand_over(name: str, onnx: bytes, channel: int) -> None:
    """Parse with a plugin of that operator alone; what it is made of goes to `channel`."""
    kind = trt.PluginFieldType.INT32
    fields = [
        trt.PluginField(each, np.array([], np.int32), kind)
        for each in function(name).attribute
        if each not in plugin(name)
    ]

    class Creator(trt.IPluginCreatorV3One):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IPluginCreatorV3One.__init__(self)
            self.name, self.plugin_version = name, str(VERSION)
            self.plugin_namespace = DOMAIN
            self.field_names = trt.PluginFieldCollection(fields)

        def create_plugin(self, node: str, given: Any, _phase: Any) -> Any:
            found = {
                each.name: [str(each.type).rpartition(".")[2], np.ravel(each.data).tolist()]
                for each in given
            }
            os.write(channel, json.dumps([name, node, found]).encode() + b"\n")
            os._exit(0)

    creator = Creator()
    trt.get_plugin_registry().register_creator(creator, DOMAIN)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    trt.OnnxParser(network, logger).parse(onnx)
    os._exit(1)


def main() -> None:
    """One child per operator, which parses and ends."""
    onnx = Path(sys.argv[1]).read_bytes()
    for name in OPERATORS:
        if not plugin(name):
            continue
        child = os.fork()
        if child == 0:
            hand_over(name, onnx, sys.stdout.fileno())
        os.waitpid(child, 0)


main()
