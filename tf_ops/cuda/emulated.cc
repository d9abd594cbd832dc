// The kernels on the processor, for machines without a GPU: the same functions
// in the same order, one thread of a block after the other between two
// barriers. It shows wrong indices, not races within a step, and is no use for
// anything but tests.

#include <memory>
#include <vector>

#include "cuda/launch.h"

namespace keras_adder {
namespace cuda {
namespace {

template <typename Operation, typename Tile>
class Block {
 public:
  using Thread = TileThread<Operation, Tile>;

  explicit Block(const Plan& plan)
      : plan_(plan),
        threads_(Tile::kThreads),
        totals_(Tile::kThreads),
        shared_(2) {}

  // As TileKernel of kernels.cu: what it writes between two barriers is a loop
  // over all threads here.
  void Run(int x, int y, int z) {
    int thread = 0;
    ForEach([&](Thread& t) {
      ThreadPlace place;
      place.Set(thread, x, y, z);
      t.Begin(plan_, place, &totals_[thread++]);
    });
    if (threads_[0].left() > 0) {
      ForEach([&](Thread& t) { t.Load(plan_); });
      ForEach([&](Thread& t) { t.Store(plan_, &shared_[0]); });
    }
    for (int current = 0; threads_[0].left() > 0; current ^= 1) {
      const bool more = threads_[0].left() > Tile::kDepth;
      if (more) ForEach([&](Thread& t) { t.Load(plan_); });
      // Whoever is ahead stores before others have summed: so does this.
      if (more) {
        ForEach([&](Thread& t) { t.Store(plan_, &shared_[current ^ 1]); });
      }
      ForEach([&](Thread& t) { t.Accumulate(&shared_[current]); });
    }
    ForEach([&](Thread& t) { t.Finish(plan_); });
  }

 private:
  template <typename Visit>
  void ForEach(const Visit& visit) {
    for (Thread& thread : threads_) visit(thread);
  }

  const Plan& plan_;
  std::vector<Thread> threads_;
  std::vector<Totals<Tile>> totals_;
  std::vector<SharedTile<Tile>> shared_;
};

struct Emulator {
  const Plan& plan;
  const Launch& launch;

  template <typename Operation, typename Tile>
  void Run() const {
    Block<Operation, Tile> block(plan);
    for (int z = 0; z < launch.blocks_z; ++z) {
      for (int y = 0; y < launch.blocks_y; ++y) {
        for (int x = 0; x < launch.blocks_x; ++x) block.Run(x, y, z);
      }
    }
  }
};

template <typename Sum>
double GeneralElement(const Request& request, int64_t index) {
  switch (request.call.pass) {
    case KERAS_ADDER_FORWARD:
      return GeneralForward<Sum>(request, index);
    case KERAS_ADDER_INPUT_GRADIENT:
      return GeneralInputGradient<Sum>(request, index);
    default:
      break;
  }
  double sum = 0;
  for (int thread = 0; thread < kGeneralThreads; ++thread) {
    sum += GeneralFilterGradientPart<Sum>(request, index, thread);
  }
  return sum;
}

template <typename Sum>
void RunGeneral(const Request& request, int64_t size) {
  const KerasAdderCall& call = request.call;
  const int32_t type =
      call.pass == KERAS_ADDER_FORWARD ? call.output_type : call.type;
  for (int64_t i = 0; i < size; ++i) {
    Elements<Sum>::Store(request.result, type, i,
                         GeneralElement<Sum>(request, i));
  }
}

}  // namespace

const char* Unusable() { return nullptr; }

const char* LaunchGeneral(const Request& request, int64_t result_size, void*) {
  request.call.type == KERAS_ADDER_FLOAT64
      ? RunGeneral<double>(request, result_size)
      : RunGeneral<float>(request, result_size);
  return nullptr;
}

const char* LaunchTiles(const Plan& plan, const Launch& launch, void*) {
  Dispatch(plan, launch, Emulator{plan, launch});
  for (int64_t i = 0; plan.splits > 1 && i < launch.result_size; ++i) {
    if (plan.splits > kSumLanes) {
      float parts[kSumLanes];
      for (int lane = 0; lane < kSumLanes; ++lane) {
        parts[lane] = SumPartials(plan, i, lane);
      }
      StoreSum(plan, i, parts, 1);
    } else {
      SumFewPartials(plan, i);
    }
  }
  if (plan.request.call.pass == KERAS_ADDER_INPUT_GRADIENT) {
    for (int64_t i = 0; i < launch.result_size; ++i) {
      RepairInputGradient(plan.request, i);
    }
  }
  return nullptr;
}

}  // namespace cuda
}  // namespace keras_adder
