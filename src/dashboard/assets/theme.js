/**
 * Light, dark, or as the system has it.
 */

const THEMES = ['system', 'light', 'dark'];

/** The chosen theme. */
export const theme = () => document.documentElement.dataset.theme ?? 'system';

/** Takes the next one, and remembers it. */
export function nextTheme() {
  const next = THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length];
  if (next === 'system') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem('theme', next);
  } catch {
    // Until the page is reloaded, then.
  }
  told();
}

/** A colour of the style sheet as it is now, for what is drawn on a canvas. @param {string} name such as `--good` */
export function colour(name) {
  const probe = document.createElement('span');
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}

function told() {
  dispatchEvent(new Event('themechange'));
}

matchMedia('(prefers-color-scheme: dark)').addEventListener('change', told);
