// The tiled kernel, as the steps of one thread between two barriers.
//
//   Begin       which rows and columns are mine
//   Load        the next step's terms, from memory to registers
//   Store       those to shared memory, as floats
//   Accumulate  the current step's terms, from shared memory
//   Finish      the sums, to memory
//
// A step loads while the one before is being summed, and shared memory holds
// both. The order of these steps is in kernels.cu; emulated.cc has another, one
// thread at a time, which is how they are tested where there is no GPU.

#ifndef KERAS_ADDER_CUDA_TILE_H_
#define KERAS_ADDER_CUDA_TILE_H_

#include <cmath>

#include "cuda/plan.h"

namespace keras_adder {
namespace cuda {

// What is summed. `fixed` is the element of the input or the filters that
// belongs to the place of the result.
struct Forward {
  static constexpr int kPass = KERAS_ADDER_FORWARD;
  static constexpr bool kHasFixed = false;
  // Two additions; the absolute value is a modifier of an operand.
  static KERAS_ADDER_HD float Add(float sum, float x, float f, float) {
    return sum + fabsf(x - f);
  }
};

struct InputGradient {
  static constexpr int kPass = KERAS_ADDER_INPUT_GRADIENT;
  static constexpr bool kHasFixed = true;
  static KERAS_ADDER_HD float Add(float sum, float g, float f, float x) {
    return sum + g * HardTanh(f - x);
  }
};

struct FilterGradient {
  static constexpr int kPass = KERAS_ADDER_FILTER_GRADIENT;
  static constexpr bool kHasFixed = true;
  static KERAS_ADDER_HD float Add(float sum, float x, float g, float f) {
    return sum + g * (x - f);
  }
};

struct SignFilterGradient {
  static constexpr int kPass = KERAS_ADDER_FILTER_GRADIENT;
  static constexpr bool kHasFixed = true;
  static KERAS_ADDER_HD float Add(float sum, float x, float g, float f) {
    return sum + g * Sign(x - f);
  }
};

// Sixteen bytes, moved at once.
struct alignas(16) Quad {
  float values[4];
};
// Four elements in memory.
template <int count>
struct alignas(count * 4) Words {
  uint32_t words[count];
};
using Words4 = Words<4>;
using Words2 = Words<2>;

template <typename Tile>
struct SharedTile {
  // Four more columns spread a column's terms over the banks.
  Quad rows[Tile::kDepth][Tile::kRows / 4];
  Quad columns[Tile::kDepth][Tile::kColumns / 4 + 1];

  KERAS_ADDER_HD float* RowTerm(int depth, int row) {
    return rows[depth][row / 4].values + row % 4;
  }
  KERAS_ADDER_HD float* ColumnTerm(int depth, int column) {
    return columns[depth][column / 4].values + column % 4;
  }
};

// A thread's sums of the chains that have ended. They are needed once in
// kTermsPerChain terms, and registers that are free of them make room for
// another block on the multiprocessor: so they live in a GPU's local memory,
// where `volatile` keeps them.
template <typename Tile>
struct Totals {
  volatile float values[Tile::kThreadRows][Tile::kThreadColumns];
};

// A place in the depth: its three indices, the first one fastest.
struct Cursor {
  int32_t inner;
  int32_t middle;
  int32_t outer;

  KERAS_ADDER_HD void Advance(int32_t by, int32_t inners, int32_t middles) {
    inner += by;
    KERAS_ADDER_ROLLED
    while (inner >= inners) {
      inner -= inners;
      if (++middle == middles) {
        middle = 0;
        ++outer;
      }
    }
  }
};

// A row of the source: where its first tap lies. What lies at kNowhere is
// outside of every image, whatever the tap. Offsets are unsigned: those of
// places outside, which nobody reads, may wrap around.
struct SourceRow {
  uint32_t offset;
  int32_t height;
  int32_t width;
};
constexpr int32_t kNowhere = -(1 << 30);

// Which thread of which block this is. A GPU knows, and need not remember.
class ThreadPlace {
 public:
#ifdef __CUDA_ARCH__
  KERAS_ADDER_HD void Set(int, int, int, int) {}
  KERAS_ADDER_HD int thread() const { return threadIdx.x; }
  KERAS_ADDER_HD int block_x() const { return blockIdx.x; }
  KERAS_ADDER_HD int block_y() const { return blockIdx.y; }
  KERAS_ADDER_HD int block_z() const { return blockIdx.z; }
#else
  void Set(int thread, int block_x, int block_y, int block_z) {
    thread_ = thread;
    block_x_ = block_x;
    block_y_ = block_y;
    block_z_ = block_z;
  }
  int thread() const { return thread_; }
  int block_x() const { return block_x_; }
  int block_y() const { return block_y_; }
  int block_z() const { return block_z_; }

