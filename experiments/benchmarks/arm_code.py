"""What of a program runs how often under qemu, and how long llvm-mca says that it takes."""

import collections
import dataclasses
import functools
import pathlib
import re
import shutil
import subprocess
import tempfile

from wavernn_jax.errors import InputError

HERE = pathlib.Path(__file__).parent
RUNTIME = HERE.parents[1] / 'runtime'
CROSS, EMULATOR = 'aarch64-linux-gnu-', 'qemu-aarch64'
_BRANCH = re.compile(r'(b|b\.\w+|cbn?z|tbn?z|bl|blr?|br|ret)\b')
_TARGET = re.compile(r'\b([0-9a-f]+) <[^>]*>')
_WIDE_LOAD = re.compile(r'ld[ur]*[rp]\s+(q\d+(?:, q\d+)?), \[(.*?)\](, #\d+)?')
_TURNS = 100


@dataclasses.dataclass(frozen=True)
class Core:
  """A core as llvm-mca models it.

  Attributes:
    model: name of the model.
    width: instructions that it decodes in a cycle.
    ordered: whether it executes them in order.
    miss: cycles that a mispredicted branch costs.
    ghz: the usual clock of phones.
  """

  model: str
  width: int
  ordered: bool
  miss: int
  ghz: float


@dataclasses.dataclass(frozen=True)
class Block:
  """Instructions that run one after the other, `count` times, in a function.

  `exits` is how often a loop of this block alone is left, 0 if it is none.
  """

  function: str
  code: tuple[str, ...]
  count: float
  exits: float


def tool(*names: str) -> str:
  """The first of these programs that is installed.

  Raises:
    InputError: if there is none.
  """
  for name in names:
    if shutil.which(name):
      return name
  raise InputError(f'{" or ".join(names)}: found no such program; install the packages '
                   'gcc-aarch64-linux-gnu, qemu-user and llvm-19.')


def compiled(folder: pathlib.Path, compiler: str = '') -> tuple[pathlib.Path, pathlib.Path]:
  """The program of runtime/test for aarch64, and the plugin.

  Args:
    compiler: clang in place of the cross gcc.
  """
  program, plugin = folder / 'check', folder / 'count_blocks.so'
  sources = [f for f in sorted(RUNTIME.glob('*.c')) if f.name != 'wavernn_say.c']
  cross = [tool(compiler), '--target=aarch64-linux-gnu'] if compiler else [tool(CROSS + 'gcc')]
  subprocess.run([*cross, '-std=gnu11', '-O3', '-static', *sources,
                  RUNTIME / 'test' / 'check.c', '-I', RUNTIME, '-lm', '-o', program], check=True)
  subprocess.run(['gcc', '-shared', '-fPIC', HERE / 'count_blocks.c', '-o', plugin], check=True)
  return program, plugin


def counts(program, plugin, *arguments) -> collections.Counter:
  """How often the instruction at each address runs."""
  found = collections.Counter()
  with tempfile.NamedTemporaryFile('r') as file:
    # A processor that its users have: libc would choose instructions of a later one.
    subprocess.run([tool(EMULATOR), '-cpu', 'cortex-a76', '-plugin', plugin, program,
                    *map(str, arguments)], check=True, stdout=subprocess.DEVNULL,
                   stderr=open(file.name, 'w'))
    for line in file:
      address, instructions, count = line.split()
      for i in range(int(instructions)):
        found[int(address, 16) + 4 * i] += int(count)
  return found


def instructions(program) -> dict[int, tuple[str, str]]:
  """Function and text of each instruction by address."""
  text = subprocess.run([tool(CROSS + 'objdump'), '-d', '--no-show-raw-insn', program], check=True,
                        capture_output=True, text=True).stdout
  found, function = {}, ''
  for line in text.splitlines():
    if start := re.match(r'[0-9a-f]+ <(.*)>:', line):
      function = start[1]
    elif line_of := re.match(r'\s+([0-9a-f]+):\s+([^/]*)', line):
      found[int(line_of[1], 16)] = function, line_of[2].strip()
  return found


def blocks(program, count: dict[int, float]) -> list[Block]:
  """The program's blocks that run."""
  code = instructions(program)
  starts = {_target(text) for _, text in code.values()}
  found, block = [], []
  for address in sorted(code):
    function, text = code[address]
    last = block[-1] if block else None
    if block and (address in starts or code[last][0] != function
                  or count.get(address, 0) != count[last]):
      found.append(block)
      block = []
    if count.get(address, 0):
      block.append(address)
      if _BRANCH.match(text):
        found.append(block)
        block = []
  return [_block(code, count, b) for b in [*found, block] if b]


def _target(text: str) -> int | None:
  found = _BRANCH.match(text) and _TARGET.search(text)
  return int(found[1], 16) if found else None


def _block(code, count, addresses) -> Block:
  texts = tuple(code[a][1] for a in addresses)
  number = count[addresses[0]]
  loop = _target(texts[-1]) == addresses[0]
  return Block(code[addresses[0]][0], texts, number,
               min(number, count.get(addresses[-1] + 4, 0)) if loop else 0)


def cycles(block: Block, core: Core) -> float:
  """Cycles of a turn of a block whose data lie in the first-level cache.

  A loop turns 100 times. Other code runs as often after itself on a core that executes in
  order; on others it takes what its slowest resource takes.
  """
  total, throughput = _mca(block.code, core.model)
  long = total if core.ordered or block.exits else throughput
  return max(long, len(block.code) / core.width)


def _with_wide_loads(code: tuple[str, ...]) -> tuple[str, ...]:
  """Code for Cortex-A55 whose loads of 16 bytes take two cycles each."""
  found = []
  for line in code:
    load = _WIDE_LOAD.match(line)
    if not load:
      found.append(line)
      continue
    base = re.findall(r'[xw](\d+)|(sp)', load[2])[-1]  # the register that is known last
    base = 'sp' if base[1] else f'x{base[0]}'
    found += [f'ld1 {{v{n}.16b}}, [{base}]' for n in re.findall(r'q(\d+)', load[1])]
    if load[3] or '!' in line:
      found.append(f'add {base}, {base}, #16')
  return tuple(found)


@functools.cache
def _mca_program() -> str:
  """llvm-mca; older ones have no models of their own for these cores, and say nothing."""
  mca = tool('llvm-mca-19', 'llvm-mca-20', 'llvm-mca-21', 'llvm-mca-22', 'llvm-mca')
  text = subprocess.run([mca, '--version'], capture_output=True, text=True, check=True).stdout
  version = re.search(r'LLVM version (\d+)', text)
  if not version or int(version[1]) < 19:
    raise InputError(f'{mca}: found LLVM {version[1] if version else "of no version"}, expected 19 '
                     'or newer; install llvm-19.')
  return mca


@functools.cache
def _mca(code: tuple[str, ...], model: str) -> tuple[float, float]:
  if model == 'cortex-a55':
    code = _with_wide_loads(code)
  mca = _mca_program()
  text = '\n'.join(_TARGET.sub('0', line) for line in code)
  found = subprocess.run([mca, '-mtriple=aarch64', f'-mcpu={model}', '-mattr=+dotprod,+sve',
                          f'-iterations={_TURNS}'], input=text, text=True, capture_output=True,
                         check=False)
  total = re.search(r'Total Cycles:\s+(\d+)', found.stdout)
  throughput = re.search(r'Block RThroughput:\s+([\d.]+)', found.stdout)
  if not total:
    raise InputError(f'{mca} -mcpu={model}: {found.stderr.strip()[:200]}')
  return int(total[1]) / _TURNS, float(throughput[1])
