/**
 * What stands around every view: skip link, header with the caller's settings, navigation.
 */

import { address, post } from './api.js';
import { el, fill } from './dom.js';
import { clock } from './format.js';
import { language, t } from './i18n.js';
import { problem } from './parts.js';
import * as session from './session.js';
import { nextTheme, theme } from './theme.js';

/** The views of the navigation, in order. Those of admins are shown to admins. */
const PLACES = ['overview', 'models', 'lanes', 'tasks', 'stats', 'log', 'health'];

/** Most tenants that the chooser offers. */
const MOST_KNOWN = 200;

/**
 * Builds it.
 *
 * @param {{caller: any, onPause: (paused: boolean) => void, onTenant: (tenant: string) => void,
 *   onLanguage: () => void, onSignOut: () => void}} options
 */
export function shell({ caller, onPause, onTenant, onLanguage, onSignOut }) {
  const main = el('main', { id: 'main', tabindex: -1 });
  const trouble = el('div.trouble', { role: 'status', 'aria-live': 'polite' });
  const links = [...PLACES, ...(caller.admin ? ['tenants'] : [])].map((name) => el('li', {}, el('a', { href: `#/${name}`, 'data-name': name }, t(`nav.${name}`))));
  const nav = el('nav', { id: 'nav', 'aria-label': t('nav.label') }, el('ul', {}, links), el('p.nav-foot', {}, el('a', { href: address('docs').href }, t('nav.docs')), el('span.faint', {}, caller.version ? `model-asynch ${caller.version}` : '')));
  const menu = el('button.menu', { type: 'button', 'aria-expanded': 'false', 'aria-controls': 'nav', onclick: () => open(menu.getAttribute('aria-expanded') !== 'true') }, t('nav.menu'));
  const open = (wide) => {
    menu.setAttribute('aria-expanded', String(wide));
    nav.classList.toggle('open', wide);
  };
  nav.onclick = (event) => event.target.closest('a') && open(false);

  const header = el(
    'header.top',
    {},
    el('a.brand', { href: '#/overview', 'aria-label': `model-asynch, ${t('nav.overview')}` }, el('img', { src: 'assets/icon.svg', alt: '', width: 22, height: 22 }), el('span', {}, 'model-asynch')),
    menu,
    el('div.settings', {}, caller.admin ? tenantChooser(onTenant) : el('span.who', { title: t('who.tenant') }, t('who.of', { tenant: caller.tenantId })), pulse(onPause), themeButton(), languageButton(onLanguage), session.signedIn() ? el('button.quiet', { type: 'button', onclick: onSignOut }, t('sign.out')) : null),
  );
  const condition = header.querySelector('.pulse');
  return {
    main,
    drawn: false,
    nodes: [el('a.skip', { href: '#main', onclick: skip }, t('nav.skip')), header, nav, el('div.content', {}, trouble, main)],
    /** Marks where one is. @param {string} name */
    at(name) {
      nav.querySelectorAll('a[data-name]').forEach((link) => {
        if (link.dataset.name === name) link.setAttribute('aria-current', 'page');
        else link.removeAttribute('aria-current');
      });
      // A link may have chosen a tenant.
      const chooser = header.querySelector('#tenant');
      if (chooser && chooser !== document.activeElement) chooser.value = session.tenant();
    },
    /** Says what went wrong while older data stay on the page. @param {Error|null} error */
    trouble(error) {
      if (error) fill(trouble, problem(error));
      else if (trouble.firstChild) fill(trouble);
    },
    /** Shows how page and service stand. @param {import('./live.js').Condition} now */
    condition(now) {
      condition.className = `pulse ${now.state}`;
      const text = { live: t('live.on'), paused: t('live.paused'), lost: t('live.lost', { seconds: now.retryIn }) }[now.state];
      condition.querySelector('.pulse-text').textContent = text;
      condition.title = now.state === 'live' ? t('live.at', { time: clock(now.at) }) : text;
    },
  };
}

/** The skip link must not become the address of a view. */
function skip(event) {
  event.preventDefault();
  document.getElementById('main').focus();
}

/** Says whether what is shown is of now, and stops or resumes that. */
function pulse(onPause) {
  const text = el('span.pulse-text', {}, t('live.on'));
  let paused = false;
  const node = el('button.pulse.live', {
    type: 'button',
    'aria-pressed': 'false',
    'aria-describedby': 'pulse-hint',
    onclick: () => {
      paused = !paused;
      node.setAttribute('aria-pressed', String(paused));
      onPause(paused);
    },
  }, el('span.pulse-dot', { 'aria-hidden': 'true' }), text);
  return el('span.pulse-frame', {}, node, el('span.unseen', { id: 'pulse-hint' }, t('live.hint')));
}

function tenantChooser(onTenant) {
  const input = el('input', { id: 'tenant', name: 'tenant', inputmode: 'numeric', autocomplete: 'off', placeholder: t('tenant.all'), value: session.tenant(), pattern: '-?[0-9]*', size: 8, list: 'tenants' });
  input.onchange = () => {
    if (input.checkValidity()) onTenant(input.value.trim());
    else input.reportValidity();
  };
  const known = el('datalist', { id: 'tenants' });
  // Only a help in typing: without it, any number can be typed all the same.
  post('tenant/listTenant', { page: { pageSize: MOST_KNOWN } }).then(({ list }) => fill(known, list.map(({ tenantId }) => el('option', { value: tenantId }))), () => {});
  return el('span.tenant', {}, el('label', { for: 'tenant' }, t('tenant.label')), input, known);
}

function themeButton() {
  const node = el('button.quiet', { type: 'button', onclick: () => {
    nextTheme();
    name();
  } });
  const name = () => {
    const chosen = t(`theme.${theme()}`);
    node.setAttribute('aria-label', t('theme.label', { theme: chosen }));
    fill(node, el('span', { 'aria-hidden': 'true' }, '◐'), chosen);
  };
  name();
  return node;
}

/** In the language that it leads to, for those who cannot read the other. */
function languageButton(onLanguage) {
  const [label, lang] = language() === 'en' ? ['中文', 'zh-CN'] : ['English', 'en'];
  return el('button.quiet', { type: 'button', lang, onclick: onLanguage }, label);
}
