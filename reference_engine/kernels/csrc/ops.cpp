// The operators that torch sees: torch.ops.llmbench.*. Arguments are checked here, the arithmetic is in isa.cpp.
#include <torch/library.h>

#include <ATen/ATen.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels.h"
#include "message.h"
#include "step_recorder.h"
#include "thread_pool.h"

namespace llmbench {

namespace portable { extern const KernelTable table; }
#if defined(__x86_64__)
namespace avx2 { extern const KernelTable table; }
namespace avx512 { extern const KernelTable table; }
namespace avx512_bf16 { extern const KernelTable table; }
namespace amx { extern const KernelTable table; }
#endif

namespace {

using at::Tensor;
using OptionalTensor = const std::optional<Tensor>&;

#if defined(__x86_64__)
// Whether the processor has tiles of bf16, and the system lets this process use them: their state is large, so
// Linux wants to be asked (Documentation/arch/x86/xstate.rst). Threads that exist already are let in too.
bool may_use_tiles() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  constexpr unsigned kAll = 1u << 24 | 1u << 22;  // AMX-TILE, AMX-BF16
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || (edx & kAll) != kAll) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

// What this processor can run, best first.
std::vector<const KernelTable*> usable_tables() {
  std::vector<const KernelTable*> tables;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                          __builtin_cpu_supports("avx512vnni");
  const bool has_bf16 = has_avx512 && __builtin_cpu_supports("avx512bf16");
  if (has_bf16 && may_use_tiles()) tables.push_back(&amx::table);
  if (has_bf16) tables.push_back(&avx512_bf16::table);
  if (has_avx512) tables.push_back(&avx512::table);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) tables.push_back(&avx2::table);
#endif
  tables.push_back(&portable::table);
  return tables;
}

// A vector's memory, reused from call to call and grown when needed; 64-byte aligned.
class Scratch {
 public:
  template <class T>
  T* take(int64_t count) {
    const size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
    if (bytes > size_) {
      memory_.reset(static_cast<char*>(std::aligned_alloc(64, bytes)));
      TORCH_CHECK(memory_ != nullptr, message("out of memory for ", bytes, " bytes of scratch"));
      size_ = bytes;
    }
    return reinterpret_cast<T*>(memory_.get());
  }

 private:
  struct Free {
    void operator()(char* memory) const { std::free(memory); }
  };
  std::unique_ptr<char, Free> memory_;
  size_t size_ = 0;
};

struct Runtime {
  std::mutex one_at_a_time;  // protects all of the below: two engines in one process share the threads
  const KernelTable* kernels = usable_tables().front();
  std::unique_ptr<ThreadPool> pool = std::make_unique<ThreadPool>(1);
  Scratch inputs, input_scales, input_sums, queries;
  std::vector<Scratch> per_thread = std::vector<Scratch>(1);
};

// Never destroyed: joining threads while a process exits is asking for a hang.
Runtime& runtime() {
  static auto* instance = new Runtime;
  return *instance;
}

const float* floats(OptionalTensor tensor, int64_t size, const char* name) {
  if (!tensor.has_value()) return nullptr;
  TORCH_CHECK(tensor->scalar_type() == at::kFloat && tensor->is_contiguous() && tensor->numel() == size,
              message(name, " must be ", size, " contiguous float32 numbers, not ", tensor->sizes(), tensor->scalar_type()));
  return tensor->const_data_ptr<float>();
}

// Memory of an operator's result.
Tensor result(int64_t rows, int64_t columns) {
  StepRecorder* recorder = StepRecorder::active();
  return recorder == nullptr ? at::empty({rows, columns}) : recorder->empty(rows, columns);
}

// Computes now, and again whenever the step that is being recorded is replayed. Nothing that changes from step to step
// may be in `compute` itself: only addresses, and what does not depend on the values there.
template <class Compute>
void launch(const char* name, const Compute& compute) {
  if (StepRecorder* recorder = StepRecorder::active()) recorder->keep({name, compute});
  compute();
}

