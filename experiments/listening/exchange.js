// Ratings to and from files.

const SCHEMA = 'wavernn-listening-ratings';
const VERSION = 1;

function exportJson(state) {
  const {report, session, listener, seed, created, finished, ratings} = state;
  return JSON.stringify({
    schema: SCHEMA, version: VERSION, report, title: DATA.title, session, listener, seed,
    created, finished, exported: new Date().toISOString(), ratings: Object.values(ratings),
  }, null, 1);
}

// The state that an exported file holds; throws an Error that says what is wrong with it.
function importJson(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch (error) {
    throw new Error(`it is no JSON (${error.message}); choose a file that this page exported.`);
  }
  if (file?.schema !== SCHEMA || file.version !== VERSION) {
    throw new Error(`it holds no ratings of version ${VERSION}; choose a file that this page ` +
                    'exported.');
  }
  if (file.report !== DATA.identity) {
    throw new Error(`it is of another report (${file.report}); this one is ${DATA.identity}.`);
  }
  const {report, session, listener, seed, created, finished} = file;
  if (!Number.isInteger(seed) || typeof listener !== 'string' || !Array.isArray(file.ratings)) {
    throw new Error('its seed, listener or ratings are missing; export it again.');
  }
  const asHeard = ({kind, sentence, names}) => JSON.stringify([kind, sentence, names]);
  const known = new Set(makeTrials(seed).map(asHeard));  // the seed decides which one is A
  const ratings = {};
  for (const [i, rating] of file.ratings.entries()) {
    const most = rating?.kind === 'mos' ? 5 : 3;
    const least = rating?.kind === 'mos' ? 1 : -3;
    const valid = rating && known.has(asHeard(rating)) && Array.isArray(rating.plays) &&
      Number.isInteger(rating.value) && least <= rating.value && rating.value <= most;
    if (!valid) throw new Error(`its rating ${i + 1} is malformed: ${JSON.stringify(rating)}.`);
    if (keyOf(rating) in ratings) throw new Error(`its rating ${i + 1} is there twice.`);
    ratings[keyOf(rating)] = rating;
  }
  return {report, session, listener, seed, created, finished, ratings, current: -1, heard: {}};
}

function csv(rows) {
  const cell = value => /[",\s]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value;
  return rows.map(row => row.map(cell).join(',') + '\n').join('');
}

// MOS as webMUSHRA writes it into lss.csv.
function exportLikert(state) {
  const rows = Object.values(state.ratings).filter(rating => rating.kind === 'mos').map(
    rating => [state.report, state.listener, rating.sentence, rating.value, rating.names[0],
               rating.milliseconds]);
  return csv([['session_test_id', 'listener', 'trial_id', 'stimuli_rating', 'stimuli',
               'rating_time'], ...rows]);
}

// A/B as webMUSHRA writes it into paired_comparison.csv; the rating, -3..3, positive where
// the non-reference is better, is the comment.
function exportPaired(state) {
  const order = [DATA.recording, ...DATA.systems];
  const rows = Object.values(state.ratings).filter(rating => rating.kind === 'ab').map(rating => {
    const [a, b] = rating.names;
    const swapped = order.indexOf(a) > order.indexOf(b);
    const value = swapped ? 0 - rating.value : rating.value;
    const answer = value < 0 ? 'correct' : value > 0 ? 'incorrect' : 'undecided';
    return [state.report, state.listener, rating.sentence, swapped ? b : a, swapped ? a : b,
            answer, rating.milliseconds, value];
  });
  return csv([['session_test_id', 'listener', 'trial_id', 'choice_reference',
               'choice_non_reference', 'choice_answer', 'choice_time', 'choice_comment'], ...rows]);
}

function download(name, text, type) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], {type}));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
