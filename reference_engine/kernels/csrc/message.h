// Error messages without streams: a library that brings its own copy of the C++ runtime, as a toolchain without the
// shared one makes it, crashes when it formats a number by torch's.
#pragma once

#include <c10/core/ScalarType.h>
#include <c10/util/ArrayRef.h>

#include <string>
#include <type_traits>

namespace llmbench {

template <typename Part>
std::string as_text(const Part& part) {
  if constexpr (std::is_same_v<Part, c10::ScalarType>) {
    return c10::toString(part);
  } else if constexpr (std::is_same_v<Part, c10::IntArrayRef>) {
    std::string text = "[";
    for (const int64_t size : part) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
    return text + "]";
  } else if constexpr (std::is_arithmetic_v<Part>) {
    return std::to_string(part);
  } else {
    return std::string(part);
  }
}

template <typename... Parts>
std::string message(const Parts&... parts) {
  return (as_text(parts) + ...);
}

}  // namespace llmbench
