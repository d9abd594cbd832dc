// How fast this processor can go at all, from registers and from memory: a
// library of loops that roofline.py runs, some of them in turns with what they
// are compared with.

#include <cstdint>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
typedef float Vector __attribute__((vector_size(4 * kLanes)));

#if defined(__x86_64__)
#define OPAQUE(v) asm volatile("" : "+v"(v))
#define REGISTER "v"
#else
#define OPAQUE(v) asm volatile("" : "+w"(v))
#define REGISTER "w"
#endif

constexpr int kChains = 12;

// Both loops are unrolled whole: else their arrays lie in memory.
template <bool kMax>
void FloatLoop(int repeats) {
  Vector total[kChains] = {};
  Vector x = total[0] + 1.0f, f = x;
  for (int i = 0; i < repeats; ++i) {
    OPAQUE(f);
#pragma GCC unroll 16
    for (int j = 0; j < kChains; ++j) {
      Vector t = x;
      if (kMax) {
        OPAQUE(t);
        t = t > f ? t : f;
      }
      total[j] = t * f + total[j];
      OPAQUE(total[j]);
    }
  }
#pragma GCC unroll 16
  for (int j = 0; j < kChains; ++j) OPAQUE(total[j]);
}

// A register of integers of any type.
#if defined(__AVX512BW__)
constexpr int kBytes = 64;
#elif defined(__AVX2__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
typedef long long Integers __attribute__((vector_size(kBytes)));

// A step is what adds the distances of x and f to a sum. Its instructions stand
// as they are, for a compiler would merge or hoist them; `t` and `sum` name
// their operands. Two steps may be issued side by side, first instructions
// first, which some processors prefer.
#define STEP(NAME, FIRST, SECOND)                                              \
  struct NAME {                                                                \
    static void One(Integers& sum, Integers x, Integers f, Integers ones) {    \
      Integers t;                                                              \
      asm volatile(FIRST("t") SECOND("t", "sum")                               \
                   : [sum] "+" REGISTER(sum), [t] "=&" REGISTER(t)             \
                   : [x] REGISTER(x), [f] REGISTER(f), [ones] REGISTER(ones)); \
    }                                                                          \
    static void Two(Integers& a, Integers& b, Integers x, Integers f,          \
                    Integers ones) {                                           \
      Integers t, u;                                                           \
      asm volatile(FIRST("t") FIRST("u") SECOND("t", "a") SECOND("u", "b")     \
                   : [a] "+" REGISTER(a), [b] "+" REGISTER(b),                 \
                     [t] "=&" REGISTER(t), [u] "=&" REGISTER(u)                \
                   : [x] REGISTER(x), [f] REGISTER(f), [ones] REGISTER(ones)); \
    }                                                                          \
  };

#if defined(__AVX2__)  // Three operands, in registers of any width.
#define FIRST_OF(NAME, t) NAME " %[x], %[f], %[" t "]\n\t"
#define SECOND_OF(NAME, t, sum) NAME " %[" t "], %[" sum "], %[" sum "]\n\t"
#define SAD(t) FIRST_OF("vpsadbw", t)
#define ADD_WORDS(t, sum) SECOND_OF("vpaddw", t, sum)
#define ADD_SATURATING(t, sum) SECOND_OF("vpaddusw", t, sum)
#define ADD_INTS(t, sum) SECOND_OF("vpaddd", t, sum)
#define MAX_WORDS(t) FIRST_OF("vpmaxsw", t)
#define MADD_ADD(t, sum) \
  "vpmaddwd %[ones], %[" t "], %[" t "]\n\t" ADD_INTS(t, sum)
