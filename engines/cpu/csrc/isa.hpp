#pragma once

#include <string>
#include <vector>

#include "kernels.hpp"

namespace laud {

// Names of the instruction sets that have kernels for this element here, the best first.
std::vector<std::string> supported_isas(Element element);

// The best kernels of this machine that need no more than the instruction set `most` (empty: no
// limit). Throws std::invalid_argument for a name that is unknown, and where there are none.
const Kernels& choose_kernels(Element element, const std::string& most);

// "fp32", "bf16" or "int8"; throws std::invalid_argument for another name.
Element element_of(const std::string& precision);

}  // namespace laud