void run_linear(LinearArgs args) {
  Runtime& run = runtime();
  const std::lock_guard lock(run.one_at_a_time);
  const int64_t width = args.num_groups * kGroup;
  constexpr int64_t kOverhang = 15;  // rows that a tile may read beyond the last
  args.inputs = run.inputs.take<uint8_t>((args.num_rows + kOverhang) * width * 4);
  args.input_scales = run.input_scales.take<float>(args.num_rows * args.num_groups);
  args.input_sums = run.input_sums.take<int32_t>(args.num_rows * args.num_groups);
  const KernelTable& kernels = *run.kernels;
  constexpr int64_t kRowsPerItem = 4;
  run.pool->run((args.num_rows + kRowsPerItem - 1) / kRowsPerItem, [&](int64_t item, int thread) {
    const int64_t first = item * kRowsPerItem;
    kernels.linear_inputs(args, first, std::min(first + kRowsPerItem, args.num_rows),
                          run.per_thread[thread].take<float>(width));
  });
  // A panel's weights come from memory once: it is cut by rows only where a prompt has work for more threads.
  const int64_t num_pieces = (args.num_rows + kPieceRows - 1) / kPieceRows;
  run.pool->run(args.num_panels * num_pieces, [&](int64_t item, int) {
    const int64_t first = item % num_pieces * kPieceRows;
    kernels.linear_panel(args, item / num_pieces, first, std::min(first + kPieceRows, args.num_rows));
  });
}

Tensor linear(const Tensor& x, const Tensor& packed, int64_t format, int64_t out_features, OptionalTensor bias,
              int64_t activation, OptionalTensor norm_weight, OptionalTensor norm_bias, double norm_eps,
              OptionalTensor residual) {
  LinearArgs args;
  args.format = static_cast<Format>(format);
  args.activation = static_cast<Activation>(activation);
  TORCH_CHECK(x.dim() == 2 && packed.dim() == 3 && packed.is_contiguous() && packed.scalar_type() == at::kByte,
              "x must be a matrix and packed [panels, groups, bytes] of uint8");
  args.num_rows = x.size(0), args.in_features = x.size(1), args.out_features = out_features;
  args.num_panels = packed.size(0), args.num_groups = packed.size(1);
  TORCH_CHECK(packed.size(2) == static_cast<int64_t>(chunk_bytes(args.format)), "packed is of another format");
  TORCH_CHECK((args.in_features + kGroup - 1) / kGroup == args.num_groups,
              message("x has ", args.in_features, " columns, the weights ", args.num_groups, " groups of ", kGroup));
  const int64_t panel_outputs = args.activation == Activation::kSwiGLU ? kPanel / 2 : kPanel;
  TORCH_CHECK((out_features + panel_outputs - 1) / panel_outputs == args.num_panels,
              message("out_features ", out_features, " does not fit ", args.num_panels, " panels"));
  args.x = floats(x, args.num_rows * args.in_features, "x");
  args.packed = packed.const_data_ptr<uint8_t>();
  args.bias = floats(bias, args.num_panels * kPanel, "bias");
  args.norm_weight = floats(norm_weight, args.in_features, "norm_weight");
  args.norm_bias = floats(norm_bias, args.in_features, "norm_bias");
  args.norm_eps = static_cast<float>(norm_eps);
  args.residual = floats(residual, args.num_rows * out_features, "residual");
  Tensor out = result(args.num_rows, out_features);
  args.out = out.mutable_data_ptr<float>();
  if (args.num_rows > 0) launch("linear", [args] { run_linear(args); });
  return out;
}

CacheFormat cache_format(at::ScalarType type) {
  switch (type) {
    case at::kFloat: return CacheFormat::kFloat32;
    case at::kBFloat16: return CacheFormat::kBfloat16;
    case at::kChar: return CacheFormat::kInt8;
    case at::kFloat8_e4m3fn: return CacheFormat::kFp8;
    default: TORCH_CHECK(false, message("the cache must hold float32, bfloat16, int8 or float8_e4m3fn, not ", type));
  }
}

// Queries [first, last) of a span.
struct QueryTile {
  int64_t span, first, last;
};