 private:
  int thread_;
  int block_x_;
  int block_y_;
  int block_z_;
#endif
};

template <typename Operation, typename Tile>
class TileThread {
 public:
  using Shared = SharedTile<Tile>;

  // `place` is set on machines that do not know it.
  KERAS_ADDER_HD void Begin(const Plan& plan, const ThreadPlace& place,
                            Totals<Tile>* totals) {
    place_ = place;
    totals_ = totals;
    BeginGroup(plan);
    BeginDepth(plan);
    BeginRows(plan);
    KERAS_ADDER_UNROLL
    for (int i = 0; i < kThreadRows; ++i) {
      KERAS_ADDER_UNROLL
      for (int j = 0; j < kThreadColumns; ++j) {
        sums_[i][j] = 0;
        totals_->values[i][j] = 0;
      }
    }
    if (Operation::kHasFixed) LoadFixed(plan);
  }

  // Terms of the depth that are left. TensorStrides are kDepth each, the last
  // may be shorter.
  KERAS_ADDER_HD int32_t left() const { return left_; }

  KERAS_ADDER_HD void Load(const Plan& plan) {
    if (RowType(plan) == KERAS_ADDER_FLOAT32) {
      plan.vectors ? LoadPacked(plan, Words4()) : LoadRows<uint32_t>(plan);
    } else {
      plan.vectors ? LoadPacked(plan, Words2()) : LoadRows<uint16_t>(plan);
    }
    if (ColumnType(plan) == KERAS_ADDER_FLOAT32) {
      LoadColumns<uint32_t>(plan);
    } else {
      LoadColumns<uint16_t>(plan);
    }
    column_cursor_.Advance(Tile::kDepth, inners_, middles_);
  }

  KERAS_ADDER_HD void Store(const Plan& plan, Shared* shared) const {
    const bool packed = plan.vectors != 0;
    if (RowType(plan) == KERAS_ADDER_FLOAT32) {
      StoreRows(shared, packed,
                [](const uint32_t* words, int k) { return AsFloat(words[k]); });
    } else {
      const int32_t type = RowType(plan);
      StoreRows(shared, packed, [=](const uint32_t* words, int k) {
        const uint32_t pair = words[k / 4 * 4 + k % 4 / 2];
        const uint32_t element = pair >> (k % 2 * 16) & 0xffff;
        return ToFloat(packed ? element : words[k], type);
      });
    }
    KERAS_ADDER_UNROLL
    for (int i = 0; i < kColumnsPerThread; ++i) {
      *shared->ColumnTerm(my_depth(), my_column(i)) =
          ToFloat(column_words_[i], ColumnType(plan));
    }
  }

  KERAS_ADDER_HD void Accumulate(Shared* shared) {
    if (left_ >= Tile::kDepth) {
      KERAS_ADDER_UNROLL
      for (int k = 0; k < Tile::kDepth; ++k) AccumulateOne(shared, k);
    } else {
      KERAS_ADDER_ROLLED
      for (int k = 0; k < left_; ++k) AccumulateOne(shared, k);
    }
    left_ -= Tile::kDepth;
    if (++steps_ == kTermsPerChain / Tile::kDepth) EndChain();
  }

