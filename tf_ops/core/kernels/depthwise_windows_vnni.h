// Sums of distances under windows of 3 x 3 taps (see DepthwiseWindowParams), by
// instructions that add up what a lane of 32 bits has: a channel's column of
// taps or, of words, two rows of it. To be included by the file of AVX-512 with
// VNNI alone (see vector.h).
//
// They take maxima: |x - f| = 2 max(x, f) - x - f. What inputs come to is added
// up by columns, once for the three windows that a column is in.

#ifndef KERAS_ADDER_CORE_KERNELS_DEPTHWISE_WINDOWS_VNNI_H_
#define KERAS_ADDER_CORE_KERNELS_DEPTHWISE_WINDOWS_VNNI_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/kernels/depthwise_sums.h"

namespace keras_adder {
namespace {

// One instruction of two operands, whatever the width of its registers.
#define KERAS_ADDER_INSTRUCTION(name, instruction)                  \
  template <typename Register>                                      \
  inline Register name(const Register& a, const Register& b) {      \
    Register result;                                                \
    asm(instruction " %2, %1, %0" : "=v"(result) : "v"(a), "v"(b)); \
    return result;                                                  \
  }
KERAS_ADDER_INSTRUCTION(LowBytes, "vpunpcklbw")
KERAS_ADDER_INSTRUCTION(HighBytes, "vpunpckhbw")
KERAS_ADDER_INSTRUCTION(LowWords, "vpunpcklwd")
KERAS_ADDER_INSTRUCTION(HighWords, "vpunpckhwd")
#undef KERAS_ADDER_INSTRUCTION

template <typename T, int kBytes>
struct VectorOfBytes {
  typedef T type __attribute__((vector_size(kBytes)));
  typedef T in_memory
      __attribute__((vector_size(kBytes), aligned(1), may_alias));
};

// sum + weight times all elements of each lane, and + weight times all maxima
// with filters. Weights are alike in all elements.
template <typename T, typename Register>
inline void AddElements(const Register& elements, const Register& weights,
                        Register* sum) {
  if constexpr (sizeof(T) == 1) {
    asm("vpdpbusd %2, %1, %0" : "+v"(*sum) : "v"(elements), "v"(weights));
  } else {
    asm("vpdpwssd %2, %1, %0" : "+v"(*sum) : "v"(elements), "v"(weights));
  }
}
template <typename T, typename Register>
inline void AddMaxima(const Register& elements, const uint8_t* filters,
                      const Register& weights, Register* sum) {
  using InMemory =
      typename VectorOfBytes<uint32_t, sizeof(Register)>::in_memory;
  const auto& f = *reinterpret_cast<const InMemory*>(filters);
  Register maxima;
  if constexpr (sizeof(T) == 1) {
    asm("vpmaxub %3, %2, %1\n\tvpdpbusd %4, %1, %0"
        : "+v"(*sum), "=&v"(maxima)
        : "v"(elements), "m"(f), "v"(weights));
  } else {
    asm("vpmaxsw %3, %2, %1\n\tvpdpwssd %4, %1, %0"
        : "+v"(*sum), "=&v"(maxima)
        : "v"(elements), "m"(f), "v"(weights));
  }
}

// Which 32 bits of a vector of channels come where, so that channels are in
// order once rows of them are put together. That is done within 128 bits, which
// hence have four channels of each of as many parts as there are.
template <typename T, int kBytes>
struct ChannelOrder {
  constexpr ChannelOrder() : from() {
    constexpr int kOfFour = sizeof(T);  // what four channels take
    for (int i = 0; i < kBytes / 4; ++i) {
      const int lane = i / 4, part = i % 4 / kOfFour;
      from[i] = (part * (kBytes / 16) + lane) * kOfFour + i % kOfFour;
    }
  }
  uint32_t from[kBytes / 4];
};

// Sums of a vector of channels, output by output. A lane has as many rows of a
// channel as fill it, so that a vector of channels becomes kParts of them, and
// so do the rows that are left, if there are any.
template <typename T, int kBytes>
struct WindowSums {
  using Register = typename VectorOfBytes<uint32_t, kBytes>::type;
  using Elements = typename VectorOfBytes<T, kBytes>::type;
  static constexpr int kParts = 4 / sizeof(T);
  static constexpr int kVectors = 4;  // of a column: of all parts and rows
  static constexpr int kGroups = kVectors / kParts;  // of rows
  static constexpr int kLanesOfPart = kBytes / 4;
  using Column = Register[kVectors];
  using Sums = Register[kParts];

  WindowSums(const DepthwiseWindowParams& window_params, int64_t channel)
      : params(window_params),
        at(channel * sizeof(T)),
        group_bytes(params.channels * 4),
        filters(params.filters + channel * 4),
        starts(params.starts + channel),
        totals(params.totals + channel),
        column(params.first),
        minus_one((Register)(Elements{} - static_cast<T>(1))),
        two((Register)(Elements{} + static_cast<T>(2))) {}

