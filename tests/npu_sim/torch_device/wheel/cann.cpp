// fakecann: the ~75 C symbols of CANN that torch_npu 2.13 links against, on the host CPU.
// Test double only. No operator kernels: those are overridden separately (override.cpp).
#include <sys/mman.h>

#include <atomic>
#include <chrono>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>
#define API extern "C" __attribute__((visibility("default")))
static bool dbg() {
  static bool b = getenv("FAKECANN_DEBUG") && *getenv("FAKECANN_DEBUG") == '1';
  return b;
}
#define T(...)                                     \
  do {                                             \
    if (dbg()) {                                   \
      fprintf(stderr, "[fakecann] %s ", __func__); \
      fprintf(stderr, "" __VA_ARGS__);             \
      fprintf(stderr, "\n");                       \
    }                                              \
  } while (0)
#define STUB(name)    \
  API int name(...) { \
    T();              \
    return 0;         \
  }
static long env(const char* k, long d) {
  auto* v = getenv(k);
  return v && *v ? atol(v) : d;
}
static int NDEV() {
  static int n = (int)env("FAKECANN_DEVICES", 2);
  return n;
}
constexpr int OK = 0, E_PARAM = 100000, E_UNINIT = 100001, E_DEVICE = 107001,
              E_BADALLOC = 207001 /* ACL_ERROR_RT_MEMORY_ALLOCATION */;
