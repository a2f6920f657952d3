"""What NVIDIA's parser hands to a plugin: a program of its own, because TensorRT-RTX aborts after
it has made a plugin. Takes ONNX files; prints a line of JSON per operator: of its first node in the
first file that has one."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tensorrt_rtx as trt

from engines.export.onnx.operators import DOMAIN, OPERATORS, VERSION, function, plugin


def hand_over(name: str, file: bytes, channel: int) -> None:
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
    trt.OnnxParser(network, logger).parse(file)
    os._exit(1)


def main() -> None:
    """One child per operator, which parses and ends."""
    files = [Path(path).read_bytes() for path in sys.argv[1:]]
    nodes = [{node.op_type for node in onnx.load_from_string(file).graph.node} for file in files]
    for name in OPERATORS:
        if not plugin(name):
            continue
        child = os.fork()
        if child == 0:
            file = next(file for file, has in zip(files, nodes, strict=True) if name in has)
            hand_over(name, file, sys.stdout.fileno())
        os.waitpid(child, 0)


main()
