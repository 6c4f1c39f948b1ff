'use strict';
(() => {
  const byId = (id) => document.getElementById(id);
  const all = (selector, root) => Array.from((root || document).querySelectorAll(selector));
  const root = document.documentElement;

  // Light and dark: what the system says until somebody chooses.
  const theme = byId('p-theme');
  const system = matchMedia('(prefers-color-scheme: dark)');
  const kept = (value) => {
    try {
      if (value) localStorage.setItem('pv-report-theme', value);
      return localStorage.getItem('pv-report-theme');
    } catch (refused) {
      return null; // a browser that keeps nothing for files
    }
  };
  const isDark = () => (root.dataset.theme ? root.dataset.theme === 'dark' : system.matches);
  const showTheme = () => {
    theme.textContent = isDark() ? 'Light theme' : 'Dark theme';
  };
  if (['light', 'dark'].includes(kept())) root.dataset.theme = kept();
  theme.hidden = false;
  theme.addEventListener('click', () => {
    root.dataset.theme = isDark() ? 'light' : 'dark';
    kept(root.dataset.theme);
    showTheme();
  });
  system.addEventListener('change', showTheme);
  showTheme();

  // Details that were kept packed: a JSON of id -> HTML for each contract. It was escaped when the page was made.
  const unpacked = new Map();
  const unpack = async (id) => {
    const packed = Uint8Array.from(atob(byId(id).textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('gzip'));
    return JSON.parse(await new Response(stream).text());
  };
  const fill = async (details) => {
    const body = details.querySelector(':scope > .body[data-from]');
    if (!body) return;
    const from = body.dataset.from;
    body.removeAttribute('data-from');
    if (!unpacked.has(from)) unpacked.set(from, unpack(from));
    body.innerHTML = (await unpacked.get(from))[details.id];
    all('summary', body).forEach(tell);
    reach(body);
  };
  // A table that is wider than its place must be reached by keyboard to be scrolled; others need no stop.
  const reach = (within) => all('.scroll', within).forEach((box) => {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute('tabindex');
  });
  const tell = (summary) => summary.setAttribute('aria-expanded', String(summary.parentElement.open));
  const open = (details, yes) => {
    details.open = yes;
    const summary = details.querySelector(':scope > summary');
    if (summary) tell(summary);
    if (yes) reach(details);
    return yes ? fill(details) : undefined;
  };
  document.addEventListener('toggle', (event) => {
    if (event.target.tagName === 'DETAILS') open(event.target, event.target.open);
  }, true);
  all('summary').forEach(tell);
  reach();
  addEventListener('resize', () => reach());

  // Search and filters.
  const form = byId('p-filters');
  const search = byId('p-search');
  const device = byId('p-device');
  const flag = byId('p-flag');
  const contracts = all('details.contract').map((element) => ({
    element,
    text: element.dataset.text,
    claims: all('details.claim', element).map((claim) => ({
      element: claim,
      text: claim.dataset.text,
      status: claim.dataset.status,
      devices: claim.dataset.devices.split(' '),
      flags: claim.dataset.flags.split('|'),
    })),
  }));
  const total = contracts.reduce((sum, contract) => sum + contract.claims.length, 0);
  const chosen = () => all('input[name=status]:checked', form).map((box) => box.value);
  const filtering = () => Boolean(search.value.trim() || device.value || flag.value || chosen().length);
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const statuses = chosen();
    let shown = 0;
    let kept = 0;
    for (const contract of contracts) {
      let here = 0;
      for (const claim of contract.claims) {
        const fits = words.every((word) => claim.text.includes(word) || contract.text.includes(word))
          && (!statuses.length || statuses.includes(claim.status))
          && (!device.value || claim.devices.includes(device.value))
          && (!flag.value || claim.flags.includes(flag.value));
        claim.element.hidden = !fits;
        here += fits;
      }
      const visible = !filtering() || here > 0;
      contract.element.hidden = !visible;
      kept += visible;
      shown += here;
    }
    if (filtering() && shown <= 200) {
      contracts.forEach((contract) => contract.element.hidden || open(contract.element, true));
    }
    byId('p-count').textContent = `${shown} of ${total} claims in ${kept} of ${contracts.length} contracts`;
    byId('p-none').hidden = kept > 0;
  };
  let waiting = 0;
  form.addEventListener('input', () => {
    clearTimeout(waiting);
    waiting = setTimeout(filter, 120);
  });
  form.addEventListener('submit', (event) => event.preventDefault());
  form.addEventListener('reset', () => setTimeout(filter));
  const visible = () => contracts.filter((contract) => !contract.element.hidden);
  byId('p-open').addEventListener('click', () => {
    const claims = visible().flatMap((contract) => contract.claims).filter((claim) => !claim.element.hidden);
    visible().forEach((contract) => open(contract.element, true));
    if (claims.length <= 200) claims.forEach((claim) => open(claim.element, true));
  });
  byId('p-close').addEventListener('click', () => {
    for (const contract of contracts) {
      contract.claims.forEach((claim) => open(claim.element, false));
      open(contract.element, false);
    }
  });
  form.hidden = false;
  filter();

  // Links to a claim or to a record of it (claim.rec-digest): what they lie in is opened first.
  const reveal = async () => {
    let name = location.hash.slice(1);
    try {
      name = decodeURIComponent(name);
    } catch (malformed) {
      return;
    }
    const holder = byId(name.split('.rec-')[0]);
    if (!name || !holder) return;
    if (holder.closest('[hidden]')) {
      form.reset();
      filter();
    }
    if (holder.tagName === 'DETAILS') await open(holder, true);
    const target = byId(name) || holder;
    for (let element = target; element; element = element.parentElement) {
      if (element.tagName === 'DETAILS') open(element, true);
    }
    target.scrollIntoView();
    const summary = target.querySelector(':scope > summary');
    if (summary) summary.focus({ preventScroll: true });
  };
  addEventListener('hashchange', reveal);
  document.addEventListener('click', (event) => {
    const link = event.target.closest('a[href^="#"]');
    if (link && link.hash === location.hash) reveal();
  });
  reveal();
})();
