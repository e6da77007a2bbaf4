// CUDA threads on one CPU thread, for persistent.cu: each is a fiber that runs until it has to
// wait. Which fiber runs next is drawn at random, so that a missing barrier shows.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#define EMULATED 1
#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct float4 { float x, y, z, w; };
struct uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct Index { int x; };

namespace emulation {

// A barrier of so many threads.
struct Barrier { int size = 0, arrived = 0, generation = 0; };

struct Warp { Barrier barrier; unsigned words[32]; };

struct Block {
  Index index;
  Barrier barrier;
  std::vector<Warp> warps;
  unsigned char* memory;
};

struct Fiber {
  ucontext_t context;  // where it starts
  jmp_buf place;       // where it goes on: cheaper than a context, which has signals
  bool started = false, ended = false;
  Index thread;
  Block* block;
  const int* watched = nullptr;  // goes on when this is no longer `seen`
  int seen = 0;
  const void* polled = nullptr;  // the last slot, and the stores there had been
  int stores = 0;
  std::vector<char> stack;
};

inline Fiber* current;
inline jmp_buf scheduler;
inline int stores;  // to any slot so far

inline void resume(Fiber& fiber) {
  current = &fiber;
  if (_setjmp(scheduler)) return;
  if (fiber.started) _longjmp(fiber.place, 1);
  fiber.started = true;
  setcontext(&fiber.context);
}

inline void yield() {
  if (!_setjmp(current->place)) _longjmp(scheduler, 1);
}

// Until *word is no longer what it is.
inline void watch(const int* word) {
  current->watched = word;
  current->seen = *word;
  yield();
  current->watched = nullptr;
}

inline void wait(Barrier& barrier) {
  if (++barrier.arrived == barrier.size) {
    barrier.arrived = 0;
    barrier.generation++;
    return;
  }
  watch(&barrier.generation);
}

inline Warp& warp() { return current->block->warps[current->thread.x / 32]; }

// The words of all threads of the warp.
template <class Use>
auto exchange(unsigned word, Use use) {
  Warp& w = warp();
  w.words[current->thread.x % 32] = word;
  wait(w.barrier);
  auto result = use(w.words, current->thread.x % 32);
  wait(w.barrier);
  return result;
}

}  // namespace emulation

#define threadIdx (emulation::current->thread)
#define blockIdx (emulation::current->block->index)
#define shared_memory (emulation::current->block->memory)

inline void __syncthreads() { emulation::wait(emulation::current->block->barrier); }
inline void __syncwarp() { emulation::wait(emulation::warp().barrier); }
inline int max(int a, int b) { return a > b ? a : b; }
inline int min(int a, int b) { return a < b ? a : b; }
inline float __uint_as_float(unsigned x) { float y; std::memcpy(&y, &x, 4); return y; }
inline unsigned __float_as_uint(float x) { unsigned y; std::memcpy(&y, &x, 4); return y; }
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float a, float b) { return a / b; }


inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const uint64_t bytes = (uint64_t)high << 32 | low;
  unsigned result = 0;
  for (int i = 0; i < 4; i++)
    result |= (unsigned)(bytes >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
  return result;
}

inline float __shfl_xor_sync(unsigned, float x, int mask) {
  return emulation::exchange(__float_as_uint(x), [&](const unsigned* words, int self) {
    return __uint_as_float(words[self ^ mask]);
  });
}

inline float __shfl_up_sync(unsigned, float x, int by) {
  return emulation::exchange(__float_as_uint(x), [&](const unsigned* words, int self) {
    return __uint_as_float(words[self < by ? self : self - by]);
  });
}

inline float __shfl_sync(unsigned, float x, int from) {
  return emulation::exchange(__float_as_uint(x), [&](const unsigned* words, int) {
    return __uint_as_float(words[from]);
  });
}

inline int __reduce_add_sync(unsigned, int x) {
  return emulation::exchange((unsigned)x, [](const unsigned* words, int) {
    int sum = 0;
    for (int i = 0; i < 32; i++) sum += (int)words[i];
    return sum;
  });
}

// A second look at the same slot waits until something was stored somewhere.
inline unsigned long long load_word(const unsigned long long* slot) {
  emulation::Fiber& self = *emulation::current;
  if (self.polled == slot && self.stores == emulation::stores) emulation::watch(&emulation::stores);
  self.polled = slot;
  self.stores = emulation::stores;
  return *slot;
}

inline void store_word(unsigned long long* slot, unsigned long long word) {
#ifdef LOST_STORE
  if (emulation::stores++ == LOST_STORE) return;
#else
  emulation::stores++;
#endif
  *slot = word;
}
