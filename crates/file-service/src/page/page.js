'use strict';
// Draws what `/events` says once a second. All text is set as text and never as HTML.

const byId = (id) => document.getElementById(id);
const SVG = 'http://www.w3.org/2000/svg';
let latest = null;

const element = (name, text, classes = '') => {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (classes) made.className = classes;
  return made;
};

const drawn = (name, attributes, text) => {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
};

const whole = (number) => number.toLocaleString('en-US');
const percent = (share) => `${(share * 100).toFixed(1)} %`;
const duration = (ms) => (ms === null ? '–' : ms < 1 ? `${(ms * 1000).toFixed(0)} µs` : `${ms.toFixed(ms < 10 ? 1 : 0)} ms`);
const size = (bytes) => {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let power = 0;
  for (; bytes >= 1024 && power < units.length - 1; power += 1) bytes /= 1024;
  return `${power ? bytes.toFixed(1) : bytes} ${units[power]}`;
};

/** Sets text only where it differs, so that a screen reader says what has changed. */
const say = (node, text) => {
  if (node.textContent !== text) node.textContent = text;
};

const summarize = (event) => {
  const rows = [
    ['Task', event.task],
    ['Version', event.version],
    ['Ready', event.ready ? 'yes' : 'no'],
    ['Routing strategy', event.strategy],
    ['Operations', whole(event.targets.reduce((sum, target) => sum + target.operations, 0))],
    ['Failovers', whole(event.targets.reduce((sum, target) => sum + target.failovers, 0))],
    ['Connections', whole(event.connections)],
    ['Refused connections', whole(event.refused_connections)],
    ['Unreadable lists', whole(event.unreadable_lists)],
  ];
  byId('summary').replaceChildren(...rows.map(([name, value]) => {
    const group = element('div');
    group.append(element('dt', name), element('dd', value));
    return group;
  }));
  const down = event.targets.filter((target) => !target.up);
  say(byId('alert'), down.length ? `Down: ${down.map((target) => target.mount_target_id).join(', ')}` : '');
};

const share = (part, text) => {
  const cell = element('td', undefined, 'fixed');
  const bar = element('meter');
  bar.value = part;
  bar.setAttribute('aria-label', percent(part));
  cell.append(bar, ` ${percent(part)}`, element('small', text));
  return cell;
};

const listTargets = (event) => {
  byId('targets').replaceChildren(...event.targets.map((target) => {
    const row = element('tr');
    const name = element('th', target.mount_target_id, 'id');
    name.scope = 'row';
    name.append(element('small', target.ip_address));
    const health = element('td', undefined, 'health');
    health.append(element('span', target.up ? 'up' : 'down', target.up ? 'up' : 'down'));
    if (target.error) health.append(element('small', target.error));
    row.append(
      name, element('td', target.availability_zone, 'fixed'), health,
      share(target.share_of_operations, whole(target.operations)),
      share(target.share_of_bytes, `${size(target.bytes_read)} read, ${size(target.bytes_written)} written`),
      element('td', duration(target.latency_ms.p50), 'number'), element('td', duration(target.latency_ms.p99), 'number'),
      element('td', whole(target.failures), 'number'), element('td', whole(target.refused), 'number'),
      element('td', whole(target.failovers), 'number'),
    );
    return row;
  }));
};

const chooseLatency = (event) => {
  const select = byId('latency-of');
  const names = ['all', ...event.targets.map((target) => target.mount_target_id)];
  const present = [...select.options].map((option) => option.value);
  if (names.join() === present.join()) return;
  const chosen = select.value;
  select.replaceChildren(...names.map((name) => {
    const option = element('option', name);
    option.value = name;
    return option;
  }));
  select.value = names.includes(chosen) ? chosen : 'all';
};

