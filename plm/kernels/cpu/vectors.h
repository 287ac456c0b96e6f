// What the kernels share: vectors of floats as wide as the machine has them, and a small product.
// Only GCC's and Clang's vector extensions are used, so that one text serves every CPU.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

// aligned(4): they are read from wherever a tensor's row begins.
typedef float Vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t IntVec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

inline Vec load(const float* from) { return *reinterpret_cast<const Vec*>(from); }

inline void store(float* to, Vec value) { *reinterpret_cast<Vec*>(to) = value; }

inline Vec all(float value) { return Vec{} + value; }

// By halves, as the compiler has instructions for.
inline float sum_of(Vec value) {
  float part[LANES];
  std::memcpy(part, &value, sizeof part);
  for (int width = LANES / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) part[i] += part[i + width];
  return part[0];
}

inline float max_of(Vec value) {
  float part[LANES];
  std::memcpy(part, &value, sizeof part);
  for (int width = LANES / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i)
      part[i] = part[i] > part[i + width] ? part[i] : part[i + width];
  return part[0];
}

// exp(x) for x <= 88, to 2 units in the last place: 2^n · e^r with |r| <= ln(2) / 2, as Cephes has
// it. Below the smallest normal number it gives 0. NaN stays NaN.
inline Vec exp_of(Vec x) {
  const float least = -87.33654f, to_whole = 12582912.0f;  // 1.5 · 2^23
  const Vec held = x < least ? all(least) : x;
  const Vec whole = (held * 1.44269504f + to_whole) - to_whole;
  const Vec r = (held - whole * 0.693359375f) + whole * 2.12194440e-4f;
  Vec p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const IntVec bits = (__builtin_convertvector(whole, IntVec) + 127) << 23;
  Vec power;
  std::memcpy(&power, &bits, sizeof power);
  return x < least ? Vec{} : p * power;
}

inline float exp_of(float x) { return exp_of(all(x))[0]; }

// sums[i][j] += sum over k of a[i, k] · b[k, j-th vector]. Each element is summed in the order of k
// whatever ROWS is: what comes out for a row does not depend on its neighbours.
template <int ROWS, int VECS>
inline void multiply(const float* a, int64_t a_stride, const float* b, int64_t b_stride,
                     int64_t depth, Vec (&sums)[ROWS][VECS]) {
  Vec own[ROWS][VECS];
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < VECS; ++j) own[i][j] = sums[i][j];
  for (int64_t k = 0; k < depth; ++k) {
    Vec right[VECS];
#pragma GCC unroll 16
    for (int j = 0; j < VECS; ++j) right[j] = load(b + k * b_stride + j * LANES);
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 16
      for (int j = 0; j < VECS; ++j) own[i][j] += a[i * a_stride + k] * right[j];
  }
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < VECS; ++j) sums[i][j] = own[i][j];
}