  KERAS_ADDER_HD void Finish(const Plan& plan) {
    EndChain();
    KERAS_ADDER_UNROLL
    for (int i = 0; i < kThreadRows; ++i) {
      int32_t offset;
      if (!ResultRow(plan, first_row() + RowOf(i), &offset)) continue;
      KERAS_ADDER_UNROLL
      for (int j = 0; j < kThreadColumns; ++j) {
        const int32_t column = first_column() + ColumnOf(j);
        if (column < plan.columns) {
          Write(plan, offset + column * ResultColumnStep(plan),
                totals_->values[i][j]);
        }
      }
    }
  }

 private:
  static constexpr int kThreadRows = Tile::kThreadRows;
  static constexpr int kThreadColumns = Tile::kThreadColumns;
  static constexpr int kRowsPerThread = Tile::kRows / Tile::kThreads;
  // Threads that load one term of all columns.
  static constexpr int kLoaders = Tile::kThreads / Tile::kDepth;
  static constexpr int kColumnsPerThread = Tile::kColumns / kLoaders;
  // Threads that load four neighbouring rows each, of one term of all rows.
  static constexpr int kQuadsAcross = Tile::kRows / 4;
  static constexpr int kQuadDepths = Tile::kThreads / kQuadsAcross;
  static constexpr int kQuadsPerThread = Tile::kDepth / kQuadDepths;
  static constexpr bool kFilters =
      Operation::kPass == KERAS_ADDER_FILTER_GRADIENT;
  static constexpr bool kPhases =
      Operation::kPass == KERAS_ADDER_INPUT_GRADIENT;
  // Neighbours in memory of a column's terms: by depth, or by column.
  static constexpr bool kDepthFirst = kPhases;
  static_assert(Tile::kDepth % 8 == 0 && kThreadRows == 8);
  static_assert(kThreadColumns == 4 || kThreadColumns == 8);

  // Divides a block's z among groups, phases and splits. Only input gradients
  // have phases; those of a stride of 1 are one.
  KERAS_ADDER_HD void BeginGroup(const Plan& plan) {
    group_and_phase_ = place_.block_z() / plan.splits;
    if (!kPhases) return;
    const int32_t phase_w = group_and_phase_ % plan.width_phases;
    const int32_t rest = group_and_phase_ / plan.width_phases;
    const int32_t phase_h = rest % plan.height_phases;
    group_and_phase_ =
        (rest / plan.height_phases * kMaxPhases + phase_h) * kMaxPhases +
        phase_w;
  }

  KERAS_ADDER_HD int32_t group() const {
    return kPhases ? group_and_phase_ / (kMaxPhases * kMaxPhases)
                   : group_and_phase_;
  }
  KERAS_ADDER_HD int32_t split(const Plan& plan) const {
    return place_.block_z() % plan.splits;
  }
  KERAS_ADDER_HD const PhaseAxis& height(const Plan& plan) const {
    return plan
        .height[kPhases ? group_and_phase_ / kMaxPhases % kMaxPhases : 0];
  }
  KERAS_ADDER_HD const PhaseAxis& width(const Plan& plan) const {
    return plan.width[kPhases ? group_and_phase_ % kMaxPhases : 0];
  }
  KERAS_ADDER_HD int32_t first_row() const {
    return place_.block_x() * Tile::kRows;
  }
  KERAS_ADDER_HD int32_t first_column() const {
    return place_.block_y() * Tile::kColumns;
  }

  // The rows and columns of a thread lie in groups of four, half a tile apart:
  // neighbouring threads then read neighbouring banks.
  KERAS_ADDER_HD int RowOf(int i) const {
    return i / 4 * (Tile::kRows / 2) +
           place_.thread() / Tile::kThreadsAcross * 4 + i % 4;
  }
  KERAS_ADDER_HD int ColumnOf(int j) const {
    return j / 4 * (Tile::kColumns / 2) +
           place_.thread() % Tile::kThreadsAcross * 4 + j % 4;
  }

  KERAS_ADDER_HD int my_depth() const {
    return kDepthFirst ? place_.thread() % Tile::kDepth
                       : place_.thread() / kLoaders;
  }
  KERAS_ADDER_HD int my_column(int i) const {
    return (kDepthFirst ? place_.thread() / Tile::kDepth
                        : place_.thread() % kLoaders) +
           i * kLoaders;
  }

