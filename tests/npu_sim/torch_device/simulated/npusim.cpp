// npusim: a PyTorch device "npu" for tests, on the host's CPU, stricter than the CPU.
//
//  * Device memory is a reserved address range that nobody may read (PROT_NONE); what stands in it is mapped a second
//    time, known to this file only. Host code that reads a device pointer faults instead of working by luck.
//  * New memory is filled with 0xFF (NaN), so that what is read before it is written shows.
//  * Every operator runs through one boxed fallback, which gives PyTorch's CPU kernel aliases of the device's storages:
//    the numbers are those of the CPU. Host tensors (of more than 0 dimensions) beside device tensors, tensors of two
//    devices, and float64 are refused, as a real NPU refuses them.
//  * The device has its own stream of random numbers, its own autocast lists, and counts its memory.
//  * "hccl" carries collectives of device tensors over gloo, and refuses host tensors and float64.
//
// Environment: NPUSIM_MEM_MB (memory of each device), NPUSIM_DEVICE_COUNT.
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Work.hpp>
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/NativeFunctions.h>
#include <ATen/autocast_mode.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/DeviceGuard.h>
#include <pybind11/stl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <chrono>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <set>

namespace py = pybind11;
using c10::DeviceIndex;
namespace {
constexpr auto kSim = c10::DeviceType::PrivateUse1;

long env_long(const char* k, long d) { auto* v = std::getenv(k); return v && *v ? std::atol(v) : d; }

// ------------------------------------------------------------------ memory --
constexpr size_t kAlign = 512;  // the NPU caching allocator rounds to 512 B
struct Pool {
  std::mutex mu;
  DeviceIndex index = 0;
  size_t cap = 0, va = 0;
  char *host = nullptr, *dev = nullptr;
  std::map<size_t, size_t> free_;                 // offset -> size
  std::unordered_map<size_t, size_t> used;        // offset -> size
  size_t allocated = 0, peak = 0, reserved = 0, peak_reserved = 0, n_alloc = 0, n_free = 0, n_oom = 0;
  void init(DeviceIndex i) {
    index = i;
    cap = (size_t)env_long("NPUSIM_MEM_MB", 4096) << 20;
    va = (size_t)env_long("NPUSIM_VA_MB", 65536) << 20;
    host = (char*)mmap(nullptr, va, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    dev = (char*)mmap(nullptr, va, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    TORCH_CHECK(host != MAP_FAILED && dev != MAP_FAILED, "npusim: mmap failed");
    free_[0] = va;
  }
  bool owns(const void* p) const { return p >= dev && p < dev + va; }
  void* to_host(const void* p) const { return host + ((const char*)p - dev); }
  void* alloc(size_t n) {
    n = (std::max<size_t>(n, 1) + kAlign - 1) / kAlign * kAlign;
    std::lock_guard<std::mutex> g(mu);
    if (allocated + n > cap) {
      n_oom++;
      auto mib = [](size_t b) { char s[32]; snprintf(s, 32, "%.2f MiB", b / 1048576.0); return std::string(s); };
      // wording follows torch_npu's NPUCachingAllocator message
      TORCH_CHECK_WITH(OutOfMemoryError, false, "NPU out of memory. Tried to allocate ", mib(n), " (NPU ", (int)index,
          "; ", mib(cap), " total capacity; ", mib(allocated), " already allocated; ", mib(allocated),
          " current active; ", mib(cap - allocated), " free; ", mib(reserved), " reserved in total by PyTorch)");
    }
    auto it = free_.begin();
    while (it != free_.end() && it->second < n) ++it;
    TORCH_CHECK(it != free_.end(), "npusim: address space exhausted");
    size_t off = it->first, sz = it->second;
    free_.erase(it);
    if (sz > n) free_[off + n] = sz - n;
    used[off] = n;
    allocated += n; peak = std::max(peak, allocated);
    reserved = std::max(reserved, allocated); peak_reserved = std::max(peak_reserved, reserved);
    n_alloc++;
    static const long poison = env_long("NPUSIM_POISON", 1);
    if (poison) std::memset(host + off, 0xFF, n);  // NaN / -1: uninitialised reads show
    return dev + off;
  }
  void release(void* p) {
    std::lock_guard<std::mutex> g(mu);
    size_t off = (char*)p - dev;
    auto u = used.find(off);
    if (u == used.end()) return;
    size_t n = u->second;
    used.erase(u);
    allocated -= n; n_free++;
    if (n >= (1u << 20)) {
      size_t a = (off + 4095) / 4096 * 4096, b = (off + n) / 4096 * 4096;
      if (b > a) madvise(host + a, b - a, MADV_DONTNEED);
    }
    auto it = free_.emplace(off, n).first;
    auto nx = std::next(it);
    if (nx != free_.end() && it->first + it->second == nx->first) { it->second += nx->second; free_.erase(nx); }
    if (it != free_.begin()) {
      auto pv = std::prev(it);
      if (pv->first + pv->second == it->first) { pv->second += it->second; free_.erase(it); }
    }
  }
};

DeviceIndex device_count() { static DeviceIndex n = (DeviceIndex)env_long("NPUSIM_DEVICE_COUNT", 2); return n; }
std::vector<std::unique_ptr<Pool>>& pools() {
  static auto* v = [] {
    auto* p = new std::vector<std::unique_ptr<Pool>>();
    for (int i = 0; i < device_count(); i++) { p->emplace_back(new Pool()); p->back()->init((DeviceIndex)i); }
    return p;
  }();
  return *v;
}
Pool* pool_of(const void* p) { for (auto& q : pools()) if (q->owns(p)) return q.get(); return nullptr; }
void* host_ptr(const void* p) {
  if (!p) return nullptr;
  auto* q = pool_of(p);
  TORCH_CHECK(q, "npusim: pointer is not device memory");
  return q->to_host(p);
}
thread_local DeviceIndex tl_device = 0;
void check_index(DeviceIndex i) {
  TORCH_CHECK(i >= 0 && i < device_count(), "Invalid NPU device ID ", (int)i, ": ", (int)device_count(), " device(s) available");
}
void deleter(void* p) { if (auto* q = pool_of(p)) q->release(p); }

struct SimAllocator final : c10::DeviceAllocator {
  c10::DataPtr allocate(size_t n) override {
    static const pid_t owner = getpid();   // device contexts do not survive fork()
    TORCH_CHECK(getpid() == owner, "Cannot re-initialize NPU in forked subprocess. To use NPU with multiprocessing, you must use the 'spawn' start method");
    auto i = tl_device;
    if (n == 0) return {nullptr, nullptr, &deleter, c10::Device(kSim, i)};
    void* p = pools()[i]->alloc(n);
    return {p, p, &deleter, c10::Device(kSim, i)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &deleter; }
  void copy_data(void* d, const void* s, size_t n) const override { std::memcpy(host_ptr(d), host_ptr(s), n); }
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t = {0, 0}) override {
    for (auto& p : pools()) { std::lock_guard<std::mutex> g(p->mu); p->reserved = p->allocated; }
  }
  void recordStream(const c10::DataPtr&, c10::Stream) override {}
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(DeviceIndex i) override {
    check_index(i);
    c10::CachingDeviceAllocator::DeviceStats s;
    auto& p = *pools()[i];
    std::lock_guard<std::mutex> g(p.mu);
    auto set = [](c10::CachingAllocator::StatArray& a, size_t cur, size_t pk) { a[0].current = cur; a[0].peak = pk; };
    set(s.allocated_bytes, p.allocated, p.peak); set(s.active_bytes, p.allocated, p.peak);
    set(s.reserved_bytes, p.reserved, p.peak_reserved); set(s.requested_bytes, p.allocated, p.peak);
    s.allocation[0].current = p.used.size();
    s.num_ooms = p.n_oom; s.num_device_alloc = p.n_alloc; s.num_device_free = p.n_free;
    return s;
  }
  void resetAccumulatedStats(DeviceIndex i) override { auto& p = *pools()[i]; std::lock_guard<std::mutex> g(p.mu); p.n_oom = p.n_alloc = p.n_free = 0; }
  void resetPeakStats(DeviceIndex i) override { check_index(i); auto& p = *pools()[i]; std::lock_guard<std::mutex> g(p.mu); p.peak = p.allocated; p.peak_reserved = p.reserved; }
  std::pair<size_t, size_t> getMemoryInfo(DeviceIndex i) override { check_index(i); auto& p = *pools()[i]; std::lock_guard<std::mutex> g(p.mu); return {p.cap - p.allocated, p.cap}; }
};
SimAllocator g_alloc;
REGISTER_ALLOCATOR(kSim, &g_alloc);

// -------------------------------------------------------------------- guard --
std::atomic<int64_t> g_next_stream{1}, g_syncs{0};
thread_local std::array<c10::StreamId, 16> tl_stream{};
struct SimEvent { bool recorded = false; std::chrono::steady_clock::time_point t; };
struct SimGuard final : c10::impl::DeviceGuardImplInterface {
  static constexpr c10::DeviceType static_type = kSim;
  SimGuard() = default;
  explicit SimGuard(c10::DeviceType t) { TORCH_CHECK(t == kSim); }
  c10::DeviceType type() const override { return kSim; }
  c10::Device exchangeDevice(c10::Device d) const override { auto o = getDevice(); setDevice(d); return o; }
  c10::Device getDevice() const override { return {kSim, tl_device}; }
  void setDevice(c10::Device d) const override { if (d.has_index()) { check_index(d.index()); tl_device = d.index(); } }
  void uncheckedSetDevice(c10::Device d) const noexcept override { if (d.has_index()) tl_device = d.index(); }
  static c10::Device norm(c10::Device d) { return d.has_index() ? d : c10::Device(kSim, tl_device); }
  c10::Stream getStream(c10::Device d) const override { d = norm(d); return c10::Stream(c10::Stream::UNSAFE, d, tl_stream[d.index()]); }
  c10::Stream getDefaultStream(c10::Device d) const override { return c10::Stream(c10::Stream::DEFAULT, norm(d)); }
  c10::Stream getStreamFromGlobalPool(c10::Device d, bool) const override { return c10::Stream(c10::Stream::UNSAFE, norm(d), g_next_stream++); }
  c10::Stream getNewStream(c10::Device d, int) const override { return c10::Stream(c10::Stream::UNSAFE, norm(d), g_next_stream++); }
  c10::Stream exchangeStream(c10::Stream s) const override { auto d = s.device(); auto o = getStream(d); tl_stream[d.index()] = s.id(); return o; }
  void destroyEvent(void* e, DeviceIndex) const noexcept override { delete (SimEvent*)e; }
  void record(void** e, const c10::Stream&, DeviceIndex, const c10::EventFlag) const override {
    if (!*e) *e = new SimEvent();
    ((SimEvent*)*e)->recorded = true; ((SimEvent*)*e)->t = std::chrono::steady_clock::now();
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  DeviceIndex deviceCount() const noexcept override { return device_count(); }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override { g_syncs++; }
  void synchronizeEvent(void*) const override { g_syncs++; }
  void synchronizeDevice(DeviceIndex) const override { g_syncs++; }
  double elapsedTime(void* a, void* b, DeviceIndex) const override {
    TORCH_CHECK(a && b, "Both events must be recorded before calculating elapsed time.");
    return std::chrono::duration<double, std::milli>(((SimEvent*)b)->t - ((SimEvent*)a)->t).count();
  }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, SimGuard);

// ---------------------------------------------------------------- generator --
struct SimGenerator final : c10::GeneratorImpl {
  at::Generator inner;
  explicit SimGenerator(DeviceIndex i)
      : c10::GeneratorImpl(c10::Device(kSim, i), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)),
        inner(at::make_generator<at::CPUGeneratorImpl>(c10::default_rng_seed_val)) {}
  void set_current_seed(uint64_t s) override { inner.set_current_seed(s); }
  void set_offset(uint64_t) override { TORCH_CHECK(false, "npusim: set_offset is not supported"); }
  uint64_t get_offset() const override { TORCH_CHECK(false, "npusim: get_offset is not supported"); }
  uint64_t current_seed() const override { return inner.current_seed(); }
  uint64_t seed() override { return inner.seed(); }
  void set_state(const c10::TensorImpl& s) override { inner.unsafeGetGeneratorImpl()->set_state(s); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return inner.unsafeGetGeneratorImpl()->get_state(); }
  SimGenerator* clone_impl() const override { auto* g = new SimGenerator(device_.index()); g->inner = inner.clone(); return g; }
};
std::vector<at::Generator>& default_gens() {
  static auto* v = [] { auto* g = new std::vector<at::Generator>(); for (int i = 0; i < device_count(); i++) g->push_back(at::make_generator<SimGenerator>((DeviceIndex)i)); return g; }();
  return *v;
}

// -------------------------------------------------------------------- hooks --
struct SimHooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return device_count() > 0; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  void init() const override {}
  DeviceIndex deviceCount() const override { return device_count(); }
  void setCurrentDevice(DeviceIndex i) const override { check_index(i); tl_device = i; }
  DeviceIndex getCurrentDevice() const override { return tl_device; }
  DeviceIndex exchangeDevice(DeviceIndex i) const override { auto o = tl_device; if (i >= 0) { check_index(i); tl_device = i; } return o; }
  DeviceIndex maybeExchangeDevice(DeviceIndex i) const override { return exchangeDevice(i); }
  const at::Generator& getDefaultGenerator(DeviceIndex i) const override { if (i < 0) i = tl_device; check_index(i); return default_gens()[i]; }
  at::Generator getNewGenerator(DeviceIndex i) const override { if (i < 0) i = tl_device; check_index(i); return at::make_generator<SimGenerator>(i); }
  at::Device getDeviceFromPtr(void* p) const override { auto* q = pool_of(p); TORCH_CHECK(q, "not an NPU pointer"); return {kSim, q->index}; }
  bool isPinnedPtr(const void*) const override { return false; }
  void resizePrivateUse1Bytes(const c10::Storage& st, size_t n) const override {
    auto* s = st.unsafeGetStorageImpl();
    TORCH_CHECK(s->resizable(), "Trying to resize storage that is not resizable");
    c10::DeviceGuard g(c10::Device(kSim, st.device().index()));
    auto p = g_alloc.allocate(n);
    if (n && st.nbytes()) std::memcpy(host_ptr(p.get()), host_ptr(st.data()), std::min(n, st.nbytes()));
    s->set_data_ptr_noswap(std::move(p));
    s->set_nbytes(n);
  }
};
struct RegHooks { RegHooks() { at::RegisterPrivateUse1HooksInterface(new SimHooks()); } } g_reg_hooks;

// operators that take indices from the host, as those of a real device do
const std::set<std::string> g_host_ok = {"aten::index.Tensor", "aten::index.Tensor_out", "aten::_index_put_impl_", "aten::index_put_", "aten::index_put"};
// operators that only move or look at float64 numbers; all others refuse them
const std::set<std::string> g_f64_ok = {"aten::_local_scalar_dense", "aten::fill_.Scalar", "aten::zero_"};

// ---------------------------------------------------------------- aliasing --
at::Tensor host_alias(const at::Tensor& t) {
  TORCH_CHECK(t.layout() == at::kStrided, "npusim: only strided tensors are supported, got ", t.layout());
  const auto& st = t.storage();
  c10::DataPtr dp(host_ptr(st.data()), c10::Device(c10::kCPU));
  c10::Storage hs(c10::Storage::use_byte_size_t(), st.nbytes(), std::move(dp), c10::GetAllocator(c10::kCPU), true);
  auto r = at::detail::make_tensor<c10::TensorImpl>(std::move(hs), c10::DispatchKeySet(c10::DispatchKey::CPU), t.dtype());
  r.unsafeGetTensorImpl()->set_sizes_and_strides(t.sizes(), t.strides(), t.storage_offset());
  return r;
}
at::Tensor new_dev(at::IntArrayRef sz, at::IntArrayRef st, c10::ScalarType dt, c10::Device d) {
  c10::DeviceGuard g(d);
  return at::Tensor(at::detail::empty_strided_generic(sz, st, &g_alloc, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), dt));
}
struct Below {
  at::AutoDispatchBelowADInplaceOrView a;
  c10::impl::ExcludeDispatchKeyGuard b{c10::autocast_dispatch_keyset};
};

struct Rec { at::Tensor dev, host; const void* orig; bool write; };

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  Below below;
  const auto& schema = op.schema();
  const auto& args = schema.arguments();
  const size_t n = args.size(), base = stack->size() - n;
  const std::string name = c10::toString(op.operator_name());
  // deque: Rec addresses must stay valid
  std::deque<Rec> recs;
  std::optional<c10::Device> tgt;
  bool f64 = false;
  const bool host_ok = g_host_ok.count(name);
  auto conv = [&](const at::Tensor& t, bool write) -> at::Tensor {
    if (!t.defined()) return t;
    if (t.device().type() == kSim) {
      if (!tgt) tgt = t.device();
      else TORCH_CHECK(*tgt == t.device(), "Expected all tensors to be on the same device, but found at least two devices, ", *tgt, " and ", t.device(), "! (", name, ")");
      if (t.scalar_type() == at::kDouble || t.is_complex()) f64 = true;
      for (auto& r : recs) if (r.dev.is_same(t)) { r.write |= write; return r.host; }
      auto h = host_alias(t);
      recs.push_back({t, h, h.storage().data(), write});
      return h;
    }
    TORCH_CHECK(host_ok || t.dim() == 0, "Expected all tensors to be on the same device, but found at least two devices, npu and ", t.device(), "! (", name, ")");
    return t;
  };
  for (size_t i = 0; i < n; i++) {
    auto& iv = (*stack)[base + i];
    const bool w = args[i].alias_info() && args[i].alias_info()->isWrite();
    if (iv.isTensor()) iv = conv(iv.toTensor(), w);
    else if (iv.isTensorList()) {
      auto v = iv.toTensorVector();
      for (auto& t : v) t = conv(t, w);
      iv = c10::List<at::Tensor>(std::move(v));
    } else if (iv.isOptionalTensorList()) {
      auto l = iv.toOptionalTensorVector();
      c10::List<std::optional<at::Tensor>> o;
      for (auto& t : l) o.push_back(t ? std::optional<at::Tensor>(conv(*t, w)) : std::nullopt);
      iv = std::move(o);
    } else if (iv.isDevice()) {
      auto d = iv.toDevice();
      if (d.type() == kSim) { tgt = SimGuard::norm(d); iv = c10::Device(c10::kCPU); }
    }
  }
  if (!tgt) tgt = c10::Device(kSim, tl_device);
  check_index(tgt->index());
  TORCH_CHECK(!f64 || g_f64_ok.count(name), "npusim: ", name, ": dtype float64/complex is not supported on this NPU");

