// How fast this processor can go at all, from registers.
//
//   peak THREADS            prints G multiply-adds/s of so many threads
//   together
//                           and of one, and G/s of the adder's pairs of a max
//                           and an fma, of all threads.
//   peak THREADS integers [TRIALS]
//                           prints a line for each way to sum integer
//                           distances: its instructions, the type, whether
//                           it sums at four sliding positions, differences in
//                           one step, and G differences/s of so many threads
//                           together and of one. Of sliding ones those for
//                           filters of three columns count, 3 of 4.

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
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
int trials = 15;  // of which the best counts

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

// G/s of what a loop does, so many times `of_each` chain in a repeat.
double Rate(void (*loop)(int), int repeats, int of_each, int threads) {
  double best = 0;
  for (int trial = 0; trial < trials; ++trial) {
    std::vector<std::thread> running;
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < threads; ++i) running.emplace_back(loop, repeats);
    for (auto& thread : running) thread.join();
    const std::chrono::duration<double> taken =
        std::chrono::steady_clock::now() - begin;
    const double rate =
        1e-9 * threads * repeats * kChains * of_each / taken.count();
    if (rate > best) best = rate;
  }
  return best;
}

template <bool kMax>
double FloatRate(int threads) {
  return Rate(FloatLoop<kMax>, 100000000 / kChains, kLanes, threads);
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

template <typename Step>
double IntegerRate(int threads, int differences) {
  const int repeats = 30000000 / kChains;
  const double one = Rate(IntegerLoop<Step, 1>, repeats, differences, threads);
  const double two = Rate(IntegerLoop<Step, 2>, repeats, differences, threads);
  return one > two ? one : two;
}

template <typename Step>
void Print(const char* name, const char* type, bool sliding, int differences,
           int threads) {
  std::printf("%s %s %d %d %.1f %.1f\n", name, type, sliding, differences,
              IntegerRate<Step>(threads, differences),
              IntegerRate<Step>(1, differences));
}

void PrintIntegers(int threads) {
#if defined(__AVX2__)
  constexpr int kSliding = 2 * kBytes * 3 / 4;
  Print<SlidingWords>(SLIDING_NAME "+vpaddw", "uint8", true, kSliding, threads);
  Print<SlidingSaturating>(SLIDING_NAME "+vpaddusw", "uint8", true, kSliding,
                           threads);
  Print<SadWords>("vpsadbw+vpaddw", "uint8", false, kBytes, threads);
  Print<SadSaturating>("vpsadbw+vpaddusw", "uint8", false, kBytes, threads);
  Print<SadInts>("vpsadbw+vpaddd", "uint8", false, kBytes, threads);
#if defined(__AVX512BW__)
  if (__builtin_cpu_supports("avx512vnni")) {
    Print<MaxDotBytes>("vpmaxub+vpdpbusd", "uint8", false, kBytes, threads);
    Print<MaxDotWords>("vpmaxsw+vpdpwssd", "int16", false, kBytes / 2, threads);
  }
#endif
  Print<MaxMadd>("vpmaxsw+vpmaddwd+vpaddd", "int16", false, kBytes / 2,
                 threads);
#elif defined(__x86_64__)
  Print<SadWords>("psadbw+paddw", "uint8", false, kBytes, threads);
  Print<SadInts>("psadbw+paddd", "uint8", false, kBytes, threads);
  Print<MaxMadd>("pmaxsw+pmaddwd+paddd", "int16", false, kBytes / 2, threads);
#elif defined(__aarch64__)
  Print<AbsoluteBytes>("uabal", "uint8", false, 8, threads);
  Print<AbsoluteWords>("sabal", "int16", false, 4, threads);
#endif
}

int main(int count, char** arguments) {
  const int threads = count > 1 ? std::atoi(arguments[1]) : 1;
  if (count > 2 && std::strcmp(arguments[2], "integers") == 0) {
    if (count > 3) trials = std::atoi(arguments[3]);
    PrintIntegers(threads);
    return 0;
  }
  std::printf("%.1f %.1f %.1f\n", FloatRate<false>(threads),
              FloatRate<false>(1), FloatRate<true>(threads));
}