  static KERAS_ADDER_HD int32_t RowType(const Plan& plan) {
    const KerasAdderCall& call = plan.request.call;
    return kPhases ? call.output_type : call.type;
  }
  static KERAS_ADDER_HD int32_t ColumnType(const Plan& plan) {
    const KerasAdderCall& call = plan.request.call;
    return kFilters ? call.output_type : call.type;
  }

  KERAS_ADDER_HD void BeginDepth(const Plan& plan) {
    const PhaseAxis& height = this->height(plan);
    const PhaseAxis& width = this->width(plan);
    inners_ = kFilters ? width.rows : plan.channels;
    middles_ = kFilters ? height.rows : width.taps;
    outers_ = kFilters ? plan.batch : height.taps;
    const int32_t depth = inners_ * middles_ * outers_;
    const int32_t terms = plan.steps_per_split * Tile::kDepth;
    const int32_t first = split(plan) * terms;
    left_ = depth - first < terms ? depth - first : terms;
    steps_ = 0;
    if (left_ <= 0) return;
    row_cursor_.inner = first % inners_;
    row_cursor_.middle = first / inners_ % middles_;
    row_cursor_.outer = first / inners_ / middles_;
    column_cursor_ = row_cursor_;
    column_cursor_.Advance(my_depth(), inners_, middles_);
  }

  KERAS_ADDER_HD void BeginRows(const Plan& plan) {
    const PhaseAxis& height = this->height(plan);
    const PhaseAxis& width = this->width(plan);
    KERAS_ADDER_UNROLL
    for (int i = 0; i < kRowsPerThread; ++i) {
      SourceRow& row = rows_[i];
      const int32_t index =
          first_row() + (kFilters && plan.vectors
                             ? place_.thread() % kQuadsAcross * 4
                             : place_.thread() + i * Tile::kThreads);
      row.offset = Product(group() * plan.channels, plan.source.channel);
      row.height = kNowhere;
      row.width = 0;
      if (index >= Rows(plan)) continue;
      if (kFilters) {
        const int32_t tap = index / plan.group_in;
        row.offset += index % plan.group_in * plan.source.channel;
        row.height = height.first + tap / width.taps * height.tap_step;
        row.width = width.first + tap % width.taps * width.tap_step;
      } else {
        const int32_t pixels = height.rows * width.rows;
        const int32_t pixel = index % pixels;
        row.offset += index / pixels * plan.source.batch;
        row.height = height.first + pixel / width.rows * height.row_step;
        row.width = width.first + pixel % width.rows * width.row_step;
      }
    }
  }

  KERAS_ADDER_HD int32_t Rows(const Plan& plan) const {
    const PhaseAxis& height = this->height(plan);
    const PhaseAxis& width = this->width(plan);
    return kFilters ? height.taps * width.taps * plan.group_in
                    : plan.batch * height.rows * width.rows;
  }

  // Where the source has what a row meets at a place in the depth, channels of
  // images aside. False if that lies outside, or the depth is at its end.
  KERAS_ADDER_HD bool SourceOffset(const Plan& plan, const SourceRow& row,
                                   const Cursor& cursor, uint32_t* offset,
                                   bool check_width = true) const {
    const PhaseAxis& height = this->height(plan);
    const PhaseAxis& width = this->width(plan);
    const int32_t h = row.height + (kFilters ? cursor.middle * height.row_step
                                             : cursor.outer * height.tap_step);
    const int32_t w = row.width + (kFilters ? cursor.inner * width.row_step
                                            : cursor.middle * width.tap_step);
    *offset = row.offset + Product(h, plan.source.height) +
              Product(w, plan.source.width);
    if (kFilters) *offset += Product(cursor.outer, plan.source.batch);
    return cursor.outer < outers_ && IsInside(h, height.source) &&
           (!check_width || IsInside(w, width.source));
  }

  static KERAS_ADDER_HD uint32_t Product(int32_t a, int32_t b) {
    return static_cast<uint32_t>(a) * static_cast<uint32_t>(b);
  }

  static KERAS_ADDER_HD bool IsInside(int32_t position, int32_t size) {
    return static_cast<uint32_t>(position) < static_cast<uint32_t>(size);
  }