static thread_local std::string err;
static int fail(int c, const std::string& m) {
  err = "E" + std::to_string(c) + ": " + m;
  T("-> %d %s", c, m.c_str());
  return c;
}
static std::atomic<bool> inited{false};
static thread_local int tl_dev = -1;
// ---- memory: PROT_NONE device range + private host mirror, per device
struct Pool {
  std::mutex mu;
  char *dev = nullptr, *host = nullptr;
  size_t va, cap, used_b = 0;
  std::map<size_t, size_t> fr;
  std::unordered_map<size_t, size_t> us;
};
static std::vector<Pool*>& pools() {
  static auto* v = [] {
    auto* p = new std::vector<Pool*>();
    for (int i = 0; i < NDEV(); i++) {
      auto* q = new Pool();
      q->va = (size_t)env("FAKECANN_VA_MB", 65536) << 20;
      q->cap = (size_t)env("FAKECANN_MEM_MB", 4096) << 20;
      q->host = (char*)mmap(0, q->va, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      q->dev = (char*)mmap(0, q->va, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      q->fr[0] = q->va;
      p->push_back(q);
    }
    return p;
  }();
  return *v;
}
static Pool* owner(const void* p) {
  for (auto* q : pools())
    if (p >= q->dev && p < q->dev + q->va) return q;
  return nullptr;
}
API void* fakecann_host_ptr(const void* p) {
  auto* q = owner(p);
  return q ? q->host + ((const char*)p - q->dev) : nullptr;
}
static void* any_host(const void* p) {
  void* h = fakecann_host_ptr(p);
  return h ? h : (void*)p;
}
static int cur() { return tl_dev < 0 ? 0 : tl_dev; }
API int aclrtMalloc(void** out, size_t n, int policy) {
  if (tl_dev < 0) return fail(107002, "aclrtMalloc: no context (call aclrtSetDevice first)");
  auto* q = pools()[cur()];
  n = (n + 2097151) / 2097152 * 2097152;  // huge-page granularity
  std::lock_guard<std::mutex> g(q->mu);
  if (q->used_b + n > q->cap) return fail(E_BADALLOC, "device memory exhausted");
  for (auto it = q->fr.begin(); it != q->fr.end(); ++it)
    if (it->second >= n) {
      size_t o = it->first, s = it->second;
      q->fr.erase(it);
      if (s > n) q->fr[o + n] = s - n;
      q->us[o] = n;
      q->used_b += n;
      *out = q->dev + o;
      if (env("FAKECANN_POISON", 1)) memset(q->host + o, 0xFF, n);
      T("%zu -> %p", n, *out);
      return OK;
    }
  return fail(E_BADALLOC, "address space");
}
API int aclrtMallocAlign32(void** o, size_t n, int p) { return aclrtMalloc(o, n, p); }
API int aclrtFree(void* p) {
  auto* q = owner(p);
  if (!q) return fail(E_PARAM, "aclrtFree: not a device pointer");
  std::lock_guard<std::mutex> g(q->mu);
  size_t o = (char*)p - q->dev;
  auto u = q->us.find(o);
  if (u == q->us.end()) return fail(E_PARAM, "aclrtFree: double free");
  size_t n = u->second;
  q->us.erase(u);
  q->used_b -= n;
  madvise(q->host + o, n, MADV_DONTNEED);
  auto it = q->fr.emplace(o, n).first;
  auto nx = std::next(it);
  if (nx != q->fr.end() && o + n == nx->first) {
    it->second += nx->second;
    q->fr.erase(nx);
  }
  if (it != q->fr.begin()) {
    auto pv = std::prev(it);
    if (pv->first + pv->second == it->first) {
      pv->second += it->second;
      q->fr.erase(it);
    }
  }
  T("%p", p);
  return OK;
}
static std::mutex hmu;
static std::map<char*, size_t> hlive;
API int aclrtMallocHost(void** o, size_t n) {
  if (posix_memalign(o, 4096, n ? n : 1)) return fail(E_BADALLOC, "host");
  std::lock_guard<std::mutex> g(hmu);
  hlive[(char*)*o] = n;
  T("%zu", n);
  return OK;
}
API int aclrtMallocHostWithCfg(void** o, uint64_t n, void*) { return aclrtMallocHost(o, n); }
API int aclrtFreeHost(void* p) {
  std::lock_guard<std::mutex> g(hmu);
  if (!hlive.erase((char*)p)) return fail(E_PARAM, "aclrtFreeHost");
  free(p);
  return OK;
}
static int do_cpy(void* d, size_t dm, const void* s, size_t n, int kind) {
  // kind: 0 H2H 1 H2D 2 D2H 3 D2D 4 DEFAULT
  if (n > dm) return fail(E_PARAM, "memcpy: count > destMax");
  bool dd = owner(d), sd = owner(s);
  int real = (sd ? 2 : 0) | (dd ? 1 : 0);
  static const int kinds[4] = {0, 1, 2, 3};
  if (kind <= 3 && kinds[real] != kind && n)
    return fail(E_PARAM, "memcpy kind " + std::to_string(kind) + " does not match pointers (" +
                             std::to_string(kinds[real]) + ")");
  memmove(any_host(d), any_host(s), n);
  return OK;
}
API int aclrtMemcpy(void* d, size_t dm, const void* s, size_t n, int k) {
  T("%zu kind=%d", n, k);
  return do_cpy(d, dm, s, n, k);
}
API int aclrtMemcpyAsync(void* d, size_t dm, const void* s, size_t n, int k, void*) {
  T("%zu kind=%d", n, k);
  return do_cpy(d, dm, s, n, k);
}
API int aclrtMemcpyAsyncWithCondition(void* d, size_t dm, const void* s, size_t n, int k, void*) {
  return do_cpy(d, dm, s, n, k);
}
API int aclrtMemset(void* p, size_t mx, int32_t v, size_t n) {
  if (n > mx) return E_PARAM;
  memset(any_host(p), v, n);
  return OK;
}
API int aclrtMemsetAsync(void* p, size_t mx, int32_t v, size_t n, void*) { return aclrtMemset(p, mx, v, n); }
API int aclrtGetMemInfo(int, size_t* f, size_t* t) {
  auto* q = pools()[cur()];
  std::lock_guard<std::mutex> g(q->mu);
  *t = q->cap;
  *f = q->cap - q->used_b;
  return OK;
}
struct PtrAttr {
  struct {
    uint32_t type;
    uint32_t id;
  } location;
  uint32_t pageSize;
  uint32_t rsv[4];
};
API int aclrtPointerGetAttributes(const void* p, void* a) {
  memset(a, 0, 12);
  auto* q = owner(p);
  bool h = false;
  {
    std::lock_guard<std::mutex> g(hmu);
    auto it = hlive.upper_bound((char*)p);
    if (it != hlive.begin()) {
      --it;
      h = (char*)p < it->first + it->second;
    }
  }
  // aclrtMemLocationType: 0 HOST, 1 DEVICE, 2 UNREGISTERED
  ((uint32_t*)a)[1] = 0;
  ((uint32_t*)a)[0] = 0;
  auto* x = (uint32_t*)a;
  uint32_t id = 0;
  if (q)
    for (size_t i = 0; i < pools().size(); i++)
      if (pools()[i] == q) id = i;
  x[0] = id;
  x[1] = q ? 1 : h ? 0 : 2;
  return OK;
}
// ---- init / device / context
API int aclInit(const char* c) {
  T("%s", c ? c : "");
  if (inited.exchange(true)) return fail(100002, "repeat initialize");
  return OK;
}
API int aclFinalize() {
  T();
  inited = false;
  return OK;
}
API int aclrtGetDeviceCount(uint32_t* n) {
  *n = NDEV();
  return OK;
}
API int aclrtSetDevice(int d) {
  T("%d", d);
  if (!inited) return fail(E_UNINIT, "aclInit not called");
  if (d < 0 || d >= NDEV()) return fail(E_DEVICE, "invalid device id " + std::to_string(d));
  tl_dev = d;
  return OK;
}
API int aclrtResetDevice(int d) {
  T("%d", d);
  if (tl_dev == d) tl_dev = -1;
  return OK;
}
API int aclrtGetDevice(int* d) {
  if (tl_dev < 0) return 107002;
  *d = tl_dev;
  return OK;
}
static char ctxs[64];
API int aclrtGetCurrentContext(void** c) {
  if (tl_dev < 0) {
    *c = nullptr;
    return 107002;
  }
  *c = &ctxs[tl_dev];
  return OK;
}
API int aclrtSetCurrentContext(void* c) {
  tl_dev = (int)((char*)c - ctxs);
  return OK;
}
API int aclrtCreateContext(void** c, int d) {
  tl_dev = d;
  *c = &ctxs[d];
  return OK;
}
API int aclrtDestroyContext(void*) { return OK; }
API const char* aclrtGetSocName() {
  auto* s = getenv("FAKECANN_SOC");
  return s ? s : "Ascend910B2";
}
API const char* aclGetRecentErrMsg() {
  static thread_local std::string m;
  m = err;
  err.clear();
  return m.empty() ? nullptr : m.c_str();
}
API int aclGetDeviceCapability(uint32_t, int, int64_t* v) {
  *v = 24;
  return OK;
}
API int aclrtGetDeviceInfo(uint32_t, int, int64_t* v) {
  *v = 24;
  return OK;
}
API int aclrtDeviceCanAccessPeer(int* c, int, int) {
  *c = 1;
  return OK;
}
API int aclrtDeviceGetBareTgid(int* p) {
  *p = 1;
  return OK;
}
API int aclrtGetLogicDevIdByUserDevId(int u, int* l) {
  *l = u;
  return OK;
}
API int aclrtGetPrimaryCtxState(int d, uint32_t*, int* a) {
  *a = tl_dev >= 0;
  return OK;
}
API int aclrtGetDeviceUtilizationRate(int, void* u) {
  memset(u, 0, 16);
  return OK;
}
API int aclsysGetCANNVersion(int, void* v) {
  memset(v, 0, 256);
  strcpy((char*)v, "9.0.0");
  return OK;
}
API int aclsysGetVersionStr(char* pkg, char* v) {
  strcpy(v, "9.0.0");
  T("%s", pkg);
  return OK;
}
API int aclsysGetVersionNum(char* pkg, int32_t* v) {
  *v = 90000000;
  return OK;
}
// ---- streams / events: everything is synchronous
struct Stream {
  int id, dev;
};
static std::atomic<int> sid{1};
API int aclrtCreateStream(void** s) {
  *s = new Stream{sid++, cur()};
  return OK;
}
API int aclrtCreateStreamWithConfig(void** s, uint32_t, uint32_t) { return aclrtCreateStream(s); }
API int aclrtDestroyStream(void* s) { return OK; }
API int aclrtDestroyStreamForce(void* s) { return OK; }
API int aclrtStreamGetId(void* s, int* id) {
  *id = s ? ((Stream*)s)->id : 0;
  return OK;
}
API int aclrtSynchronizeStream(void*) { return OK; }
API int aclrtSynchronizeStreamWithTimeout(void*, int) { return OK; }
API int aclrtSynchronizeDevice() { return OK; }
API int aclrtSynchronizeDeviceWithTimeout(int) { return OK; }
API int aclrtStreamQuery(void*, int* st) {
  *st = 0;
  return OK;
}
struct Ev {
  bool rec = false;
  std::chrono::steady_clock::time_point t;
};
API int aclrtCreateEventExWithFlag(void** e, uint32_t) {
  *e = new Ev();
  return OK;
}
API int aclrtCreateEventWithFlag(void** e, uint32_t) {
  *e = new Ev();
  return OK;
}
API int aclrtDestroyEvent(void* e) {
  delete (Ev*)e;
  return OK;
}
API int aclrtRecordEvent(void* e, void*) {
  ((Ev*)e)->rec = true;
  ((Ev*)e)->t = std::chrono::steady_clock::now();
  return OK;
}
API int aclrtResetEvent(void* e, void*) { return OK; }
API int aclrtStreamWaitEvent(void*, void*) { return OK; }
API int aclrtSynchronizeEvent(void*) { return OK; }
API int aclrtQueryEventStatus(void*, int* s) {
  *s = 1;
  return OK;
}  // ACL_EVENT_RECORDED_STATUS_COMPLETE
API int aclrtQueryEventWaitStatus(void*, int* s) {
  *s = 0;
  return OK;
}  // ACL_EVENT_WAIT_STATUS_COMPLETE
API int aclrtEventElapsedTime(float* ms, void* a, void* b) {
  if (!((Ev*)a)->rec || !((Ev*)b)->rec) return fail(E_PARAM, "event not recorded");
  *ms = std::chrono::duration<float, std::milli>(((Ev*)b)->t - ((Ev*)a)->t).count();
  return OK;
}
API int aclrtEventGetTimestamp(void* e, uint64_t* t) {
  *t = ((Ev*)e)->t.time_since_epoch().count() / 1000;
  return OK;
}
// ---- descriptors
struct Desc {
  int dt, fmt;
  std::vector<int64_t> d;
  int place = 0;
};
API void* aclCreateTensorDesc(int dt, int n, const int64_t* d, int f) {
  return new Desc{dt, f, std::vector<int64_t>(d, d + n)};
}
API void aclDestroyTensorDesc(void* d) { delete (Desc*)d; }
API int aclGetTensorDescFormat(void* d) { return ((Desc*)d)->fmt; }
API int aclGetTensorDescType(void* d) { return ((Desc*)d)->dt; }
API size_t aclGetTensorDescNumDims(void* d) { return ((Desc*)d)->d.size(); }
API int aclGetTensorDescDimV2(void* d, size_t i, int64_t* o) {
  *o = ((Desc*)d)->d[i];
  return OK;
}
API void aclSetTensorDescName(void*, const char*) {}
API void* aclCreateDataBuffer(void* p, size_t n) { return new std::pair<void*, size_t>(p, n); }
API int aclDestroyDataBuffer(void* b) {
  delete (std::pair<void*, size_t>*)b;
  return OK;
}
API void* aclopCreateAttr() { return malloc(1); }
API void aclopDestroyAttr(void* a) { free(a); }
// ---- the few aclop kernels torch_npu reaches below the dispatcher (dtype cast and strided copy inside copy_/_to_copy)
static float h2f(uint16_t h) {
  _Float16 x;
  memcpy(&x, &h, 2);
  return (float)x;
}
static uint16_t f2h(float f) {
  _Float16 x = (_Float16)f;
  uint16_t h;
  memcpy(&h, &x, 2);
  return h;
}
static float b2f(uint16_t x) {
  uint32_t u = (uint32_t)x << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}
static uint16_t f2b(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  if ((u & 0x7fffffff) > 0x7f800000) return 0x7fc0;
  u += 0x7fff + ((u >> 16) & 1);
  return u >> 16;
}
// aclDataType: 0 float 1 fp16 2 int8 3 int32 4 uint8 6 int16 7 uint16 8 uint32 9 int64 10 uint64 11 double 12 bool 27
// bf16
static size_t dsz(int t) {
  switch (t) {
    case 2:
    case 4:
    case 12:
      return 1;
    case 1:
    case 6:
    case 7:
    case 27:
      return 2;
    case 0:
    case 3:
    case 8:
      return 4;
    case 9:
    case 10:
    case 11:
      return 8;
    default:
      return 0;
  }
}
static bool isf(int t) { return t == 0 || t == 1 || t == 27 || t == 11; }
static double ldf(int t, const void* p) {
  switch (t) {
    case 0:
      return *(float*)p;
    case 1:
      return h2f(*(uint16_t*)p);
    case 27:
      return b2f(*(uint16_t*)p);
    case 11:
      return *(double*)p;
    default:
      return 0;
  }
}
static int64_t ldi(int t, const void* p) {
  switch (t) {
    case 2:
      return *(int8_t*)p;
    case 3:
      return *(int32_t*)p;
    case 4:
    case 12:
      return *(uint8_t*)p;
    case 6:
      return *(int16_t*)p;
    case 7:
      return *(uint16_t*)p;
    case 8:
      return *(uint32_t*)p;
    case 9:
    case 10:
      return *(int64_t*)p;
    default:
      return 0;
  }
}
static void st(int t, void* p, bool f, double d, int64_t i) {
  if (t == 12) {
    *(uint8_t*)p = f ? d != 0 : i != 0;
    return;
  }
  if (isf(t)) {
    double v = f ? d : (double)i;
    switch (t) {
      case 0:
        *(float*)p = v;
        break;
      case 1:
        *(uint16_t*)p = f2h(v);
        break;
      case 27:
        *(uint16_t*)p = f2b(v);
        break;
      case 11:
        *(double*)p = v;
    }
    return;
  }
  int64_t v = f ? (int64_t)d : i;
  memcpy(p, &v, dsz(t));
}
API int aclopCompileAndExecute(const char* op, int ni, const void* const id[], const void* const in[], int no,
                               const void* const od[], void* const out[], const void*, int, int, const char*, void*) {
  T("%s in=%d out=%d", op, ni, no);
  auto buf = [](const void* b) { return (char*)any_host(((std::pair<void*, size_t>*)b)->first); };
  if (!strcmp(op, "Cast")) {
    auto *a = (Desc*)id[0], *b = (Desc*)od[0];
    size_t n = 1;
    for (auto d : a->d) n *= d;
    size_t sa = dsz(a->dt), sb = dsz(b->dt);
    if (!sa || !sb) return fail(500001, "Cast: dtype");
    char *x = buf(in[0]), *y = buf(out[0]);
    for (size_t i = 0; i < n; i++) {
      bool f = isf(a->dt);
      st(b->dt, y + i * sb, f, f ? ldf(a->dt, x + i * sa) : 0, f ? 0 : ldi(a->dt, x + i * sa));
    }
    return OK;
  }
  if (!strcmp(op, "Fill")) {  // dims(const), value, out
    auto* b = (Desc*)od[0];
    size_t e = dsz(b->dt), n = 1;
    for (auto d : b->d) n *= d;
    if (!e || ((Desc*)id[1])->dt != b->dt) return fail(500001, "Fill: dtype");
    char *v = buf(in[1]), *y = buf(out[0]);
    for (size_t i = 0; i < n; i++) memcpy(y + i * e, v, e);
    return OK;
  }
  if (!strcmp(op, "Transpose")) {  // x, perm(const)
    auto *a = (Desc*)id[0], *b = (Desc*)od[0];
    size_t nd = a->d.size(), e = dsz(a->dt), n = 1;
    if (!e || a->dt != b->dt) return fail(500001, "Transpose: dtype");
    std::vector<int64_t> str(nd, 1), ix(nd, 0);
    for (size_t j = nd; j-- > 1;) str[j - 1] = str[j] * a->d[j];
    for (auto d : b->d) n *= d;
    auto pt = ((Desc*)id[1])->dt;
    auto perm = [&](size_t j) { return ldi(pt, buf(in[1]) + j * dsz(pt)); };
    char *x = buf(in[0]), *y = buf(out[0]);
    for (size_t c = 0; c < n; c++) {
      int64_t o = 0;
      for (size_t j = 0; j < nd; j++) o += ix[j] * str[perm(j)];
      memcpy(y + c * e, x + o * e, e);
      for (size_t j = nd; j-- > 0;) {
        if (++ix[j] < b->d[j]) break;
        ix[j] = 0;
      }
    }
    return OK;
  }
  if (!strcmp(op, "PadV3")) {  // x, paddings(const, begin/end per dim), value; constant mode only
    auto *a = (Desc*)id[0], *b = (Desc*)od[0];
    size_t nd = a->d.size(), e = dsz(a->dt), n = 1, m = 1;
    if (!e || a->dt != b->dt) return fail(500001, "PadV3: dtype");
    auto pt = ((Desc*)id[1])->dt;
    std::vector<int64_t> str(nd, 1), ix(nd, 0);
    for (size_t j = nd; j-- > 1;) str[j - 1] = str[j] * b->d[j];
    for (auto d : a->d) n *= d;
    for (auto d : b->d) m *= d;
    char *x = buf(in[0]), *y = buf(out[0]), *v = buf(in[2]);
    for (size_t i = 0; i < m; i++) memcpy(y + i * e, v, e);
    for (size_t c = 0; c < n; c++) {
      int64_t o = 0;
      for (size_t j = 0; j < nd; j++) o += (ix[j] + ldi(pt, buf(in[1]) + 2 * j * dsz(pt))) * str[j];
      memcpy(y + o * e, x + c * e, e);
      for (size_t j = nd; j-- > 0;) {
        if (++ix[j] < a->d[j]) break;
        ix[j] = 0;
      }
    }
    return OK;
  }
  if (!strcmp(op, "ViewCopy")) {  // dst, dst_size, dst_stride, dst_offset, src, src_size, src_stride, src_offset
    auto i64 = [&](int k, size_t j) { return ((int64_t*)buf(in[k]))[j]; };
    size_t nd = ((Desc*)id[1])->d[0];
    int t = ((Desc*)id[0])->dt;
    size_t e = dsz(t);
    if (!e || t != ((Desc*)id[4])->dt) return fail(500001, "ViewCopy: dtype");
    std::vector<int64_t> ix(nd, 0);
    size_t n = 1;
    for (size_t j = 0; j < nd; j++) n *= i64(1, j);
    char *d = buf(in[0]), *s = buf(in[4]);
    for (size_t c = 0; c < n; c++) {
      int64_t a = i64(3, 0), b = i64(7, 0);
      for (size_t j = 0; j < nd; j++) {
        a += ix[j] * i64(2, j);
        b += ix[j] * i64(6, j);
      }
      memcpy(d + a * e, s + b * e, e);
      for (size_t j = nd; j-- > 0;) {
        if (++ix[j] < i64(1, j)) break;
        ix[j] = 0;
      }
    }
    return OK;
  }
  if (dbg())
    for (int k = 0; k < ni + no; k++) {
      auto* d = (Desc*)(k < ni ? id[k] : od[k - ni]);
      auto* b = (std::pair<void*, size_t>*)(k < ni ? in[k] : out[k - ni]);
      fprintf(stderr, "   %s%d dt=%d fmt=%d place=%d n=%zu [", k < ni ? "in" : "out", k < ni ? k : k - ni, d->dt,
              d->fmt, d->place, b ? b->second : 0);
      for (auto x : d->d) fprintf(stderr, "%ld ", (long)x);
      fprintf(stderr, "] dev=%d vals:", b && owner(b->first));
      if (b && b->first && b->second <= 64 && (d->dt == 9 || d->dt == 3))
        for (size_t i = 0; i < b->second / dsz(d->dt); i++)
          fprintf(stderr, " %ld", (long)ldi(d->dt, (char*)any_host(b->first) + i * dsz(d->dt)));
      fprintf(stderr, "\n");
    }
  return fail(500001, std::string("fakecann has no kernel for ") + op);
}
API void aclAppLog(int, const char*, const char*, uint32_t, const char*, ...) {}
STUB(aclSetTensorFormat)
API int aclSetTensorPlaceMent(void* d, int t) {
  ((Desc*)d)->place = t;
  return OK;
}
STUB(aclSetTensorShape)
STUB(aclmdlFinalizeDump) STUB(aclmdlInitDump) STUB(aclmdlSetDump) STUB(aclopSetAttrBool) STUB(aclopSetAttrDataType)
    STUB(aclopSetAttrFloat) STUB(aclopSetAttrInt) STUB(aclopSetAttrListBool) STUB(aclopSetAttrListFloat)
        STUB(aclopSetAttrListInt) STUB(aclopSetAttrListListInt) STUB(aclopSetAttrString) STUB(aclrtBinaryGetFunction)
            STUB(aclrtBinaryLoadFromData) STUB(aclrtDeviceEnablePeerAccess) STUB(aclrtFreePhysical)
                STUB(aclrtGetFunctionAddr) STUB(aclrtMallocPhysical) STUB(aclrtMapMem)
                    STUB(aclrtMemExportToShareableHandle) STUB(aclrtMemImportFromShareableHandle)
                        STUB(aclrtMemSetPidToShareableHandle) STUB(aclrtProcessReport) STUB(aclrtReleaseMemAddress)
                            STUB(aclrtReserveMemAddress) STUB(aclrtUnmapMem) STUB(rtDevBinaryRegister)
                                STUB(rtFunctionRegister) STUB(rtGetC2cCtrlAddr) STUB(rtKernelLaunch)
                                    STUB(aclSetCompileopt) STUB(aclrtSetDeviceSatMode) STUB(aclrtSetOpWaitTimeout)
                                        STUB(aclrtSetOpExecuteTimeOut) STUB(aclrtCtxSetSysParamOpt)
                                            STUB(aclrtSetStreamFailureMode) STUB(aclrtSetStreamOverflowSwitch)
                                                STUB(aclrtSetStreamAttribute) STUB(aclrtGetLastError)
                                                    STUB(aclrtPeekAtLastError) STUB(aclrtDeviceTaskAbort)
                                                        STUB(aclopStartDumpArgs) STUB(aclopStopDumpArgs) API
    int aclGetCompileoptSize(int) {
  return 8;
}
API int aclGetCompileopt(int, char* v, size_t) {
  strcpy(v, "disable");
  return OK;
}
API uint64_t MsprofGetHashId(const char*, size_t) { return 0; }
API uint64_t MsprofSysCycleTime() { return 0; }
STUB(MsprofRegisterCallback)
STUB(MsprofReportAdditionalInfo) STUB(MsprofReportApi)
    STUB(MsprofReportCompactInfo) static std::map<int, int64_t> sysopt;
API int aclrtGetSysParamOpt(int o, int64_t* v) {
  *v = sysopt.count(o) ? sysopt[o] : 0;
  return OK;
}
API int aclrtGetStreamOverflowSwitch(void*, uint32_t* f) {
  *f = 0;
  return OK;
}
API const char* aclrtGetErrorVerboseStr() { return ""; }
API int aclrtGetMemUceInfo(int, void*, size_t, size_t* n) {
  *n = 0;
  return OK;
}
API int aclrtSetSysParamOpt(int o, int64_t v) {
  sysopt[o] = v;
  return OK;
}