  // random: route to the device's own stream
  bool swapped = false, had_gen = false;
  at::Tensor saved;
  at::Generator devgen = default_gens()[tgt->index()];
  static const auto gen_opt = c10::OptionalType::create(c10::GeneratorType::get());
  for (size_t i = 0; i < n; i++) {
    auto& iv = (*stack)[base + i];
    if (iv.isGenerator()) {
      auto g = iv.toGenerator(); had_gen = true;
      TORCH_CHECK(g.device().type() == kSim, "Expected a 'npu' device type for generator but found '", g.device().type(), "'");
      iv = g.get<SimGenerator>()->inner;
    } else if (iv.isNone() && args[i].type()->isSubtypeOf(*gen_opt) && args[i].name() == "generator") {
      had_gen = true;
      iv = devgen.get<SimGenerator>()->inner;
    }
  }
  if (!had_gen && op.hasTag(at::Tag::nondeterministic_seeded)) {
    auto def = at::globalContext().defaultGenerator(c10::kCPU);
    saved = def.get_state();
    def.set_state(devgen.get_state());
    swapped = true;
  }
  struct Restore { bool* on; at::Tensor* s; at::Generator* dg;
    ~Restore() { if (*on) { auto def = at::globalContext().defaultGenerator(c10::kCPU); dg->set_state(def.get_state()); def.set_state(*s); } } } restore{&swapped, &saved, &devgen};

  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);

  for (auto& r : recs) {  // in-place / out= : resized or re-strided on the host side?
    auto* hi = r.host.unsafeGetTensorImpl();
    const bool moved = r.host.storage().data() != r.orig;
    if (!r.write) continue;
    if (moved) {
      const auto nb = r.host.storage().nbytes();
      at::detail::getPrivateUse1Hooks().resizePrivateUse1Bytes(r.dev.storage(), nb);
      if (nb) std::memcpy(host_ptr(r.dev.storage().data()), r.host.storage().data(), nb);
    }
    if (r.host.sizes() != r.dev.sizes() || r.host.strides() != r.dev.strides() || hi->storage_offset() != r.dev.storage_offset())
      r.dev.unsafeGetTensorImpl()->set_sizes_and_strides(r.host.sizes(), r.host.strides(), hi->storage_offset());
  }
  auto back = [&](const at::Tensor& t) -> at::Tensor {
    if (!t.defined() || t.device().type() != c10::kCPU) return t;
    for (auto& r : recs) if (r.host.is_same(t)) return r.dev;
    for (auto& r : recs)
      if (t.has_storage() && t.storage().data() && t.storage().data() == r.orig) {  // a view of an argument
        auto v = at::detail::make_tensor<c10::TensorImpl>(c10::TensorImpl::VIEW, c10::Storage(r.dev.storage()), r.dev.key_set(), t.dtype());
        v.unsafeGetTensorImpl()->set_sizes_and_strides(t.sizes(), t.strides(), t.storage_offset());
        return v;
      }
    TORCH_CHECK(t.layout() == at::kStrided, "npusim: ", name, " returned a ", t.layout(), " tensor");
    auto d = new_dev(t.sizes(), t.strides(), t.scalar_type(), *tgt);
    if (t.numel()) host_alias(d).copy_(t);
    return d;
  };
  const size_t nr = schema.returns().size(), rb = stack->size() - nr;
  for (size_t i = 0; i < nr; i++) {
    auto& iv = (*stack)[rb + i];
    if (iv.isTensor()) iv = back(iv.toTensor());
    else if (iv.isTensorList()) { auto v = iv.toTensorVector(); for (auto& t : v) t = back(t); iv = c10::List<at::Tensor>(std::move(v)); }
  }
}