// The tiles of all spans. Raises for spans and block tables that lead outside of the step or the cache: what a step's
// tensors hold is checked here, and when it is replayed again.
std::vector<QueryTile> cut_queries(const AttentionArgs& args) {
  std::vector<QueryTile> tiles;
  for (int64_t s = 0; s < args.num_spans; ++s) {
    const Span& span = args.spans[s];
    TORCH_CHECK(span.num_tokens >= 0 && span.first_row >= 0 && span.first_row + span.num_tokens <= args.num_rows &&
                    span.num_tokens <= span.context_len && span.context_len <= args.table_width * args.block_size &&
                    (args.cos == nullptr || span.context_len <= args.num_positions),
                message("span ", s, " does not fit the step"));
    for (int64_t b = 0; b * args.block_size < span.context_len; ++b) {
      const int64_t block = args.block_tables[s * args.table_width + b];
      TORCH_CHECK(block >= 0 && block < args.num_blocks,
                  message("span ", s, " leads to block ", block, " of ", args.num_blocks));
    }
    for (int64_t last = span.num_tokens; last > 0;) {  // the late tiles first: they see the most keys
      const int64_t first = (last - 1) / kQueryTile * kQueryTile;
      tiles.push_back({s, first, last});
      last = first;
    }
  }
  return tiles;
}

void run_attention(AttentionArgs args) {
  const std::vector<QueryTile> tiles = cut_queries(args);
  int64_t longest_tile = 0;
  for (const QueryTile& tile : tiles) longest_tile = std::max(longest_tile, tile.last - tile.first);
  Runtime& run = runtime();
  const std::lock_guard lock(run.one_at_a_time);
  args.q = run.queries.take<float>(args.num_rows * args.num_heads * args.head_dim);
  const KernelTable& kernels = *run.kernels;
  run.pool->run(tiles.size(), [&](int64_t index, int) {
    const QueryTile& tile = tiles[index];
    const int64_t* table = args.block_tables + tile.span * args.table_width;
    for (int64_t offset = tile.first; offset < tile.last; ++offset) {
      kernels.attention_write(args, args.spans[tile.span], table, offset);
    }
  });
  const int64_t scratch = attention_scratch(longest_tile * (args.num_heads / args.num_kv_heads), args.head_dim);
  run.pool->run(tiles.size() * args.num_kv_heads, [&](int64_t index, int thread) {
    const QueryTile& tile = tiles[index / args.num_kv_heads];
    const int64_t* table = args.block_tables + tile.span * args.table_width;
    kernels.attention_item(args, args.spans[tile.span], table, index % args.num_kv_heads, tile.first, tile.last,
                           run.per_thread[thread].take<float>(scratch));
  });
}

