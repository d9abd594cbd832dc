#include "cuda/plan.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <initializer_list>
#include <limits>

#include "core/stride_phase.h"

namespace keras_adder {
namespace cuda {
namespace {

// How many blocks parts are made for. Forward passes and input gradients have
// parts as large as an image: only until every multiprocessor of a large GPU
// has two or three blocks. Parts of filters are small, and many blocks leave no
// multiprocessor without work while the last ones run. Found by
// `benchmarks/gpu.py --choices` on an H200.
constexpr int64_t kWantedBlocks = 320;
constexpr int64_t kMinStepsPerSplit = 32;
constexpr int64_t kWantedFilterBlocks = 4096;
constexpr int64_t kMinStepsPerFilterSplit = 64;
// Shorter filter parts, which cost more for their sum than they gain, as long
// as blocks are few.
constexpr int64_t kFewFilterBlocks = 768;
constexpr int64_t kMinStepsPerFewFilterSplits = 12;
constexpr int64_t kMaxPartialBytes = int64_t{256} << 20;
// Fewer columns would leave most of a tile idle.
constexpr int64_t kMinColumns = 4;
constexpr int64_t kMaxGrid = 65535;
// 32-bit indices reach so far; a tile may step a little beyond the end.
constexpr int64_t kMaxIndex = std::numeric_limits<int32_t>::max() - (1 << 16);
constexpr int64_t kMaxPosition = 1 << 29;

int64_t CeilDiv(int64_t a, int64_t b) { return a / b + (a % b != 0); }

int64_t InputSize(const KerasAdderCall& call) {
  return call.batch * call.height.input * call.width.input * call.in_channels;
}

int64_t OutputSize(const KerasAdderCall& call) {
  return call.batch * call.height.output * call.width.output *
         call.out_channels;
}

int64_t FilterSize(const KerasAdderCall& call) {
  return call.height.kernel * call.width.kernel *
         (call.in_channels / call.groups) * call.out_channels;
}

// Whether positions and their differences are 32-bit numbers.
bool Fits32Bits(const KerasAdderAxis& axis) {
  for (const int64_t size : {axis.input, axis.output, axis.kernel, axis.stride,
                             axis.dilation, axis.pad_before}) {
    if (size > kMaxPosition) return false;
  }
  return axis.kernel * axis.dilation <= kMaxPosition &&
         axis.output * axis.stride <= kMaxPosition;
}

bool FitsTiles(const KerasAdderCall& call) {
  if (call.kernel == KERAS_ADDER_GENERAL || call.type == KERAS_ADDER_FLOAT64) {
    return false;
  }
  if (InputSize(call) > kMaxIndex || OutputSize(call) > kMaxIndex ||
      FilterSize(call) > kMaxIndex) {
    return false;
  }
  if (!Fits32Bits(call.height) || !Fits32Bits(call.width)) return false;
  return call.pass != KERAS_ADDER_INPUT_GRADIENT ||
         std::max(call.height.stride, call.width.stride) <= kMaxPhases;
}

PhaseAxis ForwardAxis(const KerasAdderAxis& axis) {
  PhaseAxis result = {};
  result.rows = static_cast<int32_t>(axis.output);
  result.row_step = static_cast<int32_t>(axis.stride);
  result.first = static_cast<int32_t>(-axis.pad_before);
  result.tap_step = static_cast<int32_t>(axis.dilation);
  result.taps = static_cast<int32_t>(axis.kernel);
  result.source = static_cast<int32_t>(axis.input);
  result.tap_stride = result.result_step = 1;
  return result;
}

// The inputs that are `residue` modulo the stride, and the outputs they meet.
PhaseAxis InputGradientAxis(const KerasAdderAxis& axis, int64_t residue) {
  const StridePhase phase = PhaseOfResidue(axis, residue);
  PhaseAxis result = {};
  result.rows = static_cast<int32_t>(phase.count);
  result.row_step = 1;
  result.source = static_cast<int32_t>(axis.output);
  result.first_result = static_cast<int32_t>(residue);
  result.result_step = static_cast<int32_t>(axis.stride);
  result.first_tap = static_cast<int32_t>(phase.first_tap);
  result.tap_stride = static_cast<int32_t>(phase.tap_step);
  result.taps = static_cast<int32_t>(phase.taps);
  result.first = static_cast<int32_t>(phase.first_output);
  result.tap_step = static_cast<int32_t>(phase.output_step);
  return result;
}

int32_t MakePhaseAxes(const KerasAdderCall& call, const KerasAdderAxis& axis,
                      PhaseAxis* axes) {
  if (call.pass != KERAS_ADDER_INPUT_GRADIENT) {
    axes[0] = ForwardAxis(axis);
    return 1;
  }
  for (int64_t phase = 0; phase < axis.stride; ++phase) {
    axes[phase] = InputGradientAxis(axis, phase);
  }
  return static_cast<int32_t>(axis.stride);
}

TensorStrides DenseStrides(bool channels_first, int64_t height, int64_t width,
                           int64_t channels) {
  const auto steps = [](int64_t b, int64_t h, int64_t w, int64_t c) {
    return TensorStrides{static_cast<int32_t>(b), static_cast<int32_t>(h),
                         static_cast<int32_t>(w), static_cast<int32_t>(c)};
  };
  // In an empty tensor a product of the other sizes may be anything.
  if (height == 0 || width == 0) return steps(0, 0, 0, 0);
  if (channels_first) {
    return steps(channels * height * width, width, 1, height * width);
  }
  return steps(height * width * channels, width * channels, channels, 1);
}

int64_t MaxRows(const PhaseAxis* axes, int32_t phases) {
  int64_t rows = 0;
  for (int32_t i = 0; i < phases; ++i) {
    rows = std::max<int64_t>(rows, axes[i].rows);
  }
  return rows;
}

int64_t MaxTaps(const PhaseAxis* axes, int32_t phases) {
  int64_t taps = 0;
  for (int32_t i = 0; i < phases; ++i) {
    taps = std::max<int64_t>(taps, axes[i].taps);
  }
  return taps;
}

// The size of tile whose columns, those beyond the last included, take least
// time. Smaller tiles load more for each difference.
int32_t TileSize(int32_t kernel, bool forward, int64_t columns) {
  const auto padded = [=](int64_t tile) {
    return CeilDiv(columns, tile) * tile;
  };
  if (kernel != KERAS_ADDER_AUTO) {
    return !forward && kernel == KERAS_ADDER_WIDE ? KERAS_ADDER_MEDIUM : kernel;
  }
  const int64_t narrow = padded(16) * 6;
  const int64_t medium = padded(32) * 5;
  const int64_t wide = forward ? padded(64) * 4 : medium + 1;
  const int64_t least = std::min({narrow, medium, wide});
  return least == wide     ? KERAS_ADDER_WIDE
         : least == medium ? KERAS_ADDER_MEDIUM
                           : KERAS_ADDER_NARROW;
}

struct TileShape {
  Launch* launch;