STEP(SadWords, SAD, ADD_WORDS)
STEP(SadSaturating, SAD, ADD_SATURATING)
STEP(SadInts, SAD, ADD_INTS)
STEP(MaxMadd, MAX_WORDS, MADD_ADD)
#if defined(__AVX512BW__)
#define SLIDING(t) FIRST_OF("vdbpsadbw $0xe4,", t)
#define SLIDING_NAME "vdbpsadbw"
#define MAX_BYTES(t) FIRST_OF("vpmaxub", t)
#define DOT_BYTES(t, sum) "vpdpbusd %[ones], %[" t "], %[" sum "]\n\t"
#define DOT_WORDS(t, sum) "vpdpwssd %[ones], %[" t "], %[" sum "]\n\t"
STEP(MaxDotBytes, MAX_BYTES, DOT_BYTES)
STEP(MaxDotWords, MAX_WORDS, DOT_WORDS)
#else
#define SLIDING(t) FIRST_OF("vmpsadbw $0,", t)
#define SLIDING_NAME "vmpsadbw"
#endif
STEP(SlidingWords, SLIDING, ADD_WORDS)
STEP(SlidingSaturating, SLIDING, ADD_SATURATING)
#elif defined(__x86_64__)  // The result takes the place of an operand.
#define FIRST_OF(NAME, t) "movdqa %[x], %[" t "]\n\t" NAME " %[f], %[" t "]\n\t"
#define SECOND_OF(NAME, t, sum) NAME " %[" t "], %[" sum "]\n\t"
#define SAD(t) FIRST_OF("psadbw", t)
#define ADD_WORDS(t, sum) SECOND_OF("paddw", t, sum)
#define ADD_INTS(t, sum) SECOND_OF("paddd", t, sum)
#define MAX_WORDS(t) FIRST_OF("pmaxsw", t)
#define MADD_ADD(t, sum) "pmaddwd %[ones], %[" t "]\n\t" ADD_INTS(t, sum)
STEP(SadWords, SAD, ADD_WORDS)
STEP(SadInts, SAD, ADD_INTS)
STEP(MaxMadd, MAX_WORDS, MADD_ADD)
#elif defined(__aarch64__)  // One instruction takes the distance and adds it.
#define NOTHING(t)
#define ADD_BYTES(t, sum) "uabal %[" sum "].8h, %[x].8b, %[f].8b\n\t"
#define ADD_WORDS(t, sum) "sabal %[" sum "].4s, %[x].4h, %[f].4h\n\t"
STEP(AbsoluteBytes, NOTHING, ADD_BYTES)
STEP(AbsoluteWords, NOTHING, ADD_WORDS)
#endif

template <typename Step, int kSideBySide>
void IntegerLoop(int repeats) {
  Integers sums[kChains];
  Integers x = {1}, f = {2}, ones = {1};
#pragma GCC unroll 16
  for (int j = 0; j < kChains; ++j) sums[j] = Integers{};
  for (int i = 0; i < repeats; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kChains; j += kSideBySide) {
      if constexpr (kSideBySide == 1) {
        Step::One(sums[j], x, f, ones);
      } else {
        Step::Two(sums[j], sums[j + 1], x, f, ones);
      }
    }
  }
#pragma GCC unroll 16
  for (int j = 0; j < kChains; ++j) OPAQUE(sums[j]);
}

// A loop, and what a step of one of its chains computes.
struct Loop {
  const char* name;  // its instructions
  const char* type;  // of the elements
  bool sliding;      // whether a step sums at four neighbouring positions
  int of_each;       // multiply-adds, or differences of a pair of integers; of
                     // a sliding one those for filters of three columns, 3 of 4
  void (*run)(int);
};

#define INTEGERS(STEP, NAME, TYPE, SLIDING, OF_EACH)      \
  {NAME, TYPE, SLIDING, OF_EACH, IntegerLoop<STEP, 1>}, { \
    NAME, TYPE, SLIDING, OF_EACH, IntegerLoop<STEP, 2>    \
  }

