// The report: tables that sort, spectrograms that play.

const reportView = document.getElementById('report');

function sortRows(table, column, descending) {
  const rows = [...table.tBodies[0].rows];
  const value = row => row.cells[column].dataset.sort;
  const numeric = rows.some(row => value(row) !== undefined);
  const sign = descending ? -1 : 1;
  rows.sort((a, b) => {
    if (!numeric) {
      const [x, y] = [a, b].map(row => row.cells[column].textContent);
      return sign * x.localeCompare(y, 'en', {numeric: true});
    }
    const [x, y] = [value(a), value(b)];
    if (x === undefined || y === undefined) {  // cells without a figure come last in either order
      return (x === undefined) - (y === undefined);
    }
    return sign * (x - y);
  });
  table.tBodies[0].append(...rows);
}

for (const table of reportView.querySelectorAll('.sortable')) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const cells = [...table.tBodies[0].rows].map(row => row.cells[column]);
    const numeric = cells.some(cell => cell.classList.contains('number'));
    [head, ...cells].forEach(cell => cell.classList.toggle('number', numeric));
    head.firstChild.addEventListener('click', () => {
      const descending = head.getAttribute('aria-sort') === 'ascending';
      heads.forEach(other => other.removeAttribute('aria-sort'));
      head.setAttribute('aria-sort', descending ? 'descending' : 'ascending');
      sortRows(table, column, descending);
    });
  });
}

const versions = new Map();  // clip -> its element
for (const version of reportView.querySelectorAll('[data-clip]')) {
  const clip = Number(version.dataset.clip);
  versions.set(clip, version);
  version.querySelector('.play').addEventListener('click', () => {
    const playing = versions.get(player.clip);
    if (playing && playing !== version && playing.parentNode === version.parentNode) {
      const now = player.audio.currentTime;  // so that two versions of the same moment can be compared
      player.play(clip, now < version.dataset.seconds ? now : 0);
    } else {
      player.toggle(clip);
    }
  });
  version.querySelector('.strip').addEventListener('click', event => {
    const box = event.currentTarget.getBoundingClientRect();
    player.play(clip, (event.clientX - box.left) / box.width * version.dataset.seconds);
  });
}

function listenToReport() {
  player.onChange = clip => versions.forEach(
    (version, other) => version.classList.toggle('playing', other === clip));
  player.onProgress = (clip, seconds) => {
    const version = versions.get(clip);
    const share = Math.min(1, seconds / version.dataset.seconds);
    version.querySelector('.cursor').style.left = `${100 * share}%`;
  };
  player.onError = message => {
    document.getElementById('listen')?.insertAdjacentHTML('beforeend', '<p class="notice"></p>');
    document.querySelector('#listen .notice:last-child').textContent = message;
  };
}

document.getElementById('shown')?.addEventListener('change', event => {
  const system = event.target.value;
  for (const row of reportView.querySelectorAll(`[data-system="${system}"]`)) {
    row.hidden = !event.target.checked;
  }
});
