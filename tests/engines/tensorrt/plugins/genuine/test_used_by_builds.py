"""Every name of TensorRT's Python module that builds and engines use is there, in this version."""

from __future__ import annotations

import pytest
import tensorrt as trt

USED = {
    "Builder": (
        *("create_network", "create_builder_config", "create_optimization_profile"),
        "build_serialized_network",
    ),
    "INetworkDefinition": ("num_layers", "get_layer"),
    "OnnxParser": ("parse", "num_errors", "get_error"),
    "ParserError": ("desc", "node_name", "node_operator"),
    "IBuilderConfig": (
        *("clear_flag", "add_optimization_profile", "create_timing_cache", "set_timing_cache"),
        *("get_timing_cache", "progress_monitor"),
    ),
    "IOptimizationProfile": ("set_shape",),
    "ITimingCache": ("serialize",),
    "IProgressMonitor": ("phase_start", "step_complete", "phase_finish"),
    "ILogger": ("Severity", "log"),
    "BuilderFlag": ("TF32",),
    "NetworkDefinitionCreationFlag": ("STRONGLY_TYPED", "PREFER_AOT_PYTHON_PLUGINS"),
    "LayerType": ("PLUGIN_V3",),
    "IPluginRegistry": ("get_creator",),
    "Runtime": ("deserialize_cuda_engine",),
    "ICudaEngine": (
        *("num_io_tensors", "get_tensor_name", "get_tensor_mode", "get_tensor_dtype"),
        "create_execution_context",
    ),
    "IExecutionContext": (
        *("set_optimization_profile_async", "set_input_shape", "infer_shapes"),
        *("get_tensor_shape", "set_tensor_address", "execute_async_v3", "engine"),
    ),
    "ExecutionContextAllocationStrategy": ("ON_PROFILE_CHANGE",),
    "TensorIOMode": ("INPUT",),
}


@pytest.mark.parametrize("kind", USED)
def test_names_are_there(kind: str) -> None:
    found = getattr(trt, kind)
    assert [name for name in USED[kind] if not hasattr(found, name)] == []


def test_the_librarys_own_plugins_can_be_asked_for() -> None:
    from engines.tensorrt.libraries import library, start_own_plugins

    start_own_plugins(library("tensorrt"))


def test_registered_plugins_are_found_as_a_build_looks_for_them() -> None:
    from engines.tensorrt.libraries import library
    from engines.tensorrt.network import check_registered
    from engines.tensorrt.plugins import register
    from engines.tensorrt.plugins.operators import OPERATORS

    register(86)
    check_registered(library("tensorrt"), OPERATORS)


def test_types_are_those_of_numpy() -> None:
    names = ("BOOL", "UINT8", "INT32", "INT64", "HALF", "FLOAT")
    assert [trt.nptype(getattr(trt.DataType, name)).__name__ for name in names] == [
        *("bool", "uint8", "int32", "int64", "float16", "float32")
    ]
