// How fast this processor can go at all, from registers: prints G
// multiply-adds/s of so many threads together and of one, and G/s of the
// adder's pairs of a max and an fma, of all threads.

#include <chrono>
#include <cstdio>
#include <cstdlib>
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
#else
#define OPAQUE(v) asm volatile("" : "+w"(v))
#endif

constexpr int kChains = 12;
constexpr int kRepeats = 100000000;

template <bool kMax>
float Loop() {
  Vector total[kChains] = {};
  Vector x = total[0] + 1.0f, f = x;
  for (int i = 0; i < kRepeats / kChains; ++i) {
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
  float sum = 0;
#pragma GCC unroll 16
  for (int j = 0; j < kChains; ++j) sum += total[j][0];
  return sum;
}

template <bool kMax>
double Rate(int threads) {
  double best = 0;
  for (int trial = 0; trial < 15; ++trial) {
    std::vector<std::thread> running;
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < threads; ++i) {
      running.emplace_back([] {
        volatile float keep = Loop<kMax>();
        (void)keep;
      });
    }
    for (auto& thread : running) thread.join();
    const std::chrono::duration<double> taken =
        std::chrono::steady_clock::now() - begin;
    const double rate =
        1e-9 * threads * kRepeats / kChains * kChains * kLanes / taken.count();
    if (rate > best) best = rate;
  }
  return best;
}

int main(int count, char** arguments) {
  const int threads = count > 1 ? std::atoi(arguments[1]) : 1;
  std::printf("%.1f %.1f %.1f\n", Rate<false>(threads), Rate<false>(1),
              Rate<true>(threads));
}
