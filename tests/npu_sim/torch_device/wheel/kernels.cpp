// Replaces the aclnn kernels that the real torch_npu registered for PrivateUse1 by CPU kernels on
// zero-copy aliases of the (fake) device memory. Everything else of torch_npu stays: allocator,
// streams, H2D/D2H copies, generator, autocast policy, autograd formulas, CPU-fallback, HCCL, Python API.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>

#include <deque>
#include <mutex>
#include <set>
namespace py = pybind11;
extern "C" void* fakecann_host_ptr(const void*);
namespace {
constexpr auto kSim = c10::DeviceType::PrivateUse1;
std::mutex mu;
bool log_on = false;
std::map<std::string, int64_t> ops, f64;
std::set<std::string> host_ok = {"aten::index.Tensor", "aten::index.Tensor_out", "aten::_index_put_impl_",
                                 "aten::index_put_",   "aten::index_put",        "aten::copy_"};
void* hp(const void* p) {
  if (!p) return nullptr;
  void* h = fakecann_host_ptr(p);
  TORCH_CHECK(h, "override: not fake device memory");
  return h;
}
at::Tensor host_alias(const at::Tensor& t) {
  TORCH_CHECK(t.layout() == at::kStrided, "override: only strided tensors");
  const auto& st = t.storage();
  c10::DataPtr dp(hp(st.data()), c10::Device(c10::kCPU));
  c10::Storage hs(c10::Storage::use_byte_size_t(), st.nbytes(), std::move(dp), c10::GetAllocator(c10::kCPU), true);
  auto r =
      at::detail::make_tensor<c10::TensorImpl>(std::move(hs), c10::DispatchKeySet(c10::DispatchKey::CPU), t.dtype());
  r.unsafeGetTensorImpl()->set_sizes_and_strides(t.sizes(), t.strides(), t.storage_offset());
  return r;
}
at::Tensor new_dev(at::IntArrayRef sz, at::IntArrayRef st, c10::ScalarType dt, c10::Device d) {
  return at::empty_strided(sz, st, at::TensorOptions().device(d).dtype(dt));
}
struct Below {
  at::AutoDispatchBelowADInplaceOrView a;
  c10::impl::ExcludeDispatchKeyGuard b{c10::autocast_dispatch_keyset};
};
struct Rec {
  at::Tensor dev, host;
  const void* orig;
  bool write;
};
void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  Below below;
  const auto& schema = op.schema();
  const auto& args = schema.arguments();
  const size_t n = args.size(), base = stack->size() - n;
  const std::string name = c10::toString(op.operator_name());
  std::deque<Rec> recs;
  std::optional<c10::Device> tgt;
  bool d64 = false;
  auto conv = [&](const at::Tensor& t, bool w) -> at::Tensor {
    if (!t.defined()) return t;
    if (t.device().type() == kSim) {
      if (!tgt)
        tgt = t.device();
      else
        TORCH_CHECK(*tgt == t.device(),
                    "Expected all tensors to be on the same device, but found at least two devices, ", *tgt, " and ",
                    t.device(), "! (", name, ")");
      if (t.scalar_type() == at::kDouble || t.is_complex()) d64 = true;
      for (auto& r : recs)
        if (r.dev.is_same(t)) {
          r.write |= w;
          return r.host;
        }
      auto h = host_alias(t);
      recs.push_back({t, h, h.storage().data(), w});
      return h;
    }
    TORCH_CHECK(t.dim() == 0 || host_ok.count(name),
                "Expected all tensors to be on the same device, but found at least two devices, npu and ", t.device(),
                "! (", name, ")");
    return t;
  };
  for (size_t i = 0; i < n; i++) {
    auto& iv = (*stack)[base + i];
    const bool w = args[i].alias_info() && args[i].alias_info()->isWrite();
    if (iv.isTensor())
      iv = conv(iv.toTensor(), w);
    else if (iv.isTensorList()) {
      auto v = iv.toTensorVector();
      for (auto& t : v) t = conv(t, w);
      iv = c10::List<at::Tensor>(std::move(v));
    } else if (iv.isOptionalTensorList()) {
      auto l = iv.toOptionalTensorVector();
      c10::List<std::optional<at::Tensor>> o;
      for (auto& t : l) o.push_back(t ? std::optional<at::Tensor>(conv(*t, w)) : std::nullopt);
      iv = std::move(o);
    } else if (iv.isDevice() && iv.toDevice().type() == kSim) {
      tgt = iv.toDevice();
      iv = c10::Device(c10::kCPU);
    }
  }
  if (!tgt || !tgt->has_index()) tgt = c10::Device(kSim, c10::impl::getDeviceGuardImpl(kSim)->getDevice().index());
  if (log_on) {
    std::lock_guard<std::mutex> g(mu);
    ops[name]++;
    if (d64) f64[name]++;
  }
  static const bool strict64 = std::getenv("FAKECANN_ALLOW_F64") == nullptr;
  static const std::set<std::string> nof64 = {"aten::mm",
                                              "aten::mm.out",
                                              "aten::bmm",
                                              "aten::bmm.out",
                                              "aten::addmm",
                                              "aten::addmm.out",
                                              "aten::baddbmm",
                                              "aten::baddbmm.out",
                                              "aten::linear",
                                              "aten::matmul",
                                              "aten::native_layer_norm",
                                              "aten::gelu",
                                              "aten::gelu.out"};
  TORCH_CHECK(!(d64 && strict64 && nof64.count(name)), name,
              ": Tensor self not implemented for DT_DOUBLE, should be in dtype support list "
              "[DT_FLOAT,DT_FLOAT16,DT_BFLOAT16,]");
  static const auto gen_opt = c10::OptionalType::create(c10::GeneratorType::get());
  auto draw = [](at::Generator g) {  // CPU stream derived from the NPU generator's (seed, philox offset)
    std::lock_guard<std::mutex> l(g.mutex());
    uint64_t s = g.current_seed(), o = g.get_offset();
    g.set_offset(o + 4);
    return at::make_generator<at::CPUGeneratorImpl>(s * 0x9E3779B97F4A7C15ull + o);
  };
  bool had = false, swapped = false;
  at::Tensor saved;
  for (size_t i = 0; i < n; i++) {
    auto& iv = (*stack)[base + i];
    if (iv.isGenerator()) {
      had = true;
      TORCH_CHECK(iv.toGenerator().device().type() == kSim, "Expected a 'npu' device type for generator but found '",
                  iv.toGenerator().device().type(), "'");
      iv = draw(iv.toGenerator());
    } else if (iv.isNone() && args[i].name() == "generator" && args[i].type()->isSubtypeOf(*gen_opt)) {
      had = true;
      iv = draw(at::globalContext().defaultGenerator(*tgt));
    }
  }
  if (!had && op.hasTag(at::Tag::nondeterministic_seeded)) {
    auto d = at::globalContext().defaultGenerator(c10::kCPU);
    saved = d.get_state();
    d.set_current_seed(draw(at::globalContext().defaultGenerator(*tgt)).current_seed());
    swapped = true;
  }
  struct R {
    bool* on;
    at::Tensor* s;
    ~R() {
      if (*on) {
        auto d = at::globalContext().defaultGenerator(c10::kCPU);
        d.set_state(*s);
      }
    }
  } rr{&swapped, &saved};
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  for (auto& r : recs) {
    if (!r.write) continue;
    auto* hi = r.host.unsafeGetTensorImpl();
    if (r.host.sizes() != r.dev.sizes() || r.host.strides() != r.dev.strides() ||
        hi->storage_offset() != r.dev.storage_offset() || r.host.storage().data() != r.orig) {
      // out= resized on the host: resize through torch_npu and copy the values
      r.dev.resize_(r.host.sizes());
      host_alias(r.dev).copy_(r.host);
    }
  }
  auto back = [&](const at::Tensor& t) -> at::Tensor {
    if (!t.defined() || t.device().type() != c10::kCPU) return t;
    for (auto& r : recs)
      if (r.host.is_same(t)) return r.dev;
    for (auto& r : recs)
      if (t.has_storage() && t.storage().data() && t.storage().data() == r.orig)
        return at::as_strided(r.dev, t.sizes(), t.strides(), t.storage_offset());
    auto d = new_dev(t.sizes(), t.strides(), t.scalar_type(), *tgt);
    if (t.numel()) host_alias(d).copy_(t);
    return d;
  };
  const size_t nr = schema.returns().size(), rb = stack->size() - nr;
  for (size_t i = 0; i < nr; i++) {
    auto& iv = (*stack)[rb + i];
    if (iv.isTensor())
      iv = back(iv.toTensor());
    else if (iv.isTensorList()) {
      auto v = iv.toTensorVector();
      for (auto& t : v) t = back(t);
      iv = c10::List<at::Tensor>(std::move(v));
    }
  }
}
at::Tensor on_dev(const at::Tensor& t, c10::Device d) {
  if (!t.defined()) return t;
  auto r = new_dev(t.sizes(), t.strides(), t.scalar_type(), d);
  if (t.numel()) host_alias(r).copy_(t);
  return r;
}
at::Tensor k_conv(const at::Tensor& x, const at::Tensor& w, const std::optional<at::Tensor>& b, at::IntArrayRef st,
                  at::IntArrayRef pad, at::IntArrayRef dil, bool tr, at::IntArrayRef op, int64_t g) {
  Below below;
  TORCH_CHECK(x.device() == w.device(), "Expected all tensors to be on the same device (convolution)");
  auto hb = b && b->defined() ? std::optional<at::Tensor>(host_alias(*b)) : std::nullopt;
  return on_dev(at::convolution(host_alias(x), host_alias(w), hb, st, pad, dil, tr, op, g), x.device());
}
std::tuple<at::Tensor, at::Tensor, at::Tensor> k_conv_bwd(const at::Tensor& go, const at::Tensor& x,
                                                          const at::Tensor& w, at::IntArrayRef st, at::IntArrayRef pad,
                                                          at::IntArrayRef dil, bool tr, at::IntArrayRef op, int64_t g,
                                                          std::array<bool, 3> m) {
  Below below;
  int64_t oc = tr ? w.size(1) * g : w.size(0);
  auto bs = std::vector<int64_t>{oc};
  auto r = at::convolution_backward(host_alias(go), host_alias(x), host_alias(w), at::OptionalIntArrayRef(bs), st, pad,
                                    dil, tr, op, g, m);
  return {on_dev(std::get<0>(r), x.device()), on_dev(std::get<1>(r), x.device()), on_dev(std::get<2>(r), x.device())};
}
std::vector<std::unique_ptr<torch::Library>> libs;
}  // namespace
PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("native_ops", [] {
    std::vector<std::string> v;
    auto& d = c10::Dispatcher::singleton();
    for (auto& n : d.getAllOpNames()) {
      auto op = d.findOp(n);
      if (op && op->hasKernelForDispatchKey(c10::DispatchKey::PrivateUse1)) v.push_back(c10::toString(n));
    }
    return v;
  });
  m.def("has_cpu", [](std::string ns, std::string ov) {
    auto op = c10::Dispatcher::singleton().findOp({ns, ov});
    return op && op->hasComputedKernelForDispatchKey(c10::DispatchKey::CPU);
  });
  m.def("keys", [](std::string ns, std::string ov) {
    std::vector<std::string> r;
    auto op = c10::Dispatcher::singleton().findOp({ns, ov});
    if (op)
      for (auto k :
           {c10::DispatchKey::PrivateUse1, c10::DispatchKey::AutogradPrivateUse1, c10::DispatchKey::AutocastPrivateUse1,
            c10::DispatchKey::CompositeImplicitAutograd, c10::DispatchKey::CPU})
        if (op->hasKernelForDispatchKey(k)) r.push_back(c10::toString(k));
    return r;
  });
  m.def("override_ops", [](std::vector<std::string> names) {
    auto lib = std::make_unique<torch::Library>(torch::Library::IMPL, "aten", c10::DispatchKey::PrivateUse1, __FILE__,
                                                __LINE__);
    for (auto& n : names) {
      auto q = n.substr(6);  // drop "aten::"
      if (q == "convolution_overrideable")
        lib->impl(q.c_str(), &k_conv);
      else if (q == "convolution_backward_overrideable")
        lib->impl(q.c_str(), &k_conv_bwd);
      else
        lib->impl(q.c_str(), torch::CppFunction::makeFromBoxedFunction<&fallback>());
    }
    libs.push_back(std::move(lib));
  });
  m.def("host_alias", &host_alias);
  m.def("log_start", [] {
    std::lock_guard<std::mutex> g(mu);
    log_on = true;
    ops.clear();
    f64.clear();
  });
  m.def("log_stop", [] {
    std::lock_guard<std::mutex> g(mu);
    log_on = false;
    return std::make_pair(ops, f64);
  });
}