// ------------------------------------------------------- the non-boxed few --
at::Tensor k_empty(at::IntArrayRef size, std::optional<at::ScalarType> dt, std::optional<at::Layout> l, std::optional<at::Device> d,
                   std::optional<bool> pin, std::optional<at::MemoryFormat> mf) {
  TORCH_CHECK(!pin.value_or(false), "Only dense CPU tensors can be pinned");
  auto dev = SimGuard::norm(d.value_or(c10::Device(kSim, tl_device)));
  check_index(dev.index());
  c10::DeviceGuard g(dev);
  return at::Tensor(at::detail::empty_generic(size, &g_alloc, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(dt), mf));
}
at::Tensor k_empty_strided(at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> dt, std::optional<at::Layout>,
                           std::optional<at::Device> d, std::optional<bool>) {
  auto dev = SimGuard::norm(d.value_or(c10::Device(kSim, tl_device)));
  check_index(dev.index());
  return new_dev(size, stride, c10::dtype_or_default(dt), dev);
}
at::Tensor k_copy_from(const at::Tensor& self, const at::Tensor& dst, bool) {
  Below below;
  auto a = self.device().type() == kSim ? host_alias(self) : self;
  auto b = dst.device().type() == kSim ? host_alias(dst) : dst;
  if (self.is_conj() != a.is_conj()) a = a.conj();
  if (self.is_neg() != a.is_neg()) a = at::_neg_view(a);
  b.copy_(a);
  return dst;
}
const at::Tensor& k_resize_(const at::Tensor& self, at::IntArrayRef size, std::optional<at::MemoryFormat> mf) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_sizes_contiguous(size);
  if (mf && *mf != at::MemoryFormat::Preserve) impl->empty_tensor_restride(*mf);
  size_t need = at::detail::computeStorageNbytes(impl->sizes(), impl->strides(), self.dtype().itemsize(), impl->storage_offset());
  if (self.numel() && need > self.storage().nbytes()) at::detail::getPrivateUse1Hooks().resizePrivateUse1Bytes(self.storage(), need);
  return self;
}
at::Tensor& k_set_storage_off(at::Tensor& r, at::Storage s, int64_t off, at::IntArrayRef size, at::IntArrayRef stride) {
  auto* impl = r.unsafeGetTensorImpl();
  TORCH_CHECK(s.device().type() == kSim, "set_: storage must be on npu");
  impl->set_storage_keep_dtype(s);
  std::vector<int64_t> st(stride.begin(), stride.end());
  if (st.empty() && !size.empty()) { st.assign(size.size(), 1); for (int64_t i = (int64_t)size.size() - 2; i >= 0; i--) st[i] = st[i + 1] * std::max<int64_t>(size[i + 1], 1); }
  impl->set_sizes_and_strides(size, st, off);
  size_t need = at::detail::computeStorageNbytes(size, st, r.dtype().itemsize(), off);
  if (r.numel() && need > s.nbytes()) at::detail::getPrivateUse1Hooks().resizePrivateUse1Bytes(s, need);
  return r;
}
at::Tensor& k_set_storage(at::Tensor& r, at::Storage s) {
  int64_t n = (int64_t)(s.nbytes() / r.dtype().itemsize());
  return k_set_storage_off(r, s, 0, {n}, {1});
}
at::Tensor& k_set_tensor(at::Tensor& r, const at::Tensor& s) { return k_set_storage_off(r, s.storage(), s.storage_offset(), s.sizes(), s.strides()); }
at::Tensor& k_set(at::Tensor& r) {
  c10::Storage s(c10::Storage::use_byte_size_t(), 0, g_alloc.allocate(0), &g_alloc, true);
  return k_set_storage_off(r, s, 0, {0}, {1});
}
at::Tensor k_as_strided(const at::Tensor& s, at::IntArrayRef a, at::IntArrayRef b, std::optional<int64_t> o) { return at::native::as_strided_tensorimpl(s, a, b, o); }
at::Tensor k_view(const at::Tensor& s, at::IntArrayRef a) { return at::native::view(s, a); }
at::Tensor k_reshape_alias(const at::Tensor& s, at::IntArrayRef a, at::IntArrayRef b) { return at::native::_reshape_alias(s, a, b); }
at::Tensor k_unfold(const at::Tensor& s, int64_t d, int64_t z, int64_t st) { return at::native::unfold(s, d, z, st); }
void k_record_stream(at::Tensor&, at::Stream) {}
// torch_npu registers this too: lets module.to("npu") swap param.data in place, so optimizers built before .to() stay valid
bool k_compat(const at::Tensor& a, const at::Tensor& b) {
  auto ok = [](const at::Tensor& t) { return t.layout() == at::kStrided && (t.is_cpu() || t.device().type() == kSim); };
  return ok(a) && ok(b);
}
at::Tensor on_dev(const at::Tensor& t, c10::Device d) {
  if (!t.defined()) return t;
  auto r = new_dev(t.sizes(), t.strides(), t.scalar_type(), d);
  if (t.numel()) host_alias(r).copy_(t);
  return r;
}
void same_dev(const at::Tensor& a, const at::Tensor& b, const char* n) {
  TORCH_CHECK(!b.defined() || a.device() == b.device(), "Expected all tensors to be on the same device, but found at least two devices, ", a.device(), " and ", b.device(), "! (", n, ")");
}
at::Tensor k_conv(const at::Tensor& x, const at::Tensor& w, const std::optional<at::Tensor>& b, at::IntArrayRef st, at::IntArrayRef pad, at::IntArrayRef dil, bool tr, at::IntArrayRef op, int64_t g) {
  Below below;
  same_dev(x, w, "convolution"); if (b) same_dev(x, *b, "convolution");
  auto hb = b && b->defined() ? std::optional<at::Tensor>(host_alias(*b)) : std::nullopt;
  return on_dev(at::convolution(host_alias(x), host_alias(w), hb, st, pad, dil, tr, op, g), x.device());
}
std::tuple<at::Tensor, at::Tensor, at::Tensor> k_conv_bwd(const at::Tensor& go, const at::Tensor& x, const at::Tensor& w, at::IntArrayRef st, at::IntArrayRef pad, at::IntArrayRef dil, bool tr, at::IntArrayRef op, int64_t g, std::array<bool, 3> mask) {
  Below below;
  int64_t oc = tr ? w.size(1) * g : w.size(0);
  auto bs = std::vector<int64_t>{oc};
  auto r = at::convolution_backward(host_alias(go), host_alias(x), host_alias(w), at::OptionalIntArrayRef(bs), st, pad, dil, tr, op, g, mask);
  return {on_dev(std::get<0>(r), x.device()), on_dev(std::get<1>(r), x.device()), on_dev(std::get<2>(r), x.device())};
}
}  // namespace

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }
TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &k_empty);
  m.impl("empty_strided", &k_empty_strided);
  m.impl("_copy_from", &k_copy_from);
  m.impl("resize_", &k_resize_);
  m.impl("set_.source_Storage_storage_offset", &k_set_storage_off);
  m.impl("set_.source_Storage", &k_set_storage);
  m.impl("set_.source_Tensor", &k_set_tensor);
  m.impl("set_", &k_set);
  m.impl("as_strided", &k_as_strided);
  m.impl("view", &k_view);
  m.impl("_reshape_alias", &k_reshape_alias);
  m.impl("unfold", &k_unfold);
  m.impl("record_stream", &k_record_stream);
  m.impl("_has_compatible_shallow_copy_type", &k_compat);
  m.impl("convolution_overrideable", &k_conv);
  m.impl("convolution_backward_overrideable", &k_conv_bwd);
}

