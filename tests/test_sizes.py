"""Functions and files stay so short that a reader takes one in at once."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FILES = sorted(path for folder in ('wavernn_jax', 'experiments', 'tests')
               for path in (ROOT / folder).rglob('*.py')) + [ROOT / 'launch.py']
LONGEST_FILE, LONGEST_FUNCTION, NINE_IN_TEN = 330, 60, 20  # lines
LONGEST_README = 200


def functions(path):
  """(name, lines) of every function of a file, nested ones too."""
  return [(node.name, node.end_lineno - node.lineno + 1)
          for node in ast.walk(ast.parse(path.read_text()))
          if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_no_file_is_long():
  lines = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in FILES}
  assert {name: n for name, n in lines.items() if n > LONGEST_FILE} == {}


@pytest.mark.parametrize('part', ['wavernn_jax', 'experiments', 'tests'])
def test_nine_functions_in_ten_are_short(part):
  sizes = sorted(lines for path in FILES if path.is_relative_to(ROOT / part)
                 for _, lines in functions(path))
  assert sizes[int(0.9 * len(sizes))] <= NINE_IN_TEN


def test_no_function_is_long():
  found = {f'{path.name}: {name}': lines for path in FILES for name, lines in functions(path)
           if lines > LONGEST_FUNCTION}
  assert found == {}


def test_the_readme_leads_to_the_first_sound_within_one_screen():
  lines = (ROOT / 'README.md').read_text().splitlines()
  assert len(lines) < LONGEST_README
  assert any(line.startswith('    ') and line.endswith('launch.py') for line in lines[:25])
