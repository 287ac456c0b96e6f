// A token a row from its logits.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "vectors.h"

namespace {

constexpr int64_t BLOCK = 64;

// The largest of some numbers.
float largest(const float* x, int64_t size) {
  float most = x[0];
  int64_t i = 0;
  if (size >= LANES) {
    Vec top = load(x);
    for (i = LANES; i + LANES <= size; i += LANES) {
      const Vec next = load(x + i);
      top = next > top ? next : top;
    }
    most = max_of(top);
  }
  for (; i < size; ++i) most = x[i] > most ? x[i] : most;
  return most;
}

// Sum of exp(x / heat - least); the terms into `to`, if it is there.
float weigh(const float* x, int64_t size, float heat, float most, float* to) {
  Vec sums{};
  int64_t i = 0;
  for (; i + LANES <= size; i += LANES) {
    const Vec weight = exp_of(load(x + i) / heat - most);
    if (to) store(to + i, weight);
    sums += weight;
  }
  float sum = sum_of(sums);
  for (; i < size; ++i) {
    const float weight = exp_of(x[i] / heat - most);
    if (to) to[i] = weight;
    sum += weight;
  }
  return sum;
}

// Where a running sum of x passes the target; held below the whole sum, which rounding may reach.
int64_t passes(const float* x, int64_t size, float target, float* before) {
  float total = 0.0f, sum = 0.0f;
  for (int64_t i = 0; i < size; ++i) total += x[i];
  target = std::max(0.0f, std::min(target, std::nextafter(total, 0.0f)));
  for (int64_t i = 0; i < size; ++i) {
    *before = sum;
    sum += x[i];
    if (sum > target) return i;
  }
  return 0;  // Only where the sum is no number.
}

struct Drawn {
  int64_t token;
  float logp, sampled;
  bool finite;
};

Drawn draw_row(const float* x, int64_t size, float heat, double uniform,
               std::vector<float>& scratch) {
  const int64_t blocks = (size + BLOCK - 1) / BLOCK;
  scratch.resize(blocks + size);
  float *by_block = scratch.data(), *weights = by_block + blocks;
  const auto length = [&](int64_t block) { return std::min(BLOCK, size - block * BLOCK); };
  for (int64_t b = 0; b < blocks; ++b) by_block[b] = largest(x + b * BLOCK, length(b));
  const float most = largest(by_block, blocks);
  Drawn found{0, 0.0f, 0.0f, true};
  if (heat == 0.0f) {
    int64_t b = std::find(by_block, by_block + blocks, most) - by_block;
    b = std::min(b, blocks - 1);
    const float* in = x + b * BLOCK;
    found.token = std::min(b * BLOCK + (std::find(in, in + length(b), most) - in), size - 1);
  }
  float sum = 0.0f;
  for (int64_t b = 0; b < blocks; ++b)
    sum += weigh(x + b * BLOCK, length(b), 1.0f, most, nullptr);
  if (heat != 0.0f) {
    for (int64_t b = 0; b < blocks; ++b)
      by_block[b] = weigh(x + b * BLOCK, length(b), heat, most / heat, weights + b * BLOCK);
    float total = 0.0f, before = 0.0f, unused;
    for (int64_t b = 0; b < blocks; ++b) total += by_block[b];
    const float target = static_cast<float>(uniform * total);
    const int64_t b = passes(by_block, blocks, target, &before);
    found.token = b * BLOCK + passes(weights + b * BLOCK, length(b), target - before, &unused);
    found.sampled = std::log(weights[found.token] / total);
    found.finite = std::isfinite(total);
  }
  found.logp = x[found.token] - most - std::log(sum);
  found.finite = found.finite && std::isfinite(sum);
  return found;
}

}  // namespace

// One token a row of logits [rows, size], its log-probability by them, and by what was drawn from:
// 0 for greedy rows. heat: [rows], 0 for the likeliest, of equals the first. uniform: [rows] in
// [0, 1), or null where no row draws. Returns how many rows have no distribution.
extern "C" int64_t draw(const float* logits, int64_t stride, const float* heat,
                        const double* uniform, int64_t* token, float* logp, float* sampled,
                        int64_t rows, int64_t size, int64_t threads) {
  int64_t bad = 0;
#pragma omp parallel num_threads(threads) if (threads > 1) reduction(+ : bad)
  {
    std::vector<float> scratch;
#pragma omp for
    for (int64_t row = 0; row < rows; ++row) {
      const double place = uniform ? uniform[row] : 0.0;
      const Drawn found = draw_row(logits + row * stride, size, heat[row], place, scratch);
      token[row] = found.token;
      logp[row] = found.logp;
      sampled[row] = found.sampled;
      bad += !found.finite;
    }
  }
  return bad;
}