std::vector<Loop> Loops() {
  std::vector<Loop> loops = {
      {"fma", "float32", false, kLanes, FloatLoop<false>},
      {"max+fma", "float32", false, kLanes, FloatLoop<true>},
#if defined(__AVX2__)
      INTEGERS(SlidingWords, SLIDING_NAME "+vpaddw", "uint8", true,
               2 * kBytes * 3 / 4),
      INTEGERS(SlidingSaturating, SLIDING_NAME "+vpaddusw", "uint8", true,
               2 * kBytes * 3 / 4),
      INTEGERS(SadWords, "vpsadbw+vpaddw", "uint8", false, kBytes),
      INTEGERS(SadSaturating, "vpsadbw+vpaddusw", "uint8", false, kBytes),
      INTEGERS(SadInts, "vpsadbw+vpaddd", "uint8", false, kBytes),
      INTEGERS(MaxMadd, "vpmaxsw+vpmaddwd+vpaddd", "int16", false, kBytes / 2),
#elif defined(__x86_64__)
      INTEGERS(SadWords, "psadbw+paddw", "uint8", false, kBytes),
      INTEGERS(SadInts, "psadbw+paddd", "uint8", false, kBytes),
      INTEGERS(MaxMadd, "pmaxsw+pmaddwd+paddd", "int16", false, kBytes / 2),
#elif defined(__aarch64__)
      INTEGERS(AbsoluteBytes, "uabal", "uint8", false, 8),
      INTEGERS(AbsoluteWords, "sabal", "int16", false, 4),
#endif
  };
#if defined(__AVX512BW__)
  if (__builtin_cpu_supports("avx512vnni")) {
    const std::vector<Loop> vnni = {
        INTEGERS(MaxDotBytes, "vpmaxub+vpdpbusd", "uint8", false, kBytes),
        INTEGERS(MaxDotWords, "vpmaxsw+vpdpwssd", "int16", false, kBytes / 2),
    };
    loops.insert(loops.end(), vnni.begin(), vnni.end());
  }
#endif
  return loops;
}

const Loop* LoopAt(int index) {
  static const std::vector<Loop> loops = Loops();
  return index < static_cast<int>(loops.size()) ? &loops[index] : nullptr;
}

// Reads a buffer and writes another, a block of each in turn, as evenly as
// their sizes allow. Stores are ordinary ones, as the ops' are, so that a line
// that is not in a cache is read before it is written.
void Stream(const Vector* in, std::int64_t reads, Vector* out,
            std::int64_t writes, int repeats) {
  const std::int64_t blocks = (reads + writes) / 64 + 1;
  Vector v = {};
  for (int i = 0; i < repeats; ++i) {
    std::int64_t read = 0, written = 0;
    for (std::int64_t block = 1; block <= blocks; ++block) {
      const std::int64_t end = block * reads / blocks;
#pragma GCC unroll 8
      for (; read < end; ++read) {
        v = in[read];
        OPAQUE(v);
      }
      const std::int64_t written_end = block * writes / blocks;
#pragma GCC unroll 8
      for (; written < written_end; ++written) out[written] = v;
    }
    asm volatile("" ::: "memory");  // Each repeat writes anew.
  }
}

// Calls a function of the thread's number in each of so many threads.
template <typename Function>
void InThreads(int threads, Function function) {
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back(function, i);
  function(0);
  for (auto& thread : others) thread.join();
}

extern "C" {

// Fills in what loop number `index` does; false if there is none.
bool peak_describe(int index, const char** name, const char** type,
                   bool* sliding, int* of_each) {
  const Loop* loop = LoopAt(index);
  if (loop == nullptr) return false;
  *name = loop->name;
  *type = loop->type;
  *sliding = loop->sliding;
  *of_each = loop->of_each * kChains;
  return true;
}

// Repeats a loop in each of so many threads.
void peak_run(int index, int repeats, int threads) {
  InThreads(threads, [=](int) { LoopAt(index)->run(repeats); });
}

// Reads and writes two buffers again and again, each thread its part of them.
// They begin where vectors may, and what is left behind the last is not moved.
void peak_stream(const void* in, std::int64_t read, void* out,
                 std::int64_t written, int repeats, int threads) {
  const auto begin = [=](std::int64_t bytes, int thread) {
    return bytes / static_cast<std::int64_t>(sizeof(Vector)) * thread / threads;
  };
  InThreads(threads, [=](int i) {
    const auto from = begin(read, i), to = begin(written, i);
    Stream(static_cast<const Vector*>(in) + from, begin(read, i + 1) - from,
           static_cast<Vector*>(out) + to, begin(written, i + 1) - to, repeats);
  });
}

}  // extern "C"
