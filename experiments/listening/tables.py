"""Tables of a report, as HTML and as Markdown."""

import html
import re

from experiments.listening import document

# A number, also before its interval or unit; not a date, nor a block such as 16x1.
_NUMBER = re.compile(r'[+-]?\d[\d,]*(\.\d+)?(e[+-]?\d+)?(?=$|[\s%×[(])', re.IGNORECASE)


def sort_value(cell) -> float | None:
  """The number that a cell is or begins with, by which it is sorted; None without one."""
  if isinstance(cell, (int, float)):
    return float(cell) if cell == cell else None
  found = _NUMBER.match(str(cell or '').replace('−', '-'))
  return float(found[0].replace(',', '')) if found else None


def cell_text(cell) -> str:
  """What a cell shows; a dash where there is nothing."""
  if cell is None or cell != cell:
    return '—'
  if isinstance(cell, float):
    return f'{cell:,.3f}' if abs(cell) < 100 else f'{cell:,.0f}'
  return f'{cell:,}' if isinstance(cell, int) else str(cell)


def markup(table: document.Table) -> str:
  """HTML whose columns sort by a click."""
  head = ''.join(f'<th scope="col"><button type="button">{html.escape(column)}</button></th>'
                 for column in table.columns)
  rows = '\n'.join(f'<tr>{"".join(map(_cell, row))}</tr>' for row in table.rows)
  note = f'<p class="note">{html.escape(table.note)}</p>' if table.note else ''
  return (f'<section><h2>{html.escape(table.title)}</h2>{note}<div class="wide" tabindex="0">'
          f'<table class="sortable"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
          '</div></section>')


def _cell(cell) -> str:
  value = sort_value(cell)
  sort = '' if value is None else f' class="number" data-sort="{value!r}"'
  return f'<td{sort}>{html.escape(cell_text(cell))}</td>'


def markdown(table: document.Table) -> str:
  """A table with its title and note above."""
  lines = [table.columns, ['---'] * len(table.columns),
           *([cell_text(cell).replace('|', '\\|') for cell in row] for row in table.rows)]
  return f'{table.title}. {table.note}\n\n' + ''.join(
      '| ' + ' | '.join(line) + ' |\n' for line in lines)
