// Small copies of images; engines/shrinking.py says what they are and does the same slowly.
#pragma once

#include <cstdint>

namespace laud {

// Per pixel of a row of the copy its first source pixel and the weights, in 256ths, of that and of
// those after it. All lie inside the source's row: the caller has checked it.
struct Taps {
  const std::int32_t* first;     // (size)
  const std::uint16_t* weights;  // (size, count)
  std::int64_t size;
  std::int64_t count;
};

// images: (n, source, source, 3), row-major. copies: (n, size, size, 3).
void shrink(const std::uint8_t* images, std::int64_t n, std::int64_t source, const Taps& taps,
            std::uint8_t* copies);

}  // namespace laud