// ----------------------------------------------------------------- autocast --
namespace at::autocast { namespace {
Tensor bce_banned(const Tensor&, const Tensor&, const std::optional<Tensor>&, int64_t) {
  TORCH_CHECK(false, "torch.nn.functional.binary_cross_entropy and torch.nn.BCELoss are unsafe to autocast.");
}
TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) { m.fallback(torch::CppFunction::makeFallthrough()); }
TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
#define _KERNEL_LP(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
#define _KERNEL_F32(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)
#define _KERNEL_F32O(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32_set_opt_dtype)
#define _KERNEL_PR(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, promote)
  AT_FORALL_LOWER_PRECISION_FP(_KERNEL_LP)
  AT_FORALL_FP32(_KERNEL_F32)
  AT_FORALL_FP32_SET_OPT_DTYPE(_KERNEL_F32O)
  AT_FORALL_DIFFERENT_REDISPATCH_SIGNATURE(KERNEL_DIFFERENT_REDISPATCH_SIGNATURE_PRIVATEUSEONE)
  AT_FORALL_PROMOTE(_KERNEL_PR)
  m.impl(TORCH_SELECTIVE_NAME("aten::binary_cross_entropy"), TORCH_FN((&at::autocast::bce_banned)));
}
}}  // namespace at::autocast

