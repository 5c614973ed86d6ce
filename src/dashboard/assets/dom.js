/**
 * Making elements, and changing a page that is shown into the one that should be shown.
 *
 * Views describe themselves anew after every answer; `morph` then touches only what differs, so that
 * focus, scroll position, selected text and open parts stay. Data becomes text or attributes, never
 * markup.
 */

/** What a child may be: text and numbers become text nodes, lists are flattened, nothing is left out. */
/** @typedef {Node|string|number|null|undefined|false|Child[]} Child */

/** Properties that say how a control is now, apart from the attribute that says how it began. */
const LIVE = ['value', 'checked'];

/** Handlers that `el` sets and `morph` hands over. */
const HANDLERS = ['onclick', 'oninput', 'onchange', 'onsubmit', 'onkeydown', 'ontoggle'];

/**
 * Makes an element: `el('a.card.wide', { href: '#/', onclick }, 'text', child)`.
 *
 * @param {string} tag name and classes, divided by dots
 * @param {Object<string, any>} [attributes] `on…` are handlers, `style` an object of CSS properties;
 *   null, undefined and false are left out
 * @param {...Child} children
 * @returns {HTMLElement}
 */
export function el(tag, attributes = {}, ...children) {
  const [name, ...classes] = tag.split('.');
  const node = document.createElement(name);
  if (classes.length) node.className = classes.join(' ');
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith('on')) node[key] = value;
    else if (key === 'style') Object.entries(value).forEach(([rule, set]) => node.style.setProperty(rule, set));
    else node.setAttribute(key, value === true ? '' : String(value));
  }
  append(node, children);
  // A select has no options before its children are there.
  if (attributes?.value !== undefined && 'value' in node) node.value = attributes.value;
  return node;
}

/** @param {Node} node @param {Child} child */
function append(node, child) {
  if (Array.isArray(child)) child.forEach((one) => append(node, one));
  else if (child instanceof Node) node.appendChild(child);
  else if (child !== null && child !== undefined && child !== false && child !== '') {
    node.appendChild(document.createTextNode(String(child)));
  }
}

/** Replaces everything inside `parent`. @param {Element} parent @param {...Child} children */
export function fill(parent, ...children) {
  parent.replaceChildren();
  append(parent, children);
}

/**
 * Makes the children of `parent` like those of `wanted`, keeping what is the same.
 *
 * Elements with `data-key` are matched by it, others by their order. An element with `data-keep` and
 * the same value on both sides looks after itself: its `update` is called with the new one's `data`.
 *
 * @param {Element} parent
 * @param {Element|DocumentFragment} wanted
 */
export function morph(parent, wanted) {
  const keyed = new Map();
  for (const child of parent.children) if (child.dataset.key) keyed.set(child.dataset.key, child);
  let next = parent.firstChild;
  for (const want of [...wanted.childNodes]) {
    const key = want.dataset?.key;
    const found = key ? keyed.get(key) : unkeyed(next, want);
    if (found && found.nodeName === want.nodeName) {
      if (!key) {
        // What lies in between is no longer wanted: removing it leaves the one found where it is.
        while (next !== found) {
          const gone = next;
          next = next.nextSibling;
          if (!gone.dataset?.key) gone.remove();
        }
      }
      if (found === next) next = next.nextSibling;
      else parent.insertBefore(found, next);
      settle(found, want);
    } else {
      parent.insertBefore(want, next);
    }
  }
  while (next) {
    const gone = next;
    next = next.nextSibling;
    gone.remove();
  }
}

/** The first node from here on that may become the wanted one. */
function unkeyed(node, want) {
  while (node && (node.dataset?.key || node.nodeName !== want.nodeName)) node = node.nextSibling;
  return node;
}

/** Makes one node like another of the same name. */
function settle(node, want) {
  if (!(node instanceof Element)) {
    if (node.nodeValue !== want.nodeValue) node.nodeValue = want.nodeValue;
    return;
  }
  if (node.dataset.keep && node.dataset.keep === want.dataset.keep) {
    node.update?.(want.data);
    return;
  }
  for (const { name } of [...node.attributes]) {
    // Whoever opened a part keeps it open.
    if (!want.hasAttribute(name) && !(name === 'open' && node.nodeName === 'DETAILS') && name !== 'style') {
      node.removeAttribute(name);
    }
  }
  for (const { name, value } of want.attributes) {
    if (name !== 'style' && node.getAttribute(name) !== value) node.setAttribute(name, value);
  }
  // Not as an attribute, which the page's policy forbids.
  if (node.style.cssText !== want.style.cssText) node.style.cssText = want.style.cssText;
  HANDLERS.forEach((handler) => (node[handler] = want[handler]));
  if (node.nodeName !== 'TEXTAREA') morph(node, want);
  if (node !== document.activeElement) {
    LIVE.forEach((live) => {
      if (live in want && node.nodeName !== 'LI' && node[live] !== want[live]) node[live] = want[live];
    });
  }
}
