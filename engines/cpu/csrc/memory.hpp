#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace laud {

// Bytes on a 64-byte boundary with guard zones on both sides. Grows on request; what it held is lost
// then. The pattern of poison and guards is a NaN as fp32 and as bf16, and alternates as bytes.
class Buffer {
 public:
  Buffer() = default;

  template <typename T = unsigned char>
  T* data() {
    return reinterpret_cast<T*>(data_);
  }
  template <typename T = unsigned char>
  const T* data() const {
    return reinterpret_cast<const T*>(data_);
  }

  // At least `size` bytes, with room to read a line behind them. Throws std::bad_alloc.
  void reserve(std::int64_t wanted) {
    const auto size = static_cast<std::size_t>(wanted < 1 ? 1 : wanted);
    if (size <= size_) return;
    release();
    const std::size_t bytes = size + 2 * kGuard + 1;
    const std::size_t boundary = bytes >= kHugePage ? kHugePage : 64;
    const std::size_t rounded = (bytes + boundary - 1) / boundary * boundary;
    memory_.reset(static_cast<unsigned char*>(std::aligned_alloc(boundary, rounded)));
    if (!memory_) throw std::bad_alloc();
#if defined(__linux__)
    if (boundary == kHugePage) madvise(memory_.get(), rounded, MADV_HUGEPAGE);
#endif
    data_ = memory_.get() + kGuard;
    size_ = size + size % 2;  // whole 16-bit numbers
    fill(memory_.get(), kGuard);
    fill(data_ + size_, kGuard);
  }

  void release() {
    memory_.reset();
    data_ = nullptr;
    size_ = 0;
  }

  // NaN everywhere: a later read of what was not written shows in the answer.
  void poison() {
    if (memory_) fill(data_, size_);
  }

  // Throws std::logic_error where somebody wrote beside the buffer.
  void check_guards() const {
    if (memory_ && !(intact(memory_.get()) && intact(data_ + size_))) {
      throw std::logic_error("a kernel wrote beside its buffer");
    }
  }

 private:
  static constexpr std::size_t kGuard = 256;
  static constexpr std::size_t kHugePage = std::size_t{2} << 20;
  static constexpr std::uint16_t kPattern = 0xffa5;

  static void fill(unsigned char* p, std::size_t size) {
    for (std::size_t i = 0; i + 1 < size; i += 2) std::memcpy(p + i, &kPattern, 2);
  }
  static bool intact(const unsigned char* p) {
    for (std::size_t i = 0; i < kGuard; i += 2) {
      if (std::memcmp(p + i, &kPattern, 2) != 0) return false;
    }
    return true;
  }

  struct Free {
    void operator()(unsigned char* p) const { std::free(p); }
  };
  std::unique_ptr<unsigned char, Free> memory_;
  unsigned char* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace laud
