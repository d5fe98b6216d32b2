// What the C++ tests need and no more: CHECK counts and prints failures, finish() gives main's exit status.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

#include "core/bfloat16.h"

inline int checks = 0, failures = 0;

#define CHECK(condition) check((condition), __FILE__, __LINE__, #condition)
#define CHECK_NEAR(got, expected, tolerance) \
  check_near((got), (expected), (tolerance), __FILE__, __LINE__, #got)

inline void check(bool ok, const char* file, int line, const char* what) {
  ++checks;
  if (ok) return;
  if (++failures <= 20) std::printf("%s:%d: failed: %s\n", file, line, what);
}

inline void check_near(double got, double expected, double tolerance, const char* file, int line, const char* what) {
  ++checks;
  if (std::fabs(got - expected) <= tolerance) return;
  if (++failures <= 20)
    std::printf("%s:%d: %s is %.9g, expected %.9g +- %.3g\n", file, line, what, got, expected, tolerance);
}

inline int finish() {
  std::printf("%d checks, %d failed\n", checks, failures);
  return checks == 0 || failures != 0;
}

// Largest relative error of rounding to a stored type.
template <class T>
constexpr double unit = 0;
template <>
inline constexpr double unit<float> = 0x1p-24;
template <>
inline constexpr double unit<double> = 0x1p-53;
template <>
inline constexpr double unit<atlas_fast::bfloat16> = 0x1p-8;

template <class T>
double value(T v) {
  return atlas_fast::load(v);
}

// `n` values of type T, uniform in [low, high).
template <class T>
std::vector<T> uniform_values(int64_t n, double low, double high, unsigned seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<double> distribution(low, high);
  std::vector<T> out(n);
  for (T& v : out) v = atlas_fast::store<T>(static_cast<atlas_fast::compute_t<T>>(distribution(generator)));
  return out;
}

// The bits of a value, to compare exactly (NaN too).
template <class T>
bool same(T a, T b) {
  return std::memcmp(&a, &b, sizeof(T)) == 0;
}

template <class T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

// Values one element behind an allocation's beginning, where no vector is aligned, up to its last byte, so that a
// sanitizer sees every access beyond them.
template <class T>
class Shifted {
 public:
  explicit Shifted(const std::vector<T>& values) : memory_(1) { memory_.insert(memory_.end(), values.begin(), values.end()); }
  explicit Shifted(int64_t n) : memory_(n + 1) {}
  T* data() { return memory_.data() + 1; }
  std::vector<T> values() const { return {memory_.begin() + 1, memory_.end()}; }

 private:
  std::vector<T> memory_;
};

// Calls kernel(begin, end) on [0, n) cut at uneven places; with it once as a whole, the results must be the same.
template <class Kernel>
void in_chunks(int64_t n, Kernel kernel) {
  int64_t begin = 0;
  for (int64_t length = 1; begin < n; length = length * 3 + 1) {
    const int64_t end = begin + length < n ? begin + length : n;
    kernel(begin, end);
    kernel(end, end);  // an empty range does nothing
    begin = end;
  }
}