Tensor attention(const Tensor& qkv, Tensor k_cache, Tensor v_cache, const Tensor& spans, const Tensor& block_tables,
                 OptionalTensor cos, OptionalTensor sin, OptionalTensor q_norm, OptionalTensor k_norm, double norm_eps,
                 int64_t num_heads, double scale, int64_t window) {
  AttentionArgs args;
  TORCH_CHECK(k_cache.dim() == 4 && k_cache.is_contiguous() && v_cache.is_contiguous() &&
                  k_cache.sizes() == v_cache.sizes() && k_cache.scalar_type() == v_cache.scalar_type(),
              "k_cache and v_cache must be alike and contiguous, [num_blocks, block_size, kv heads, head_dim]");
  args.cache_format = cache_format(k_cache.scalar_type());
  args.block_size = k_cache.size(1), args.num_kv_heads = k_cache.size(2), args.head_dim = k_cache.size(3);
  if (args.cache_format == CacheFormat::kInt8) args.head_dim -= 2;  // each head's codes come with a bf16 scale
  args.num_heads = num_heads, args.num_rows = qkv.size(0), args.num_blocks = k_cache.size(0);
  TORCH_CHECK(args.head_dim % 16 == 0 && args.head_dim <= kMaxHeadDim, "head_dim must be a multiple of 16 up to 512");
  TORCH_CHECK(num_heads % args.num_kv_heads == 0, "heads must be a multiple of kv heads");
  const int64_t row_size = (num_heads + 2 * args.num_kv_heads) * args.head_dim;
  args.qkv = floats(qkv, args.num_rows * row_size, "qkv");
  TORCH_CHECK(spans.dim() == 2 && spans.size(1) == 3 && spans.is_contiguous() && spans.scalar_type() == at::kLong,
              "spans must be int64 [n, 3]");
  TORCH_CHECK(block_tables.dim() == 2 && block_tables.size(0) == spans.size(0) && block_tables.is_contiguous() &&
                  block_tables.scalar_type() == at::kLong,
              "block_tables must be int64 [n, width]");
  static_assert(sizeof(Span) == 3 * sizeof(int64_t));
  args.spans = reinterpret_cast<const Span*>(spans.const_data_ptr<int64_t>());
  args.block_tables = block_tables.const_data_ptr<int64_t>();
  args.num_spans = spans.size(0), args.table_width = block_tables.size(1);
  args.rotary_dim = cos.has_value() ? cos->size(1) : 0;
  args.num_positions = cos.has_value() ? cos->size(0) : 0;
  args.cos = floats(cos, args.num_positions * args.rotary_dim, "cos");
  args.sin = floats(sin, args.num_positions * args.rotary_dim, "sin");
  args.q_norm = floats(q_norm, args.head_dim, "q_norm");
  args.k_norm = floats(k_norm, args.head_dim, "k_norm");
  args.norm_eps = static_cast<float>(norm_eps), args.scale = static_cast<float>(scale), args.window = window;
  args.k_cache = k_cache.mutable_data_ptr(), args.v_cache = v_cache.mutable_data_ptr();
  Tensor out = result(args.num_rows, num_heads * args.head_dim);
  args.out = out.mutable_data_ptr<float>();
  launch("attention", [args] { run_attention(args); });
  return out;
}

// residual + table[ids], [n, columns] float32.
Tensor embedding(const Tensor& table, const Tensor& ids, OptionalTensor residual) {
  const bool is_bf16 = table.scalar_type() == at::kBFloat16;
  TORCH_CHECK(table.dim() == 2 && table.is_contiguous() && (is_bf16 || table.scalar_type() == at::kFloat),
              "table must be a contiguous matrix of float32 or bfloat16");
  TORCH_CHECK(ids.dim() == 1 && ids.is_contiguous() && ids.scalar_type() == at::kLong, "ids must be int64 [n]");
  const int64_t num_ids = ids.size(0), size = table.size(0), columns = table.size(1);
  const void* rows = table.const_data_ptr();
  const int64_t* id = ids.const_data_ptr<int64_t>();
  const float* base = floats(residual, num_ids * columns, "residual");
  Tensor out = result(num_ids, columns);
  float* to = out.mutable_data_ptr<float>();
  launch("embedding", [=] {
    for (int64_t i = 0; i < num_ids; ++i) {
      TORCH_CHECK(id[i] >= 0 && id[i] < size, message("id ", id[i], " is not one of the table's ", size));
      for (int64_t c = 0; c < columns; ++c) {
        const int64_t from = id[i] * columns + c;
        const float value = is_bf16 ? static_cast<float>(static_cast<const at::BFloat16*>(rows)[from])
                                    : static_cast<const float*>(rows)[from];
        to[i * columns + c] = base == nullptr ? value : base[i * columns + c] + value;
      }
    }
  });
  return out;
}

Tensor argmax(const Tensor& logits) {
  TORCH_CHECK(logits.dim() == 2 && logits.is_contiguous() && logits.scalar_type() == at::kFloat && logits.size(1) > 0,
              "logits must be a contiguous float32 matrix");
  const int64_t size = logits.size(1);
  Tensor out = at::empty({logits.size(0)}, logits.options().dtype(at::kLong));
  const float* rows = logits.const_data_ptr<float>();
  auto* to = out.mutable_data_ptr<int64_t>();
  Runtime& run = runtime();
  const std::lock_guard lock(run.one_at_a_time);
  run.pool->run(logits.size(0), [&](int64_t row, int) { to[row] = run.kernels->argmax(rows + row * size, size); });
  return out;
}

