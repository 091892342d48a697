// libhccl stand-in: collectives over POSIX shared memory (one host, one segment per communicator).
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>
#define API extern "C" __attribute__((visibility("default")))
extern "C" void* fakecann_host_ptr(const void*);
static void* H(const void* p) {
  void* h = fakecann_host_ptr(p);
  return h;
}
static int esize(int t) {
  switch (t) {
    case 0:
    case 7:
      return 1;
    case 1:
    case 3:
    case 8:
    case 11:
      return 2;
    case 2:
    case 4:
    case 9:
      return 4;
    case 5:
    case 6:
    case 10:
      return 8;
    default:
      return 0;
  }
}
constexpr size_t SLOT = 8u << 20;
struct Shm {
  std::atomic<uint32_t> arrived, gen, attached;
  char pad[4084];
};
struct P2P {
  std::atomic<uint32_t> full;
  char pad[60];
};
struct Comm {
  Shm* s;
  char* slots;
  uint32_t rank, n;
  std::string name;
  size_t bytes;
};
static char* slot(Comm* c, uint32_t r) { return c->slots + r * SLOT; }
static P2P* flag(Comm* c, uint32_t a, uint32_t b) {
  return (P2P*)(c->slots + c->n * SLOT + (a * c->n + b) * (SLOT + 64));
}
static char* pbuf(Comm* c, uint32_t a, uint32_t b) { return (char*)(flag(c, a, b) + 1); }
static void barrier(Comm* c) {
  uint32_t g = c->s->gen.load();
  if (c->s->arrived.fetch_add(1) + 1 == c->n) {
    c->s->arrived = 0;
    c->s->gen.fetch_add(1);
  } else
    while (c->s->gen.load() == g) sched_yield();
}
API int HcclGetRootInfo(void* info) {
  static int k = 0;
  memset(info, 0, 4108);
  snprintf((char*)info, 200, "/fakehccl_%d_%d_%ld", getpid(), k++, (long)time(0));
  return 0;
}
static int init(uint32_t n, const void* info, uint32_t rank, void** out) {
  auto* c = new Comm();
  c->name = (const char*)info;
  c->n = n;
  c->rank = rank;
  c->bytes = sizeof(Shm) + n * SLOT + (size_t)n * n * (SLOT + 64);
  int fd = shm_open(c->name.c_str(), O_CREAT | O_RDWR, 0600);
  if (fd < 0 || ftruncate(fd, c->bytes)) return 15;
  c->s = (Shm*)mmap(0, c->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  c->slots = (char*)(c->s + 1);
  c->s->attached.fetch_add(1);
  while (c->s->attached.load() < n) sched_yield();
  barrier(c);
  if (rank == 0) shm_unlink(c->name.c_str());
  *out = c;
  return 0;
}
API int HcclCommInitRootInfo(uint32_t n, const void* i, uint32_t r, void** c) { return init(n, i, r, c); }
API int HcclCommInitRootInfoConfig(uint32_t n, const void* i, uint32_t r, const void*, void** c) {
  return init(n, i, r, c);
}
API int HcclCommDestroy(void* c) {
  auto* x = (Comm*)c;
  munmap(x->s, x->bytes);
  delete x;
  return 0;
}
API int HcclGetCommAsyncError(void*, int* e) {
  *e = 0;
  return 0;
}
API int HcclGetCommName(void* c, char* n) {
  strcpy(n, ((Comm*)c)->name.c_str());
  return 0;
}
API const char* HcclGetErrorString(int c) { return c ? "fakehccl error" : "no error"; }
API uint32_t HcclGetCommConfigCapability() { return 7; }
API int HcclSetConfig(int, uint64_t) { return 0; }
API int HcclCommResume(void*) { return 0; }
API int HcclGroupStart() { return 0; }
API int HcclGroupEnd() { return 0; }
static float bf(uint16_t x) {
  uint32_t u = (uint32_t)x << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}
static uint16_t fb(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  u += 0x7fff + ((u >> 16) & 1);
  return u >> 16;
}
template <class A>
static A comb(A a, A b, int op) {
  return op == 0 ? a + b : op == 1 ? a * b : op == 2 ? (a > b ? a : b) : (a < b ? a : b);
}
template <class A>
static void red(char* d, const std::vector<const char*>& s, size_t n, int op) {
  for (size_t i = 0; i < n; i++) {
    A v = ((const A*)s[0])[i];
    for (size_t k = 1; k < s.size(); k++) v = comb<A>(v, ((const A*)s[k])[i], op);
    ((A*)d)[i] = v;
  }
}
static int reduce_n(char* d, const std::vector<const char*>& s, size_t n, int t, int op) {
  switch (t) {
    case 0:
      red<int8_t>(d, s, n, op);
      break;
    case 7:
      red<uint8_t>(d, s, n, op);
      break;
    case 1:
      red<int16_t>(d, s, n, op);
      break;
    case 2:
      red<int32_t>(d, s, n, op);
      break;
    case 5:
      red<int64_t>(d, s, n, op);
      break;
    case 4:
      red<float>(d, s, n, op);
      break;
    case 3:
      for (size_t i = 0; i < n; i++) {
        _Float16 v = ((const _Float16*)s[0])[i];
        float f = v;
        for (size_t k = 1; k < s.size(); k++) f = comb<float>(f, ((const _Float16*)s[k])[i], op);
        ((_Float16*)d)[i] = (_Float16)f;
      }
      break;
    case 11:
      for (size_t i = 0; i < n; i++) {
        float f = bf(((const uint16_t*)s[0])[i]);
        for (size_t k = 1; k < s.size(); k++) f = comb<float>(f, bf(((const uint16_t*)s[k])[i]), op);
        ((uint16_t*)d)[i] = fb(f);
      }
      break;
    default:
      fprintf(stderr, "fakehccl: dtype %d not supported by HcclAllReduce\n", t);
      return 5;
  }  // fp64 is refused, as real HCCL does
  return 0;
}
#define NEED(p)                                                 \
  if (n && !H(p)) {                                             \
    fprintf(stderr, "fakehccl: buffer is not device memory\n"); \
    return 1;                                                   \
  }
API int HcclAllReduce(void* s, void* r, uint64_t n, int t, int op, void* cc, void*) {
  auto* c = (Comm*)cc;
  NEED(s) NEED(r) int e = esize(t);
  if (!e) return 5;
  size_t step = SLOT / e;
  for (uint64_t o = 0; o < n; o += step) {
    size_t k = std::min<uint64_t>(step, n - o);
    memcpy(slot(c, c->rank), (char*)H(s) + o * e, k * e);
    barrier(c);
    std::vector<const char*> v;
    for (uint32_t i = 0; i < c->n; i++) v.push_back(slot(c, i));
    if (int rc = reduce_n((char*)H(r) + o * e, v, k, t, op)) return rc;
    barrier(c);
  }
  return 0;
}
API int HcclReduce(void* s, void* r, uint64_t n, int t, int op, uint32_t root, void* cc, void*) {
  auto* c = (Comm*)cc;
  NEED(s) int e = esize(t);
  if (!e) return 5;
  size_t step = SLOT / e;
  for (uint64_t o = 0; o < n; o += step) {
    size_t k = std::min<uint64_t>(step, n - o);
    memcpy(slot(c, c->rank), (char*)H(s) + o * e, k * e);
    barrier(c);
    if (c->rank == root) {
      std::vector<const char*> v;
      for (uint32_t i = 0; i < c->n; i++) v.push_back(slot(c, i));
      if (int rc = reduce_n((char*)H(r) + o * e, v, k, t, op)) return rc;
    }
    barrier(c);
  }
  return 0;
}
API int HcclBroadcast(void* b, uint64_t n, int t, uint32_t root, void* cc, void*) {
  auto* c = (Comm*)cc;
  NEED(b) int e = esize(t);
  if (!e) return 5;
  size_t step = SLOT / e;
  for (uint64_t o = 0; o < n; o += step) {
    size_t k = std::min<uint64_t>(step, n - o);
    if (c->rank == root) memcpy(slot(c, root), (char*)H(b) + o * e, k * e);
    barrier(c);
    if (c->rank != root) memcpy((char*)H(b) + o * e, slot(c, root), k * e);
    barrier(c);
  }
  return 0;
}
API int HcclAllGather(void* s, void* r, uint64_t n, int t, void* cc, void*) {
  auto* c = (Comm*)cc;
  NEED(s) NEED(r) int e = esize(t);
  if (!e) return 5;
  size_t step = SLOT / e;
  for (uint64_t o = 0; o < n; o += step) {
    size_t k = std::min<uint64_t>(step, n - o);
    memcpy(slot(c, c->rank), (char*)H(s) + o * e, k * e);
    barrier(c);
    for (uint32_t i = 0; i < c->n; i++) memcpy((char*)H(r) + (i * n + o) * e, slot(c, i), k * e);
    barrier(c);
  }
  return 0;
}
API int HcclReduceScatter(void* s, void* r, uint64_t n, int t, int op, void* cc, void*) {
  auto* c = (Comm*)cc;
  NEED(s) NEED(r) int e = esize(t);
  if (!e) return 5;
  size_t step = SLOT / e / c->n;
  for (uint64_t o = 0; o < n; o += step) {
    size_t k = std::min<uint64_t>(step, n - o);
    for (uint32_t i = 0; i < c->n; i++) memcpy(slot(c, c->rank) + i * step * e, (char*)H(s) + (i * n + o) * e, k * e);
    barrier(c);
    std::vector<const char*> v;
    for (uint32_t i = 0; i < c->n; i++) v.push_back(slot(c, i) + c->rank * step * e);
    if (int rc = reduce_n((char*)H(r) + o * e, v, k, t, op)) return rc;
    barrier(c);
  }
  return 0;
}
API int HcclBarrier(void* cc, void*) {
  barrier((Comm*)cc);
  return 0;
}
API int HcclSend(void* s, uint64_t n, int t, uint32_t dst, void* cc, void*) {
  auto* c = (Comm*)cc;
  NEED(s) int e = esize(t);
  size_t step = SLOT / e;
  for (uint64_t o = 0; o < n; o += step) {
    size_t k = std::min<uint64_t>(step, n - o);
    auto* f = flag(c, c->rank, dst);
    while (f->full.load()) sched_yield();
    memcpy(pbuf(c, c->rank, dst), (char*)H(s) + o * e, k * e);
    f->full = 1;
  }
  return 0;
}
API int HcclRecv(void* r, uint64_t n, int t, uint32_t src, void* cc, void*) {
  auto* c = (Comm*)cc;
  NEED(r) int e = esize(t);
  size_t step = SLOT / e;
  for (uint64_t o = 0; o < n; o += step) {
    size_t k = std::min<uint64_t>(step, n - o);
    auto* f = flag(c, src, c->rank);
    while (!f->full.load()) sched_yield();
    memcpy((char*)H(r) + o * e, pbuf(c, src, c->rank), k * e);
    f->full = 0;
  }
  return 0;
}