  KERAS_ADDER_HD const void* Source(const Plan& plan) const {
    return kPhases ? plan.request.gradient : plan.request.input;
  }

  // Four channels of a row at once. Those of a filter gradient are four rows,
  // at a pixel of the depth; a step's pixels are dealt to the threads in turns.
  template <int count>
  KERAS_ADDER_HD void LoadPacked(const Plan& plan, Words<count>) {
    if (!kFilters) return LoadRows<Words<count>>(plan);
    Cursor cursor = row_cursor_;
    cursor.Advance(place_.thread() / kQuadsAcross, inners_, middles_);
    KERAS_ADDER_UNROLL
    for (int q = 0; q < kQuadsPerThread; ++q) {
      LoadQuads<count, 1>(plan, rows_[0], cursor, QuadWords(q));
      cursor.Advance(kQuadDepths, inners_, middles_);
    }
    row_cursor_.Advance(Tile::kDepth, inners_, middles_);
  }

  template <typename Unit>
  KERAS_ADDER_HD void LoadRows(const Plan& plan) {
    KERAS_ADDER_UNROLL
    for (int i = 0; i < kRowsPerThread; ++i) {
      Cursor cursor = row_cursor_;
      LoadRow(plan, rows_[i], &cursor, row_words_[i], Unit());
      if (i + 1 == kRowsPerThread) row_cursor_ = cursor;
    }
  }

  // Four channels at once; what is outside is zero. Channels of one tap need
  // one look.
  template <int count>
  KERAS_ADDER_HD void LoadRow(const Plan& plan, const SourceRow& row,
                              Cursor* cursor, uint32_t* words,
                              Words<count>) const {
    if (cursor->inner + Tile::kDepth <= inners_) {
      LoadQuads<count, Tile::kDepth / 4>(plan, row, *cursor, words);
      cursor->Advance(Tile::kDepth, inners_, middles_);
      return;
    }
    KERAS_ADDER_UNROLL
    for (int k = 0; k < Tile::kDepth; k += 4) {
      LoadQuads<count, 1>(plan, row, *cursor, words + k);
      cursor->Advance(4, inners_, middles_);
    }
  }

  template <int count, int quads>
  KERAS_ADDER_HD void LoadQuads(const Plan& plan, const SourceRow& row,
                                const Cursor& cursor, uint32_t* words) const {
    uint32_t offset;
    const bool inside = SourceOffset(plan, row, cursor, &offset);
    const Words<count>* source =
        static_cast<const Words<count>*>(Source(plan)) +
        (kFilters ? offset : offset + cursor.inner) / 4;
    KERAS_ADDER_UNROLL
    for (int q = 0; q < quads; ++q) {
      Words<count> quad = {};
      if (inside) quad = source[q];
      KERAS_ADDER_UNROLL
      for (int i = 0; i < count; ++i) words[q * 4 + i] = quad.words[i];
    }
  }

  // One element at a time: without looking where one run of the innermost
  // index has them all, which is most often.
  template <typename Word>
  KERAS_ADDER_HD void LoadRow(const Plan& plan, const SourceRow& row,
                              Cursor* cursor, uint32_t* words, Word) const {
    const Word* source = static_cast<const Word*>(Source(plan));
    uint32_t offset;
    if (cursor->inner + Tile::kDepth <= inners_) {
      const PhaseAxis& width = this->width(plan);
      const uint32_t step = kFilters
                                ? Product(width.row_step, plan.source.width)
                                : static_cast<uint32_t>(plan.source.channel);
      int32_t w = row.width + cursor->inner * width.row_step;
      const bool inside = SourceOffset(plan, row, *cursor, &offset, !kFilters);
      if (!kFilters) offset += Product(cursor->inner, step);
      KERAS_ADDER_UNROLL
      for (int k = 0; k < Tile::kDepth; ++k) {
        const bool here = inside && (!kFilters || IsInside(w, width.source));
        words[k] = here ? source[offset] : 0;
        offset += step;
        w += width.row_step;
      }
      cursor->Advance(Tile::kDepth, inners_, middles_);
      return;
    }
    KERAS_ADDER_UNROLL
    for (int k = 0; k < Tile::kDepth; ++k) {
      words[k] = 0;
      if (SourceOffset(plan, row, *cursor, &offset)) {
        if (!kFilters) {
          offset += Product(cursor->inner, plan.source.channel);
        }
        words[k] = source[offset];
      }
      cursor->Advance(1, inners_, middles_);
    }
  }

