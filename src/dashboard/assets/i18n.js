/**
 * The page's two languages. Every text is in both; a test of the service checks that.
 */

import { en } from './i18n/en.js';
import { zh } from './i18n/zh.js';

const LANGUAGES = { en, zh };

/** `en` or `zh`, as `appearance.js` found it. */
export function language() {
  return document.documentElement.lang.startsWith('zh') ? 'zh' : 'en';
}

/** The language as a locale, for dates. */
export const locale = () => (language() === 'zh' ? 'zh-CN' : 'en-GB');

/** Changes the language, and remembers it. @param {'en'|'zh'} to */
export function speak(to) {
  document.documentElement.lang = to === 'zh' ? 'zh-CN' : 'en';
  try {
    localStorage.setItem('language', to);
  } catch {
    // Until the page is reloaded, then.
  }
}

/**
 * A text in the chosen language, with `{name}` filled in.
 *
 * @param {string} key
 * @param {Object<string, string|number>} [values]
 */
export function t(key, values = {}) {
  const text = LANGUAGES[language()][key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => String(values[name] ?? whole));
}

/** The same where there is such a text, else `other`. @param {string} key @param {string} other */
export const tOr = (key, other) => LANGUAGES[language()][key] ?? other;