const drawLatency = (event) => {
  const { bounds_ms: bounds, counts } = event.histogram;
  const chosen = event.targets.findIndex((target) => target.mount_target_id === byId('latency-of').value);
  const shown = counts.filter((_, index) => chosen < 0 || index === chosen);
  const buckets = [...bounds, Infinity].map((_, bucket) => shown.reduce((sum, count) => sum + count[bucket], 0));
  const most = Math.max(...buckets, 1);
  const step = 680 / buckets.length;
  const parts = [drawn('line', { x1: 0, y1: 135.5, x2: 680, y2: 135.5 })];
  buckets.forEach((count, bucket) => {
    const height = (count / most) * 110;
    if (count) {
      const bar = drawn('rect', { x: bucket * step + 3, y: 135 - height, width: step - 6, height: Math.max(height, 1) });
      parts.push(bar, drawn('text', { x: (bucket + 0.5) * step, y: 128 - height, 'text-anchor': 'middle' },
        count < 10_000 ? String(count) : `${(count / 1000).toFixed(0)}k`));
    }
    const bound = bucket < bounds.length ? duration(bounds[bucket]) : 'more';
    const label = drawn('text', { x: (bucket + 0.5) * step, y: 152, 'text-anchor': 'middle' }, bound.split(' ')[0]);
    const unit = drawn('text', { x: (bucket + 0.5) * step, y: 166, 'text-anchor': 'middle' }, bound.split(' ')[1] ?? '');
    parts.push(label, unit);
  });
  byId('latency').replaceChildren(...parts);
  const all = buckets.reduce((sum, count) => sum + count, 0);
  let passed = 0;
  const middle = buckets.findIndex((count) => (passed += count) * 2 >= all);
  const within = middle < bounds.length ? `at most ${duration(bounds[middle])}` : `more than ${duration(bounds.at(-1))}`;
  say(byId('latency-text'), all ? `${whole(all)} operations; half of them took ${within}.` : 'No operation yet.');
};

const listErrors = (event) => {
  const rows = event.errors.map((error) => {
    const row = element('tr');
    const name = element('th', error.code);
    name.scope = 'row';
    row.append(
      name, element('td', error.status, 'number'), element('td', whole(error.count), 'number'),
      element('td', new Date(error.last_at).toLocaleTimeString()),
      element('td', `${error.last_method} ${error.last_path}`, 'id'), element('td', error.last_mount_target_id ?? '–', 'id'),
    );
    return row;
  });
  if (!rows.length) {
    const row = element('tr');
    const cell = element('td', 'none');
    cell.colSpan = 6;
    row.append(cell);
    rows.push(row);
  }
  byId('errors').replaceChildren(...rows);
};

const show = (event) => {
  latest = event;
  summarize(event);
  listTargets(event);
  chooseLatency(event);
  drawLatency(event);
  listErrors(event);
};

/** The path with each component encoded once, as the service decodes it. */
const encoded = (path) => path.split('/').map(encodeURIComponent).join('/');

const showRoute = async (path) => {
  const place = byId('route');
  let answer;
  try {
    // A browser takes them out of an address, encoded or not, and would ask for another path.
    if (path.split('/').some((name) => name === '.' || name === '..')) throw new Error('a path has no component . or ..');
    const response = await fetch(`/route/${encoded(path)}`);
    answer = await response.json();
    if (!response.ok) throw new Error(answer.error.message);
  } catch (error) {
    place.replaceChildren(element('p', `No route: ${error.message}`, 'down'));
    return;
  }
  const target = answer.target ? answer.target.mount_target_id : 'no target, since none is up';
  const intro = element('p');
  intro.append(element('code', answer.path), ` goes to ${target} by ${answer.strategy}. Its order of preference:`);
  const order = element('ol');
  for (const one of answer.order) {
    const item = element('li');
    const isTarget = answer.target && one.mount_target_id === answer.target.mount_target_id;
    item.append(
      element('code', one.mount_target_id), ` ${one.availability_zone} `,
      element('span', one.up ? 'up' : 'down', one.up ? 'up' : 'down'), isTarget ? ' ← in use' : '',
    );
    order.append(item);
  }
  place.replaceChildren(intro, order);
};

const connect = () => {
  const state = byId('connection');
  const set = (text, classes) => {
    say(state, text);
    state.className = classes;
  };
  const events = new EventSource('/events');
  events.onmessage = (message) => {
    show(JSON.parse(message.data));
    set('live', 'up');
  };
  events.onerror = () => {
    const isClosed = events.readyState === EventSource.CLOSED;
    set(isClosed ? 'disconnected; reload the page' : 'disconnected; connecting again', 'down');
    // A refusal ends the stream for good: signed out, or too many pages.
    if (isClosed) setTimeout(connect, 5000);
  };
};

byId('latency-of').addEventListener('change', () => latest && drawLatency(latest));
byId('route-form').addEventListener('submit', (event) => {
  event.preventDefault();
  showRoute(byId('path').value.replace(/^\/+/, ''));
});
connect();
