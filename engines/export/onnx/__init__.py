"""A bundle's network as one ONNX file for every consumer; see `operators` for what is special."""
