// Runs all tests, or those whose name contains the argument; exit status 1 where one fails.
#include <cstdio>
#include <exception>

#include "check.hpp"
#include "isa.hpp"

namespace laud::testing {

std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

std::vector<const Kernels*> kernels_of(Element element) {
  std::vector<const Kernels*> found;
  for (const std::string& name : supported_isas(element)) {
    found.push_back(&choose_kernels(element, name));
  }
  if (element == Element::f32) found.push_back(&f32_avx512_emulated());
  if (element == Element::u8) {
    found.push_back(&u8_vnni_emulated());
    found.push_back(&u8_amx_emulated());
  }
  if (element == Element::bf16) found.push_back(&bf16_amx_emulated());
  for (const Kernels* each : found) {
    if (!each->prepare()) fail("the system does not allow ", each->name);
  }
  return found;
}

}  // namespace laud::testing

int main(int argc, char** argv) {
  const std::string wanted = argc > 1 ? argv[1] : "";
  int failed = 0, run = 0;
  for (const laud::testing::Test& test : laud::testing::tests()) {
    if (test.name.find(wanted) == std::string::npos) continue;
    ++run;
    try {
      test.run();
      std::printf("passed %s\n", test.name.c_str());
    } catch (const std::exception& error) {
      ++failed;
      std::printf("FAILED %s: %s\n", test.name.c_str(), error.what());
    }
    std::fflush(stdout);
  }
  std::printf("%d tests, %d failed\n", run, failed);
  return failed || run == 0 ? 1 : 0;
}