  // The words of a thread's `q`th quad.
  KERAS_ADDER_HD uint32_t* QuadWords(int q) {
    return row_words_[q * 4 / Tile::kDepth] + q * 4 % Tile::kDepth;
  }
  KERAS_ADDER_HD const uint32_t* QuadWords(int q) const {
    return row_words_[q * 4 / Tile::kDepth] + q * 4 % Tile::kDepth;
  }

  template <typename Convert>
  KERAS_ADDER_HD void StoreRows(Shared* shared, bool packed,
                                const Convert& convert) const {
    if (kFilters && packed) {
      KERAS_ADDER_UNROLL
      for (int q = 0; q < kQuadsPerThread; ++q) {
        Quad quad;
        KERAS_ADDER_UNROLL
        for (int i = 0; i < 4; ++i) quad.values[i] = convert(QuadWords(q), i);
        shared->rows[place_.thread() / kQuadsAcross + q * kQuadDepths]
                    [place_.thread() % kQuadsAcross] = quad;
      }
      return;
    }
    KERAS_ADDER_UNROLL
    for (int i = 0; i < kRowsPerThread; ++i) {
      KERAS_ADDER_UNROLL
      for (int k = 0; k < Tile::kDepth; ++k) {
        *shared->RowTerm(k, place_.thread() + i * Tile::kThreads) =
            convert(row_words_[i], k);
      }
    }
  }

  // Where the columns of a place in the depth begin.
  KERAS_ADDER_HD uint32_t ColumnsOffset(const Plan& plan,
                                        const Cursor& cursor) const {
    if (kFilters) {
      return Product(cursor.outer, plan.image.batch) +
             Product(cursor.middle, plan.image.height) +
             Product(cursor.inner, plan.image.width) +
             Product(group() * plan.group_out, plan.image.channel);
    }
    const PhaseAxis& height = this->height(plan);
    const PhaseAxis& width = this->width(plan);
    const int32_t i = height.first_tap + cursor.outer * height.tap_stride;
    const int32_t j = width.first_tap + cursor.middle * width.tap_stride;
    return Product(i * plan.filter_width + j, plan.filter_tap) +
           Product(cursor.inner, plan.filter_channel) +
           static_cast<uint32_t>(group() * plan.group_out);
  }

  template <typename Word>
  KERAS_ADDER_HD void LoadColumns(const Plan& plan) {
    const Word* data = static_cast<const Word*>(
        kFilters ? plan.request.gradient : plan.request.filters);
    const int32_t step = kFilters ? plan.image.channel : plan.filter_column;
    const uint32_t offset = ColumnsOffset(plan, column_cursor_);
    const bool inside = column_cursor_.outer < outers_;
    KERAS_ADDER_UNROLL
    for (int i = 0; i < kColumnsPerThread; ++i) {
      const int32_t column = first_column() + my_column(i);
      column_words_[i] = inside && column < plan.columns
                             ? data[offset + Product(column, step)]
                             : 0;
    }
  }

  KERAS_ADDER_HD void AccumulateOne(Shared* shared, int k) {
    float row[kThreadRows], column[kThreadColumns];
    KERAS_ADDER_UNROLL
    for (int i = 0; i < kThreadRows; i += 4) {
      const Quad quad = shared->rows[k][RowOf(i) / 4];
      KERAS_ADDER_UNROLL
      for (int q = 0; q < 4; ++q) row[i + q] = quad.values[q];
    }
    KERAS_ADDER_UNROLL
    for (int j = 0; j < kThreadColumns; j += 4) {
      const Quad quad = shared->columns[k][ColumnOf(j) / 4];
      KERAS_ADDER_UNROLL
      for (int q = 0; q < 4; ++q) column[j + q] = quad.values[q];
    }
    KERAS_ADDER_UNROLL
    for (int i = 0; i < kThreadRows; ++i) {
      KERAS_ADDER_UNROLL
      for (int j = 0; j < kThreadColumns; ++j) {
        sums_[i][j] = Operation::Add(sums_[i][j], row[i], column[j],
                                     Operation::kHasFixed ? fixed_[i][j] : 0);
      }
    }
  }