// The sum of all 8-byte words, [] int64: reads memory as fast as the threads can, for the roofline of benchmarks.
Tensor checksum(const Tensor& bytes) {
  TORCH_CHECK(bytes.is_contiguous() && bytes.scalar_type() == at::kByte, "bytes must be contiguous uint8");
  constexpr int64_t kWordsPerItem = 1 << 15;
  const int64_t num_words = bytes.numel() / 8;
  const auto* words = reinterpret_cast<const uint64_t*>(bytes.const_data_ptr<uint8_t>());
  std::atomic<uint64_t> total{0};
  Runtime& run = runtime();
  const std::lock_guard lock(run.one_at_a_time);
  run.pool->run((num_words + kWordsPerItem - 1) / kWordsPerItem, [&](int64_t item, int) {
    const int64_t last = std::min((item + 1) * kWordsPerItem, num_words);
    uint64_t sum = 0;
    for (int64_t i = item * kWordsPerItem; i < last; ++i) sum += words[i];
    total.fetch_add(sum, std::memory_order_relaxed);
  });
  return at::scalar_tensor(static_cast<int64_t>(total.load()), at::kLong);
}

// The steady clock's nanoseconds, which are Python's perf_counter_ns, to stamps[place]: a profile has it among a step's
// operators, and a replay stamps anew.
void stamp(Tensor stamps, int64_t place) {
  TORCH_CHECK(stamps.scalar_type() == at::kLong && stamps.is_contiguous() && place >= 0 && place < stamps.numel(),
              message("stamps must be int64 with a place ", place));
  int64_t* to = stamps.mutable_data_ptr<int64_t>() + place;
  launch("stamp", [to] { *to = std::chrono::steady_clock::now().time_since_epoch().count(); });
}

void set_num_threads(int64_t num_threads) {
  TORCH_CHECK(num_threads >= 1, "num_threads must be at least 1");
  Runtime& run = runtime();
  const std::lock_guard lock(run.one_at_a_time);
  if (run.pool->num_threads() == num_threads) return;
  run.pool = std::make_unique<ThreadPool>(static_cast<int>(num_threads));
  run.per_thread = std::vector<Scratch>(num_threads);
}

// Names of the instruction sets that this processor can run, best first, separated by commas.
std::string instruction_sets() {
  std::string names;
  for (const KernelTable* table : usable_tables()) names += (names.empty() ? "" : ",") + std::string(table->name);
  return names;
}

void set_instruction_set(const std::string& name) {
  for (const KernelTable* table : usable_tables()) {
    if (name == table->name) {
      const std::lock_guard lock(runtime().one_at_a_time);
      runtime().kernels = table;
      return;
    }
  }
  TORCH_CHECK(false, message("this processor cannot run ", name, "; it can run ", instruction_sets()));
}

}  // namespace

TORCH_LIBRARY(llmbench, library) {
  library.def(
      "linear(Tensor x, Tensor packed, int format, int out_features, Tensor? bias, int activation, "
      "Tensor? norm_weight, Tensor? norm_bias, float norm_eps, Tensor? residual) -> Tensor");
  library.def(
      "attention(Tensor qkv, Tensor(a!) k_cache, Tensor(b!) v_cache, Tensor spans, Tensor block_tables, Tensor? cos, "
      "Tensor? sin, Tensor? q_norm, Tensor? k_norm, float norm_eps, int num_heads, float scale, int window) -> Tensor");
  library.def("embedding(Tensor table, Tensor ids, Tensor? residual) -> Tensor");
  library.def("argmax(Tensor logits) -> Tensor");
  library.def("checksum(Tensor bytes) -> Tensor");
  library.def("stamp(Tensor(a!) stamps, int place) -> ()");
  library.def("set_num_threads(int num_threads) -> ()", &set_num_threads);
  library.def("instruction_sets() -> str", &instruction_sets);
  library.def("set_instruction_set(str name) -> ()", &set_instruction_set);
}

TORCH_LIBRARY_IMPL(llmbench, CPU, library) {
  library.impl("linear", &linear);
  library.impl("attention", &attention);
  library.impl("embedding", &embedding);
  library.impl("argmax", &argmax);
  library.impl("checksum", &checksum);
  library.impl("stamp", &stamp);
}

}  // namespace llmbench
