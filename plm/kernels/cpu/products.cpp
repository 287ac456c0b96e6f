// Products with packed weights, and norms.
#include <algorithm>

#include "vectors.h"

namespace {

// Sums that fit into the registers beside a panel's two vectors and one factor.
constexpr int MOST_ROWS = LANES == 16 ? 12 : 6;
constexpr int PANEL = 2 * LANES;

enum Finish : int64_t { NONE, RELU2, SILU_GATE };  // As in calls.py.

}  // namespace

// As in calls.py, field by field, and described there.
struct Product {
  const float *x, *packed, *bias;
  float* out;
  int64_t x_row, out_row, rows, depth, columns, finish, threads;
};

struct Norm {
  const float *x, *weight;
  float* out;
  int64_t x_row, out_row, rows, size;
  double eps;
};

struct Sum {
  float* to;
  const float* x;
  int64_t size;
};

namespace {

void put(float* to, Vec value, int64_t room) {
  if (room >= LANES) {
    store(to, value);
    return;
  }
  for (int i = 0; i < room; ++i) to[i] = value[i];
}

// Some rows of one panel.
template <int ROWS>
void panel_of(const Product& p, int64_t row, int64_t panel) {
  Vec sums[ROWS][2];
  const float* bias = p.bias ? p.bias + panel * PANEL : nullptr;
  for (int i = 0; i < ROWS; ++i)
    for (int j = 0; j < 2; ++j) sums[i][j] = bias ? load(bias + j * LANES) : Vec{};
  multiply<ROWS, 2>(p.x + row * p.x_row, p.x_row, p.packed + panel * p.depth * PANEL, PANEL,
                    p.depth, sums);
  for (int i = 0; i < ROWS; ++i) {
    float* line = p.out + (row + i) * p.out_row;
    if (p.finish == SILU_GATE) {
      const Vec gate = sums[i][0];
      // Below, x·sigmoid(x) is 0 to this precision, and exp(-x) too large.
      const Vec held = gate < -80.0f ? all(-80.0f) : gate;
      const int64_t first = panel * LANES;
      put(line + first, gate / (1.0f + exp_of(-held)) * sums[i][1], p.columns - first);
      continue;
    }
    for (int j = 0; j < 2; ++j) {
      const int64_t first = panel * PANEL + j * LANES;
      Vec value = sums[i][j];
      if (p.finish == RELU2) {
        // Written so that NaN stays NaN.
        value = value < 0.0f ? Vec{} : value;
        value *= value;
      }
      put(line + first, value, p.columns - first);
    }
  }
}

template <int ROWS>
void some_rows(const Product& p, int64_t row, int64_t count, int64_t panel) {
  if constexpr (ROWS > 0) {
    if (count == ROWS)
      panel_of<ROWS>(p, row, panel);
    else
      some_rows<ROWS - 1>(p, row, count, panel);
  }
}

}  // namespace

extern "C" {

int64_t lanes() { return LANES; }

void product(const Product* given) {
  const Product& p = *given;
  const int64_t width = p.finish == SILU_GATE ? LANES : PANEL;
  const int64_t panels = (p.columns + width - 1) / width;
  const int64_t blocks = (p.rows + MOST_ROWS - 1) / MOST_ROWS;
#pragma omp parallel for num_threads(p.threads) if (p.threads > 1)
  for (int64_t panel = 0; panel < panels; ++panel)
    for (int64_t block = 0; block < blocks; ++block) {
      // As even as can be: few rows at once leave the arithmetic units waiting.
      const int64_t row = p.rows * block / blocks, end = p.rows * (block + 1) / blocks;
      some_rows<MOST_ROWS>(p, row, end - row, panel);
    }
}

void rms_norm(const Norm* given) {
  const Norm& n = *given;
  for (int64_t row = 0; row < n.rows; ++row) {
    const float* x = n.x + row * n.x_row;
    float* out = n.out + row * n.out_row;
    Vec sums{};
    int64_t i = 0;
    for (; i + LANES <= n.size; i += LANES) sums += load(x + i) * load(x + i);
    float square = sum_of(sums);
    for (; i < n.size; ++i) square += x[i] * x[i];
    const float factor = 1.0f / std::sqrt(square / n.size + static_cast<float>(n.eps));
    for (i = 0; i + LANES <= n.size; i += LANES)
      store(out + i, load(x + i) * factor * load(n.weight + i));
    for (; i < n.size; ++i) out[i] = x[i] * factor * n.weight[i];
  }
}

void add(const Sum* given) {
  for (int64_t i = 0; i < given->size; ++i) given->to[i] += given->x[i];
}

// One kernel with what it is given, made ready before.
struct Call {
  void (*kernel)(const void*);
  const void* given;
};

void run(const Call* calls, int64_t count) {
  for (int64_t i = 0; i < count; ++i) calls[i].kernel(calls[i].given);
}

}  // extern "C"