  KERAS_ADDER_HD void EndChain() {
    steps_ = 0;
    KERAS_ADDER_UNROLL
    for (int i = 0; i < kThreadRows; ++i) {
      KERAS_ADDER_UNROLL
      for (int j = 0; j < kThreadColumns; ++j) {
        totals_->values[i][j] = totals_->values[i][j] + sums_[i][j];
        sums_[i][j] = 0;
      }
    }
  }

  KERAS_ADDER_HD int32_t ResultColumnStep(const Plan& plan) const {
    return kFilters ? 1 : plan.image.channel;
  }

  // Where a row's results begin. False if there is no such row.
  KERAS_ADDER_HD bool ResultRow(const Plan& plan, int32_t row,
                                int32_t* offset) const {
    if (row >= Rows(plan)) return false;
    if (kFilters) {
      *offset = row * static_cast<int32_t>(plan.request.call.out_channels) +
                group() * plan.group_out;
      return true;
    }
    const PhaseAxis& height = this->height(plan);
    const PhaseAxis& width = this->width(plan);
    const int32_t pixels = height.rows * width.rows;
    const int32_t pixel = row % pixels;
    const int32_t h =
        height.first_result + pixel / width.rows * height.result_step;
    const int32_t w =
        width.first_result + pixel % width.rows * width.result_step;
    *offset = row / pixels * plan.image.batch + h * plan.image.height +
              w * plan.image.width +
              group() * plan.columns * plan.image.channel;
    return true;
  }

  KERAS_ADDER_HD void LoadFixed(const Plan& plan) {
    const void* data = kFilters ? plan.request.filters : plan.request.input;
    KERAS_ADDER_UNROLL
    for (int i = 0; i < kThreadRows; ++i) {
      int32_t offset;
      const bool exists = ResultRow(plan, first_row() + RowOf(i), &offset);
      KERAS_ADDER_UNROLL
      for (int j = 0; j < kThreadColumns; ++j) {
        const int32_t column = first_column() + ColumnOf(j);
        fixed_[i][j] = 0;
        if (exists && column < plan.columns) {
          fixed_[i][j] =
              Elements<float>::Load(data, plan.request.call.type,
                                    offset + column * ResultColumnStep(plan));
        }
      }
    }
  }

  KERAS_ADDER_HD void Write(const Plan& plan, int32_t index, float value) {
    const KerasAdderCall& call = plan.request.call;
    constexpr bool kForward = Operation::kPass == KERAS_ADDER_FORWARD;
    if (kForward) value = -value;
    if (plan.splits > 1) {
      plan.partials[split(plan) * plan.result_size + index] = value;
    } else {
      StoreFloat(plan.request.result, kForward ? call.output_type : call.type,
                 index, value);
    }
  }

  ThreadPlace place_;
  Totals<Tile>* totals_;
  // The group and, for input gradients, two phases: digits of one number, so
  // that no step has to divide by more than a power of two.
  uint32_t group_and_phase_;
  int32_t inners_;  // sizes of the depth's three indices
  int32_t middles_;
  int32_t outers_;
  int32_t left_;
  int32_t steps_;
  Cursor row_cursor_;
  Cursor column_cursor_;
  SourceRow rows_[kRowsPerThread];
  uint32_t row_words_[kRowsPerThread][Tile::kDepth];
  uint32_t column_words_[kColumnsPerThread];
  float sums_[kThreadRows][kThreadColumns];
  float fixed_[Operation::kHasFixed ? kThreadRows : 1]
              [Operation::kHasFixed ? kThreadColumns : 1];
};

}  // namespace cuda
}  // namespace keras_adder

#endif  // KERAS_ADDER_CUDA_TILE_H_