// --------------------------------------------------------------------- hccl --
namespace {
using c10d::Work;
void hccl_check(const at::Tensor& t, const char* what) {
  TORCH_CHECK(t.device().type() == kSim, "HCCL ", what, ": Tensors must be NPU and dense, got ", t.device());
  TORCH_CHECK(t.is_contiguous(), "HCCL ", what, ": Tensors must be contiguous");
  switch (t.scalar_type()) {
    case at::kChar: case at::kByte: case at::kShort: case at::kInt: case at::kLong: case at::kHalf: case at::kFloat: case at::kBFloat16: case at::kBool: break;
    default: TORCH_CHECK(false, "HCCL ", what, ": Unsupported data type for HCCL process group: ", t.scalar_type());
  }
}
struct SimWork final : Work {
  std::vector<at::Tensor> out; c10::intrusive_ptr<c10::ivalue::Future> fut;
  SimWork(int rank, c10d::OpType op, std::vector<at::Tensor> o) : Work(rank, op), out(std::move(o)) {
    std::vector<c10::Device> ds; for (auto& t : out) if (std::find(ds.begin(), ds.end(), t.device()) == ds.end()) ds.push_back(t.device());
    fut = c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()), ds);
    fut->markCompleted(c10::IValue(out));
  }
  bool isCompleted() override { return true; }
  bool isSuccess() const override { return true; }
  bool wait(std::chrono::milliseconds) override { return true; }
  void synchronize() override {}
  std::vector<at::Tensor> result() override { return out; }
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override { return fut; }
};
// "hccl": device collectives, carried by an inner gloo over the private host view
struct SimHccl final : c10d::Backend {
  c10::intrusive_ptr<c10d::Backend> in; uint64_t seq = 0;
  SimHccl(c10::intrusive_ptr<c10d::Backend> b, int r, int s) : c10d::Backend(r, s), in(std::move(b)) {}
  const std::string getBackendName() const override { return "hccl"; }
  void setSequenceNumberForGroup() override {}
  uint64_t getSequenceNumberForGroup() override { return seq; }
  static std::vector<at::Tensor> al(const std::vector<at::Tensor>& v, const char* w) { std::vector<at::Tensor> o; for (auto& t : v) { hccl_check(t, w); o.push_back(host_alias(t)); } return o; }
  static std::vector<std::vector<at::Tensor>> al2(const std::vector<std::vector<at::Tensor>>& v, const char* w) { std::vector<std::vector<at::Tensor>> o; for (auto& t : v) o.push_back(al(t, w)); return o; }
  static std::vector<at::Tensor> flat(const std::vector<std::vector<at::Tensor>>& v) { std::vector<at::Tensor> o; for (auto& t : v) o.insert(o.end(), t.begin(), t.end()); return o; }
  c10::intrusive_ptr<Work> done(c10d::OpType t, std::vector<at::Tensor> o, c10::intrusive_ptr<Work> w) { w->wait(); seq++; return c10::make_intrusive<SimWork>(rank_, t, std::move(o)); }
  c10::intrusive_ptr<Work> broadcast(std::vector<at::Tensor>& t, const c10d::BroadcastOptions& o) override { Below b; auto a = al(t, "broadcast"); return done(c10d::OpType::BROADCAST, t, in->broadcast(a, o)); }
  c10::intrusive_ptr<Work> allreduce(std::vector<at::Tensor>& t, const c10d::AllreduceOptions& o) override {
    Below b; auto a = al(t, "allreduce");
    if (o.reduceOp == c10d::ReduceOp::AVG) {  // gloo has no AVG
      auto o2 = o; o2.reduceOp = c10d::ReduceOp::SUM; auto w = in->allreduce(a, o2); w->wait(); for (auto& x : a) x.div_(size_);
      return done(c10d::OpType::ALLREDUCE, t, w);
    }
    return done(c10d::OpType::ALLREDUCE, t, in->allreduce(a, o));
  }
  c10::intrusive_ptr<Work> allgather(std::vector<std::vector<at::Tensor>>& o, std::vector<at::Tensor>& i, const c10d::AllgatherOptions& op) override { Below b; auto x = al2(o, "allgather"); auto y = al(i, "allgather"); return done(c10d::OpType::ALLGATHER, flat(o), in->allgather(x, y, op)); }
  c10::intrusive_ptr<Work> _allgather_base(at::Tensor& o, at::Tensor& i, const c10d::AllgatherOptions& op) override { Below b; hccl_check(o, "allgather"); hccl_check(i, "allgather"); auto x = host_alias(o), y = host_alias(i); return done(c10d::OpType::_ALLGATHER_BASE, {o}, in->_allgather_base(x, y, op)); }
  c10::intrusive_ptr<Work> barrier(const c10d::BarrierOptions& o) override { auto o2 = o; o2.device = std::nullopt; o2.device_ids.clear(); in->barrier(o2)->wait(); seq++; return c10::make_intrusive<SimWork>(rank_, c10d::OpType::BARRIER, std::vector<at::Tensor>{}); }
};
}  // namespace

