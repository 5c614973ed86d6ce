/**
 * The page: header, navigation, and the view that the address names (`#/tasks?state=3`).
 *
 * A view is an object `{ title, every, load(ctx), render(data, ctx) }`: `load` asks the API, `render`
 * describes what is to be seen. They are called again every few seconds, and the difference is drawn.
 */

import { Failure } from './api.js';
import { el, fill, morph } from './dom.js';
import { language, speak, t } from './i18n.js';
import { Live } from './live.js';
import { heading, problem } from './parts.js';
import * as session from './session.js';
import { shell } from './shell.js';
import health from './views/health.js';
import lanes from './views/lanes.js';
import log from './views/log.js';
import models from './views/models.js';
import overview from './views/overview.js';
import { signIn } from './views/sign-in.js';
import stats from './views/stats.js';
import task from './views/task.js';
import tasks from './views/tasks.js';
import tenants from './views/tenants.js';

const VIEWS = { overview, models, lanes, tasks, task, stats, log, health, tenants };

/** What a view is given. */
/** @typedef {{name: string, id: string, params: URLSearchParams, signal: AbortSignal, reload: () => void,
 *   change: (params: Object<string, string>) => void}} Context */

const root = document.getElementById('app');
let frame = null;
let shown = null;
const live = new Live((signal) => refresh(signal), (condition) => frame?.condition(condition));

/** Where the address leads. */
function place() {
  const [path, query = ''] = location.hash.replace(/^#\/?/, '').split('?');
  const [name, id = ''] = path.split('/').map(decodeURIComponent);
  return { name: name in VIEWS ? name : 'overview', id, params: new URLSearchParams(query) };
}

/** Shows the view that the address names. */
function show() {
  if (!session.who()) return;
  const { name, id, params } = place();
  const named = params.get('tenant');
  if (named !== null && session.who().admin) session.chooseTenant(named);
  const moved = shown?.name !== name || shown?.id !== id;
  const view = VIEWS[name];
  shown = { name, id, params, view };
  frame.at(name === 'task' ? 'tasks' : name);
  if (moved) {
    document.querySelectorAll('dialog').forEach((open) => open.close());
    document.title = `${t(view.title)} · model-asynch`;
    fill(frame.main, heading(t(view.title)), el('p.faint', {}, t('loading')));
    // Whoever follows a link by keyboard or by ear goes on reading there.
    if (frame.drawn) document.getElementById('title').focus({ preventScroll: true });
    frame.drawn = true;
    scrollTo(0, 0);
  }
  live.start(view.every);
}

/** Asks and draws once. */
async function refresh(signal) {
  const { view, name, id, params } = shown;
  const context = { name, id, params, signal, reload: () => live.now(), change };
  try {
    const data = await view.load(context);
    if (signal.aborted) return;
    draw(view.render(data, context));
    frame.trouble(null);
    shown.drawn = true;
  } catch (error) {
    if (signal.aborted) return;
    if (error instanceof Failure && error.status === 401) return begin(error);
    if (!(error instanceof Failure)) console.error(error);
    // What was there stays readable where the next try may bring it up to date.
    if (shown.drawn && (error.status === 0 || error.status >= 500)) frame.trouble(error);
    else draw([heading(t(view.title)), problem(error, () => live.now())]);
    throw error;
  }
}

function draw(content) {
  morph(frame.main, el('div', {}, content));
}

/** Changes the address's query, and what it shows; empty values go. */
function change(params) {
  const { name, id } = shown;
  const query = new URLSearchParams(shown.params);
  for (const [key, value] of Object.entries(params)) {
    if (value) query.set(key, value);
    else query.delete(key);
  }
  const text = query.toString();
  // Not one step back per letter that was typed.
  history.replaceState(null, '', `#/${name}${id ? `/${encodeURIComponent(id)}` : ''}${text ? `?${text}` : ''}`);
  show();
}

/** Finds out who is there, and shows the page or the way in. */
async function begin(refused) {
  live.stop();
  shown = null;
  try {
    if (refused) throw refused;
    await session.open();
  } catch (error) {
    frame = null;
    root.className = 'alone';
    if (error.status === 401) fill(root, signIn(error, begin));
    else fill(root, el('main.narrow', {}, el('h1', {}, 'model-asynch'), problem(error, () => begin())));
    root.querySelector('input, h1')?.focus();
    return;
  }
  build();
}

/** Builds header and navigation, in the language of now. */
function build() {
  root.className = '';
  frame = shell({
    caller: session.who(),
    onPause: (paused) => live.pause(paused),
    onTenant: (tenant) => {
      session.chooseTenant(tenant);
      if (place().params.has('tenant')) change({ tenant: '' });
      else live.now();
    },
    onLanguage: () => {
      speak(language() === 'en' ? 'zh' : 'en');
      shown = null;
      build();
    },
    onSignOut: () => {
      session.signOut();
      begin();
    },
  });
  fill(root, frame.nodes);
  show();
}

addEventListener('hashchange', show);
addEventListener('themechange', () => live.now());
begin();
