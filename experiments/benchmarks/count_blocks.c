/* A plugin of qemu that counts how often each block of instructions runs. At the end it prints
   for each block its address, its number of instructions and the count, to stderr.

     gcc -shared -fPIC count_blocks.c -o count_blocks.so
     qemu-aarch64 -plugin ./count_blocks.so PROGRAM ARGUMENTS

   Distributions ship qemu without its header: what is used of it is declared here. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define PUBLIC __attribute__((visibility("default")))
struct qemu_plugin_tb;
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id,
                                           void (*call)(uint64_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb,
                                          void (*call)(unsigned, void *), int flags, void *data);
void qemu_plugin_register_atexit_cb(uint64_t id, void (*call)(uint64_t, void *), void *data);

PUBLIC int qemu_plugin_version = 1;

typedef struct block {
  unsigned long long address, instructions, count;
  struct block *next;
} block;
static block *blocks;

static void runs(unsigned processor, void *data) {
  (void)processor;
  ((block *)data)->count++;
}

static void translated(uint64_t id, struct qemu_plugin_tb *tb) {
  block *b = malloc(sizeof *b);
  (void)id;
  if (!b) exit(2);
  *b = (block){qemu_plugin_tb_vaddr(tb), qemu_plugin_tb_n_insns(tb), 0, blocks};
  blocks = b;
  qemu_plugin_register_vcpu_tb_exec_cb(tb, runs, 0, b);
}

static void report(uint64_t id, void *data) {
  (void)id;
  (void)data;
  for (const block *b = blocks; b; b = b->next)
    if (b->count) fprintf(stderr, "%llx %llu %llu\n", b->address, b->instructions, b->count);
}

PUBLIC int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv) {
  (void)info;
  (void)argc;
  (void)argv;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_atexit_cb(id, report, NULL);
  return 0;
}