PYBIND11_MODULE(_npusim, m) {
  m.def("device_count", [] { return (int)device_count(); });
  m.def("current_device", [] { return (int)tl_device; });
  m.def("set_device", [](int i) { check_index((DeviceIndex)i); tl_device = (DeviceIndex)i; });
  m.def("synchronize", [](int) { g_syncs++; });
  m.def("memory_stats", [](int i) { check_index((DeviceIndex)i); auto& p = *pools()[i]; std::lock_guard<std::mutex> g(p.mu);
    return std::map<std::string, size_t>{{"allocated", p.allocated}, {"peak", p.peak}, {"reserved", p.reserved}, {"peak_reserved", p.peak_reserved}, {"total", p.cap}, {"num_alloc", p.n_alloc}, {"num_ooms", p.n_oom}, {"live", p.used.size()}}; });
  m.def("reset_peak", [](int i) { g_alloc.resetPeakStats((DeviceIndex)i); });
  m.def("empty_cache", [] { g_alloc.emptyCache(); });
  m.def("set_capacity", [](int i, size_t b) { check_index((DeviceIndex)i); pools()[i]->cap = b; });
  m.def("default_generator", [](int i) { check_index((DeviceIndex)i); return default_gens()[i]; });
  m.def("make_hccl", [](c10::intrusive_ptr<c10d::Backend> inner, int rank, int size) -> c10::intrusive_ptr<c10d::Backend> { return c10::make_intrusive<SimHccl>(std::move(inner), rank, size); });
}
