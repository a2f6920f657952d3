// A test is a function that throws where something is wrong.
#pragma once

#include <cstdint>
#include <functional>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.hpp"

namespace laud {
const Kernels& f32_avx512_emulated();
const Kernels& u8_vnni_emulated();
const Kernels& u8_amx_emulated();
const Kernels& bf16_amx_emulated();
}  // namespace laud

namespace laud::testing {

struct Test {
  std::string name;
  std::function<void()> run;
};

std::vector<Test>& tests();

struct Register {
  Register(const char* name, std::function<void()> run) { tests().push_back({name, std::move(run)}); }
};

template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw std::runtime_error(text.str());
}

template <typename A, typename B, typename... Parts>
void expect_equal(const A& got, const B& wanted, const Parts&... where) {
  if (!(got == wanted)) fail(where..., ": got ", +got, ", wanted ", +wanted);
}

// A function that must throw.
template <typename Error, typename Function>
void expect_throw(Function&& function, const std::string& part) {
  try {
    function();
  } catch (const Error& error) {
    if (std::string(error.what()).find(part) != std::string::npos) return;
    fail("the error says '", error.what(), "', not '", part, "'");
  }
  fail("nothing was thrown; wanted an error that says '", part, "'");
}

// Every kernel that this machine can run, emulations of the others included.
std::vector<const Kernels*> kernels_of(Element element);

// Seeded numbers; one generator per test, so that tests do not depend on each other.
class Random {
 public:
  explicit Random(std::uint32_t seed) : engine_(seed) {}
  std::int64_t between(std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(engine_);
  }
  float normal() { return std::normal_distribution<float>()(engine_); }
  bool chance(double p) { return std::bernoulli_distribution(p)(engine_); }

 private:
  std::mt19937 engine_;
};

}  // namespace laud::testing

#define LAUD_TEST(name)                                             \
  static void name();                                               \
  static const ::laud::testing::Register register_##name(#name, name); \
  static void name()
