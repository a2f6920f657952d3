// Compiled to the three libraries of full TensorRT that its Python module asks for, which no package
// registry has and which need a driver. The plugin registry and the runtime are those of the lean
// library, which this is linked with; what only full TensorRT has says so when it is called.
#include <stdexcept>

namespace {

[[noreturn]] void *absent(char const *what) {
    throw std::runtime_error(what);
}

} // namespace

extern "C" {

void *getPluginRegistry();

void *getBuilderPluginRegistry(int) {
    return getPluginRegistry();
}

bool initLibNvInferPlugins(void *, char const *) {
    return true;
}

void *createInferBuilder_INTERNAL(void *, int) {
    return absent("the stand-in for TensorRT has no builder");
}

void *createNvOnnxParser_INTERNAL(void *, void *, int) {
    return absent("the stand-in for TensorRT has no ONNX parser");
}

void *createNvOnnxParserRefitter_INTERNAL(void *, void *, int) {
    return absent("the stand-in for TensorRT has no ONNX refitter");
}

int getNvOnnxParserVersion() {
    return 0;
}
}