  template <typename Tile>
  void Run() const {
    launch->tile_rows = Tile::kRows;
    launch->tile_columns = Tile::kColumns;
    launch->tile_depth = Tile::kDepth;
  }
};

void ChooseTile(const KerasAdderCall& call, int64_t columns, Launch* launch) {
  launch->tile =
      TileSize(call.kernel, call.pass == KERAS_ADDER_FORWARD, columns);
  switch (call.pass) {
    case KERAS_ADDER_FORWARD:
      return WithTile<KERAS_ADDER_FORWARD>(launch->tile, TileShape{launch});
    case KERAS_ADDER_INPUT_GRADIENT:
      return WithTile<KERAS_ADDER_INPUT_GRADIENT>(launch->tile,
                                                  TileShape{launch});
    default:
      return WithTile<KERAS_ADDER_FILTER_GRADIENT>(launch->tile,
                                                   TileShape{launch});
  }
}

// Into how many parts the sums of so many blocks are best divided.
int64_t WantedSplits(bool filters, int64_t blocks, int64_t steps) {
  blocks = std::max<int64_t>(blocks, 1);
  if (!filters) {
    return std::min(kWantedBlocks / blocks, steps / kMinStepsPerSplit);
  }
  return std::max(
      std::min(kWantedFilterBlocks / blocks, steps / kMinStepsPerFilterSplit),
      std::min(kFewFilterBlocks / blocks, steps / kMinStepsPerFewFilterSplits));
}

void MakeSplits(int64_t blocks, int64_t steps, int64_t result_size,
                Plan* plan) {
  const KerasAdderCall& call = plan->request.call;
  const int64_t partial_bytes =
      std::max<int64_t>(result_size, 1) * int64_t{sizeof(float)};
  int64_t splits = call.splits;
  if (splits == 0) {
    splits =
        WantedSplits(call.pass == KERAS_ADDER_FILTER_GRADIENT, blocks, steps);
  }
  splits = std::min(splits, steps);
  splits = std::min(splits, kMaxPartialBytes / partial_bytes);
  splits = std::max<int64_t>(splits, 1);
  const int64_t per_split = CeilDiv(std::max<int64_t>(steps, 1), splits);
  plan->steps_per_split = static_cast<int32_t>(per_split);
  plan->splits =
      static_cast<int32_t>(CeilDiv(std::max<int64_t>(steps, 1), per_split));
}

}  // namespace

int64_t ResultSize(const KerasAdderCall& call) {
  switch (call.pass) {
    case KERAS_ADDER_FORWARD:
      return OutputSize(call);
    case KERAS_ADDER_INPUT_GRADIENT:
      return InputSize(call);
    default:
      return FilterSize(call);
  }
}

Launch MakePlan(const KerasAdderCall& call, Plan* plan) {
  *plan = Plan{};
  plan->request.call = call;
  Launch launch = {};
  launch.general = true;
  launch.result_size = plan->result_size = ResultSize(call);
  if (!FitsTiles(call)) return launch;

  const bool filters = call.pass == KERAS_ADDER_FILTER_GRADIENT;
  plan->batch = static_cast<int32_t>(call.batch);
  plan->groups = static_cast<int32_t>(call.groups);
  plan->group_in = static_cast<int32_t>(call.in_channels / call.groups);
  plan->group_out = static_cast<int32_t>(call.out_channels / call.groups);
  plan->columns = call.pass == KERAS_ADDER_INPUT_GRADIENT ? plan->group_in
                                                          : plan->group_out;
  if (call.kernel == KERAS_ADDER_AUTO && plan->columns < kMinColumns &&
      !(filters && call.groups == 1)) {
    return launch;
  }
  plan->height_phases = MakePhaseAxes(call, call.height, plan->height);
  plan->width_phases = MakePhaseAxes(call, call.width, plan->width);

  const bool nchw = call.channels_first != 0;
  const TensorStrides input =
      DenseStrides(nchw, call.height.input, call.width.input, call.in_channels);
  const TensorStrides output = DenseStrides(
      nchw, call.height.output, call.width.output, call.out_channels);
  const bool from_output = call.pass == KERAS_ADDER_INPUT_GRADIENT;
  plan->source = from_output ? output : input;
  plan->image = from_output ? input : output;
  plan->channels = from_output ? plan->group_out : plan->group_in;
  plan->filter_width = static_cast<int32_t>(call.width.kernel);
  const int32_t out_channels = static_cast<int32_t>(call.out_channels);
  plan->filter_tap = plan->group_in * out_channels;
  plan->filter_channel = from_output ? 1 : out_channels;
  plan->filter_column = from_output ? out_channels : 1;
  // Groups begin at multiples of `channels`, pixels at multiples of all.
  plan->vectors = !nchw && plan->channels % 4 == 0;

  int64_t rows, depth;
  if (filters) {
    rows = call.height.kernel * call.width.kernel * plan->group_in;
    depth = call.batch * call.height.output * call.width.output;
  } else {
    rows = call.batch * MaxRows(plan->height, plan->height_phases) *
           MaxRows(plan->width, plan->width_phases);
    depth = MaxTaps(plan->height, plan->height_phases) *
            MaxTaps(plan->width, plan->width_phases) * plan->channels;
  }
  ChooseTile(call, plan->columns, &launch);
  launch.blocks_x = CeilDiv(rows, launch.tile_rows);
  launch.blocks_y = CeilDiv(plan->columns, launch.tile_columns);
  const int64_t images =
      call.groups * int64_t{plan->height_phases} * plan->width_phases;
  MakeSplits(launch.blocks_x * launch.blocks_y * images,
             CeilDiv(depth, launch.tile_depth), launch.result_size, plan);
  launch.blocks_z = images * plan->splits;
  launch.general = rows > kMaxIndex || depth > kMaxIndex ||
                   launch.blocks_y > kMaxGrid || launch.blocks_z > kMaxGrid;
  return launch;
}

namespace {

bool IsValid(const KerasAdderAxis& axis) {
  return axis.input >= 0 && axis.output >= 0 && axis.kernel >= 1 &&
         axis.stride >= 1 && axis.dilation >= 1 && axis.pad_before >= 0;
}

const char* CheckCall(const KerasAdderCall& call) {
  if (call.pass < KERAS_ADDER_FORWARD ||
      call.pass > KERAS_ADDER_FILTER_GRADIENT) {
    return "`pass` must be one of the three passes";
  }
  if (call.type < KERAS_ADDER_FLOAT16 || call.type > KERAS_ADDER_FLOAT64) {
    return "`type` must be one of the four types";
  }
  if (call.kernel < KERAS_ADDER_AUTO || call.kernel > KERAS_ADDER_MEDIUM) {
    return "`kernel` must be one of the kernels";
  }
  if (call.splits < 0) return "`splits` must not be negative";
  const bool reduced =
      call.type == KERAS_ADDER_FLOAT16 || call.type == KERAS_ADDER_BFLOAT16;
  if (call.output_type != call.type &&
      !(reduced && call.output_type == KERAS_ADDER_FLOAT32)) {
    return "`output_type` must equal `type`, or be float32 with float16 and "
           "bfloat16";
  }
  if (call.batch < 0 || call.in_channels < 1 || call.out_channels < 0 ||
      call.groups < 1 || call.in_channels % call.groups != 0 ||
      call.out_channels % call.groups != 0) {
    return "`groups` must divide the channels, and no size may be negative";
  }
  if (!IsValid(call.height) || !IsValid(call.width)) {
    return "`height` and `width` must have sizes of at least 0, and filters, "
           "strides and dilations of at least 1";
  }
  return nullptr;
}

}  // namespace

const char* ReadCall(const KerasAdderCall* foreign, KerasAdderCall* call) {
  // What the first version of the struct ends with.
  constexpr size_t kSmallest =
      offsetof(KerasAdderCall, width) + sizeof(KerasAdderAxis);
  const size_t size = foreign->struct_size;
  if (size < kSmallest || size > sizeof(KerasAdderCall)) {
    return "`struct_size` must be sizeof(KerasAdderCall) of a header that is "
           "not newer than the library";
  }
  *call = {};
  std::memcpy(call, foreign, size);
  return CheckCall(*call);
}

}  // namespace cuda
}  // namespace keras_adder