  static Register Load(const void* from) {
    Register value;
    std::memcpy(&value, from, sizeof(value));
    return value;
  }

  static Register LoadRow(const uint8_t* from) {
    const Register row = Load(from);
    if constexpr (kBytes == 16) {
      return row;
    } else {
      static constexpr ChannelOrder<T, kBytes> kOrder;
      const Register order = Load(kOrder.from);
      Register ordered;
      asm("vpermd %2, %1, %0" : "=v"(ordered) : "v"(order), "v"(row));
      return ordered;
    }
  }

  // Rows that are not there are zeros, as their filters are.
  static void PutTogether(const Register (&row)[kWindow], Column& x) {
    const Register none = {};
    if constexpr (kParts == 4) {
      const Register low = LowBytes(row[0], row[1]);
      const Register high = HighBytes(row[0], row[1]);
      const Register last_low = LowBytes(row[2], none);
      const Register last_high = HighBytes(row[2], none);
      x[0] = LowWords(low, last_low);
      x[1] = HighWords(low, last_low);
      x[2] = LowWords(high, last_high);
      x[3] = HighWords(high, last_high);
    } else {
      x[0] = LowWords(row[0], row[1]);
      x[1] = HighWords(row[0], row[1]);
      x[2] = LowWords(row[2], none);
      x[3] = HighWords(row[2], none);
    }
  }

  // Inputs of the next column, and the start of a total less what they are.
  inline __attribute__((always_inline)) void Next(Column& x, Sums& sums) {
    const bool inside = column >= 0 && column < params.columns;
    const auto pixel = [&](const IntegerTap& of_row) {
      return at +
             (inside ? of_row.input + column * of_row.step : params.padding);
    };
    Register row[kWindow];
#pragma GCC unroll 3
    for (int i = 0; i < kWindow; ++i) row[i] = LoadRow(pixel(params.rows[i]));
    __builtin_prefetch(pixel(params.next), 0, 2);
    ++column;
    PutTogether(row, x);
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part) {
      sums[part] = Load(starts + part * kLanesOfPart);
#pragma GCC unroll 2
      for (int group = 0; group < kGroups; ++group) {
        AddElements<T>(x[group * kParts + part], minus_one, &sums[part]);
      }
    }
  }

  inline __attribute__((always_inline)) void AddColumn(const Column& x, int tap,
                                                       Sums& sums) const {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const int group = v / kParts, part = v % kParts;
      const uint8_t* f =
          filters + (tap * kGroups + group) * group_bytes + part * kBytes;
      AddMaxima<T>(x[v], f, two, &sums[part]);
    }
  }

  // An output of columns a and b, which have come, and c, which comes. `of_two`
  // has the sums of a and b, and those of b become those of b and c.
  inline __attribute__((always_inline)) void Output(const Column& a,
                                                    const Column& b, Column& c,
                                                    const Sums& of_two,
                                                    Sums& of_b, Sums& of_c) {
    Next(c, of_c);
    Sums sums;
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part) {
      sums[part] = of_two[part] + of_c[part];
      of_b[part] += of_c[part];
    }
    AddColumn(a, 0, sums);
    AddColumn(b, 1, sums);
    AddColumn(c, 2, sums);
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part) {
      std::memcpy(totals + part * kLanesOfPart, &sums[part], sizeof(Register));
    }
    totals += params.channels;
  }

  const DepthwiseWindowParams& params;
  const ptrdiff_t at, group_bytes;
  const uint8_t* const filters;
  const uint32_t* const starts;
  int32_t* totals;
  int64_t column;
  const Register minus_one, two;
};

// The sums of `count` vectors of channels from `channel` on, of all outputs.
template <typename T, int kBytes>
__attribute__((noinline)) void SumWindows(const DepthwiseWindowParams& params,
                                          int64_t channel, int64_t count) {
  using Form = WindowSums<T, kBytes>;
  for (; count > 0; --count, channel += kBytes / sizeof(T)) {
    Form form(params, channel);
    typename Form::Column x, y, z;
    typename Form::Sums a, b, c;
    form.Next(x, a);
    form.Next(y, b);
#pragma GCC unroll 4
    for (int part = 0; part < Form::kParts; ++part) a[part] += b[part];
    // Three outputs at once, after which registers mean what they did before.
    for (int64_t left = params.outputs;;) {
      form.Output(x, y, z, a, b, c);
      if (--left == 0) break;
      form.Output(y, z, x, b, c, a);
      if (--left == 0) break;
      form.Output(z, x, y, c, a, b);
      if (--left == 0) break;
    }
  }
}

// See DepthwiseWindowParams; kBytes is what the widest vectors hold.
template <typename T, int kBytes>
void SumAllWindows(const DepthwiseWindowParams& params) {
  ForEachVector<T, kBytes>(params.channels, 0,
                           [&](auto bytes, int64_t channel, int64_t count) {
                             SumWindows<T, bytes()>(params, channel, count);
                           });
}

}  // namespace
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_KERNELS_DEPTHWISE_WINDOWS_VNNI_H_
