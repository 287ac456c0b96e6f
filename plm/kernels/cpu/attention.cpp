// One new position a row: turned, kept, and attending to those before it.
#include <algorithm>
#include <limits>

#include "vectors.h"

namespace {

constexpr int64_t TILE = 32;  // Positions at a time: their keys stay in the first cache.
constexpr int MOST_HEADS = 4;
constexpr float NOTHING = -std::numeric_limits<float>::infinity();

}  // namespace

// As in calls.py, field by field, and described there.
struct Attention {
  float *queries, *fresh, *cache, *out, *scratch;
  const float* turns;
  const int64_t *positions, *runs;
  int64_t rows, heads, query_row, query_step, query_turned;
  int64_t kept_heads, fresh_row, width, kept_turned, turned;
  int64_t cache_row, cache_head, key, value_start, value;
  int64_t shared, run_count, threads;
};

namespace {

// Pairs as complex numbers by complex numbers.
void turn(float* pairs, const float* by, int64_t size) {
  for (int64_t i = 0; i < size; i += 2) {
    const float real = pairs[i], other = pairs[i + 1];
    pairs[i] = real * by[i] - other * by[i + 1];
    pairs[i + 1] = real * by[i + 1] + other * by[i];
  }
}

void turn_and_keep(const Attention& a, int64_t row) {
  const float* by = a.turns + a.positions[row] * a.turned;
  for (int64_t head = 0; head < a.heads; ++head)
    turn(a.queries + row * a.query_row + head * a.query_step + a.query_turned, by, a.turned);
  for (int64_t head = 0; head < a.kept_heads; ++head) {
    float* fresh = a.fresh + row * a.fresh_row + head * a.width;
    turn(fresh + a.kept_turned, by, a.turned);
    float* to = a.cache + row * a.cache_row + head * a.cache_head;
    std::copy_n(fresh, a.width, to + a.positions[row] * a.width);
  }
}

// What some heads of a row have seen so far; `out` is not yet divided by `sum`.
struct Seen {
  const float* queries;
  float *most, *sum, *out;
};

// Of the heads from one on; scratch: [2, rows, heads].
Seen seen_of(const Attention& a, int64_t row, int64_t head) {
  const int64_t at = row * a.heads + head;
  return {a.queries + row * a.query_row + head * a.query_step, a.scratch + at,
          a.scratch + a.rows * a.heads + at, a.out + at * a.value};
}

template <int HEADS, int POSITIONS>
void scores_of(const Attention& a, const float* queries, const float* keys, float* scores) {
  Vec sums[HEADS][POSITIONS]{};
  int64_t i = 0;
  for (; i + LANES <= a.key; i += LANES) {
    Vec key[POSITIONS];
#pragma GCC unroll 8
    for (int p = 0; p < POSITIONS; ++p) key[p] = load(keys + p * a.width + i);
#pragma GCC unroll 8
    for (int h = 0; h < HEADS; ++h) {
      const Vec query = load(queries + h * a.query_step + i);
#pragma GCC unroll 8
      for (int p = 0; p < POSITIONS; ++p) sums[h][p] += query * key[p];
    }
  }
#pragma GCC unroll 8
  for (int h = 0; h < HEADS; ++h)
#pragma GCC unroll 8
    for (int p = 0; p < POSITIONS; ++p) {
      float score = sum_of(sums[h][p]);
      for (int64_t j = i; j < a.key; ++j)
        score += queries[h * a.query_step + j] * keys[p * a.width + j];
      scores[h * TILE + p] = score;
    }
}

// Values of a tile by their shares, on top of what was there, scaled.
template <int HEADS, int VECS>
void add_values(const Attention& a, const float* shares, const float* scale, const float* values,
                int64_t count, float* out) {
  Vec sums[HEADS][VECS];
  for (int h = 0; h < HEADS; ++h)
    for (int j = 0; j < VECS; ++j)
      sums[h][j] = load(out + h * a.value + j * LANES) * scale[h];
  multiply<HEADS, VECS>(shares, TILE, values, a.width, count, sums);
  for (int h = 0; h < HEADS; ++h)
    for (int j = 0; j < VECS; ++j) store(out + h * a.value + j * LANES, sums[h][j]);
}

// `count` positions, at most TILE, from `cache` on. Softmax as it goes (Milakov & Gimelshein,
// arXiv:1805.02867): with a larger maximum, what was summed is scaled down.
template <int HEADS>
void see(const Attention& a, const Seen& seen, const float* cache, int64_t count) {
  float scores[HEADS * TILE], scale[HEADS];
  int64_t s = 0;
  for (; s + 2 <= count; s += 2)
    scores_of<HEADS, 2>(a, seen.queries, cache + s * a.width, scores + s);
  if (s < count) scores_of<HEADS, 1>(a, seen.queries, cache + s * a.width, scores + s);
  for (int h = 0; h < HEADS; ++h) {
    float* line = scores + h * TILE;
    std::fill(line + count, line + TILE, NOTHING);
    Vec top = load(line);
    for (int64_t i = LANES; i < TILE; i += LANES) {
      const Vec next = load(line + i);
      top = next > top ? next : top;
    }
    const float most = std::max(seen.most[h], max_of(top));
    scale[h] = exp_of(seen.most[h] - most);
    seen.most[h] = most;
    Vec sum{};
    for (int64_t i = 0; i < TILE; i += LANES) {
      const Vec share = exp_of(load(line + i) - most);
      store(line + i, share);
      sum += share;
    }
    seen.sum[h] = seen.sum[h] * scale[h] + sum_of(sum);
  }
  const float* values = cache + a.value_start;
  int64_t i = 0;
  for (; i + 2 * LANES <= a.value; i += 2 * LANES)
    add_values<HEADS, 2>(a, scores, scale, values + i, count, seen.out + i);
  for (; i + LANES <= a.value; i += LANES)
    add_values<HEADS, 1>(a, scores, scale, values + i, count, seen.out + i);
  for (; i < a.value; ++i)
    for (int h = 0; h < HEADS; ++h) {
      float total = seen.out[h * a.value + i] * scale[h];
      for (int64_t p = 0; p < count; ++p) total += scores[h * TILE + p] * values[p * a.width + i];
      seen.out[h * a.value + i] = total;
    }
}

void see(const Attention& a, int64_t row, int64_t head, int64_t heads, const float* cache,
         int64_t count) {
  for (int64_t end = head + heads; head < end; head += MOST_HEADS) {
    const Seen seen = seen_of(a, row, head);
    switch (std::min<int64_t>(MOST_HEADS, end - head)) {
      case 1: see<1>(a, seen, cache, count); break;
      case 2: see<2>(a, seen, cache, count); break;
      case 3: see<3>(a, seen, cache, count); break;
      default: see<4>(a, seen, cache, count);
    }
  }
}

// The heads of one key head, in the rows of one run.
void attend_run(const Attention& a, int64_t start, int64_t end, int64_t kept) {
  const int64_t heads = a.heads / a.kept_heads, head = kept * heads;
  for (int64_t row = start; row < end; ++row) {
    const Seen seen = seen_of(a, row, head);
    std::fill_n(seen.most, heads, NOTHING);
    std::fill_n(seen.sum, heads, 0.0f);
    std::fill_n(seen.out, heads * a.value, 0.0f);
  }
  const float* cache = a.cache + kept * a.cache_head;
  // Tiles begin at multiples of TILE, shared or not: a row's sums do not depend on its neighbours.
  for (int64_t s = 0; s < a.shared; s += TILE)
    for (int64_t row = start; row < end; ++row)
      see(a, row, head, heads, cache + start * a.cache_row + s * a.width, TILE);
  for (int64_t row = start; row < end; ++row) {
    const int64_t length = a.positions[row] + 1;
    for (int64_t s = a.shared; s < length; s += TILE)
      see(a, row, head, heads, cache + row * a.cache_row + s * a.width,
          std::min(TILE, length - s));
    const Seen seen = seen_of(a, row, head);
    for (int64_t h = 0; h < heads; ++h) {
      const float share = 1.0f / seen.sum[h];
      for (int64_t i = 0; i < a.value; ++i) seen.out[h * a.value + i] *= share;
    }
  }
}

}  // namespace

extern "C" void attend(const Attention* given) {
  const Attention& a = *given;
  for (int64_t row = 0; row < a.rows; ++row) turn_and_keep(a, row);
  const int64_t items = a.run_count * a.kept_heads;
#pragma omp parallel for num_threads(a.threads) if (a.threads > 1) schedule(dynamic)
  for (int64_t item = 0; item < items; ++item) {
    const int64_t run = item / a.kept_heads;
    attend_run(a, a.runs[run], a.runs[run + 1], item % a.kept_heads);
  }
}
