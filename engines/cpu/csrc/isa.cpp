#include "isa.hpp"

#include <stdexcept>

namespace laud {
namespace {

// From the best to the one that runs everywhere.
constexpr const char* kNames[] = {"amx", "avx512-vnni", "avx512", "avx2", "baseline"};

// Kernels that the CPU has and the system allows; a system that refuses AMX leaves the others.
std::vector<const Kernels*> candidates() {
  std::vector<const Kernels*> found;
#if defined(LAUD_X86)
  __builtin_cpu_init();
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool amx = avx512 && __builtin_cpu_supports("amx-tile") && u8_amx().prepare();
  if (amx && __builtin_cpu_supports("amx-int8")) found.push_back(&u8_amx());
  if (amx && __builtin_cpu_supports("amx-bf16")) found.push_back(&bf16_amx());
  if (avx512 && __builtin_cpu_supports("avx512vnni")) found.push_back(&u8_vnni());
  if (avx512) found.push_back(&f32_avx512());
  if (avx2) found.push_back(&f32_avx2());
  if (avx2) found.push_back(&u8_avx2());
#endif
  found.push_back(&f32_baseline());
  found.push_back(&u8_baseline());
  return found;
}

}  // namespace

std::vector<std::string> supported_isas(Element element) {
  std::vector<std::string> names;
  for (const Kernels* each : candidates()) {
    if (each->element == element) names.emplace_back(each->name);
  }
  return names;
}

const Kernels& choose_kernels(Element element, const std::string& most) {
  const std::vector<const Kernels*> here = candidates();
  bool allowed = most.empty();
  std::string known;
  for (const char* name : kNames) {
    allowed = allowed || most == name;
    known += (known.empty() ? "" : ", ") + std::string(name);
    for (const Kernels* each : here) {
      if (allowed && each->element == element && each->name == std::string(name)) return *each;
    }
  }
  if (!allowed) {
    throw std::invalid_argument("unknown instruction set '" + most + "'; there are: " + known);
  }
  throw std::invalid_argument(
      element == Element::bf16
          ? "bf16 needs a CPU with AMX (Intel Xeon of the 4th generation or newer)"
          : "there are no kernels for this CPU");
}

Element element_of(const std::string& precision) {
  if (precision == "fp32") return Element::f32;
  if (precision == "bf16") return Element::bf16;
  if (precision == "int8") return Element::u8;
  throw std::invalid_argument("unknown precision '" + precision + "'; there are: fp32, bf16, int8");
}

}  // namespace laud
