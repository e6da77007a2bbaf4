// The CUDA driver's functions that driver.py calls, over the emulation of persistent.cu.
#include "cuda_emulation.h"
#include "persistent.cu"

namespace {

using Arguments = void**;
Arguments arguments;

void enter() {
  const auto at = [](int i) { return *static_cast<void**>(arguments[i]); };
  sample(*static_cast<const Inputs*>(arguments[0]), static_cast<int*>(at(1)),
         static_cast<float*>(at(2)), static_cast<float*>(at(3)), static_cast<u32*>(at(4)),
         static_cast<u64*>(at(5)));
  emulation::current->ended = true;
  emulation::yield();
}

bool ready(const emulation::Fiber& fiber) {
  return !fiber.ended && (!fiber.watched || *fiber.watched != fiber.seen);
}

}  // namespace

extern "C" {

int cuInit(unsigned) { return 0; }
int cuDeviceGet(int* device, int ordinal) { *device = ordinal; return 0; }

int cuDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == 16 ? CHIP_PROCESSORS : attribute == 97 ? CHIP_SHARED_BYTES
      : attribute == 75 ? 9 : 0;
  return 0;
}

int cuGetErrorString(int, const char** text) { *text = "emulated error"; return 0; }
int cuStreamGetCtx(void*, void** context) { *context = nullptr; return 0; }
int cuCtxPushCurrent_v2(void*) { return 0; }
int cuCtxPopCurrent_v2(void**) { return 0; }
int cuModuleLoadData(void** module, const void*) { *module = nullptr; return 0; }
int cuModuleGetFunction(void**, void*, const char* name) { return std::strcmp(name, "sample"); }
int cuFuncSetAttribute(void*, int attribute, int) { return attribute != 8; }

int cuMemsetD8Async(unsigned long long address, unsigned char value, size_t size, void*) {
  std::memset(reinterpret_cast<void*>(address), value, size);
  return 0;
}

// Sizes of Share and Memory.
void sizes(int* found) {
  found[0] = sizeof(Share);
  found[1] = sizeof(Memory);
  found[2] = sizeof(Slots);
}

// Runs all blocks to their end; 1 if too few bytes or threads were given, 2 if they all wait.
int cuLaunchCooperativeKernel(void*, unsigned grid, unsigned, unsigned, unsigned threads, unsigned,
                              unsigned, unsigned shared_bytes, void*, void** given) {
  if (shared_bytes != sizeof(Memory) || threads != THREADS || grid > CHIP_PROCESSORS) return 1;
  arguments = given;
  emulation::stores = 0;
  std::vector<emulation::Block> blocks(grid);
  std::vector<emulation::Fiber> fibers(grid * threads);
  for (unsigned b = 0; b < grid; b++) {
    emulation::Block& block = blocks[b];
    block.index.x = b;
    block.barrier.size = threads;
    block.warps.resize(threads / 32);
    for (auto& warp : block.warps) warp.barrier.size = 32;
    block.memory = static_cast<unsigned char*>(std::aligned_alloc(16, shared_bytes));
    std::memset(block.memory, 0xff, shared_bytes);  // NaN: what is read was written
    for (unsigned t = 0; t < threads; t++) {
      emulation::Fiber& fiber = fibers[b * threads + t];
      fiber.thread.x = t;
      fiber.block = &block;
      fiber.stack.resize(1 << 15);
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.data();
      fiber.context.uc_stack.ss_size = fiber.stack.size();
      fiber.context.uc_link = nullptr;
      makecontext(&fiber.context, enter, 0);
    }
  }
  std::vector<unsigned> order(fibers.size());
  for (unsigned i = 0; i < order.size(); i++) order[i] = i;
  std::minstd_rand random(0);
  bool running = true, moved = true;
  while (running && moved) {
    for (unsigned i = order.size() - 1; i; i--) std::swap(order[i], order[random() % (i + 1)]);
    running = moved = false;
    for (const unsigned i : order) {
      running |= !fibers[i].ended;
      if (!ready(fibers[i])) continue;
      moved = true;
      emulation::resume(fibers[i]);
    }
    if (moved) continue;
    for (auto& fiber : fibers) {  // those that poll in vain poll on, until they give up
      if (fiber.ended || fiber.watched != &emulation::stores) continue;
      moved = true;
      emulation::resume(fiber);
    }
  }
  for (auto& block : blocks) std::free(block.memory);
  return running ? 2 : 0;
}

}  // extern "C"
