'use strict';
// Draws the state machine once, and what `/events` says twice a second. All text is set as text and never as HTML.

const byId = (id) => document.getElementById(id);
const SVG = 'http://www.w3.org/2000/svg';
const [WIDTH, HEIGHT, COLUMN, LAYER] = [132, 30, 150, 52];
const boxes = new Map();
let latest = '';

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

const say = (node, text) => {
  if (node.textContent !== text) node.textContent = text;
};

const draw = ({ states, transitions }) => {
  const columns = Math.max(...states.map((state) => state.column)) + 1;
  const layers = Math.max(...states.map((state) => state.layer)) + 1;
  const wide = states.reduce((count, state) => count.set(state.layer, (count.get(state.layer) ?? 0) + 1), new Map());
  const svg = byId('machine');
  svg.setAttribute('viewBox', `0 0 ${columns * COLUMN} ${layers * LAYER}`);
  const place = new Map(states.map((state) => {
    const left = ((columns - wide.get(state.layer)) / 2 + state.column) * COLUMN + (COLUMN - WIDTH) / 2;
    return [state.name, { x: left, y: state.layer * LAYER + 4 }];
  }));
  const lines = transitions.map(({ from, to, is_catch: isCatch }) => {
    const [start, end] = [place.get(from), place.get(to)];
    const [x1, y1, x2, y2] = [start.x + WIDTH / 2, start.y + HEIGHT, end.x + WIDTH / 2, end.y];
    const bend = y2 > y1 ? (y2 - y1) / 2 : 30;
    return drawn('path', { d: `M${x1} ${y1} C${x1} ${y1 + bend} ${x2} ${y2 - bend} ${x2} ${y2}`, class: isCatch ? 'catch' : '' });
  });
  const groups = states.map((state) => {
    const { x, y } = place.get(state.name);
    const group = drawn('g', {});
    const round = state.kind === 'Choice' ? 15 : 4;
    group.append(
      drawn('rect', { x, y, width: WIDTH, height: HEIGHT, rx: round }),
      drawn('text', { x: x + WIDTH / 2, y: y + 20, 'text-anchor': 'middle' }, state.name),
    );
    boxes.set(state.name, group);
    return group;
  });
  svg.replaceChildren(...lines, ...groups);
};

const light = (event) => {
  const [newest] = event.executions;
  const entered = new Set(event.states);
  const last = event.states.at(-1);
  const isRunning = newest?.status === 'RUNNING';
  for (const [name, group] of boxes) {
    const classes = [
      entered.has(name) ? 'entered' : '',
      isRunning && name === last ? 'current' : '',
      newest && !isRunning && newest.status !== 'SUCCEEDED' && name === last ? 'failed' : '',
    ];
    group.setAttribute('class', classes.join(' '));
  }
  const text = !newest
    ? 'No execution yet.'
    : isRunning ? `Running: ${last ?? 'starting'}.` : `${newest.status}: ${newest.code}. Path: ${event.states.join(' → ')}.`;
  say(byId('machine-text'), text);
};

const post = async (address) => {
  const response = await fetch(address, { method: 'POST' });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
};

const act = async (address, said) => {
  try {
    say(byId('result'), said(await post(address)));
  } catch (error) {
    say(byId('result'), `Not done: ${error.message}`);
  }
};

const listTargets = (targets) => {
  const text = JSON.stringify(targets);
  // A button that is replaced loses the focus.
  if (text === latest) return;
  latest = text;
  byId('targets').replaceChildren(...targets.map((target) => {
    const row = element('tr');
    const name = element('th', target.mount_target_id, 'id');
    name.scope = 'row';
    const connection = element('td', target.is_cut === null ? '–' : undefined);
    if (target.is_cut !== null && target.is_published) {
      const button = element('button', target.is_cut ? 'Connect' : 'Cut off');
      button.setAttribute('aria-label', `${button.textContent} ${target.mount_target_id}`);
      const query = new URLSearchParams({ mount_target_id: target.mount_target_id, is_cut: !target.is_cut });
      button.addEventListener('click', () => act(`/cut?${query}`, (answer) => (answer.is_cut ? 'Cut off.' : 'Connected.')));
      connection.append(button);
    }
    row.append(
      name, element('td', target.zone),
      element('td', target.state, target.state === 'available' ? 'up' : 'down'),
      element('td', target.is_published ? 'yes' : 'no'), connection,
    );
    return row;
  }));
};

const show = (event) => {
  if (event.error) throw new Error(event.error);
  light(event);
  listTargets(event.targets);
  byId('create-files').disabled = !event.can_create_files;
  const story = byId('story');
  if ([...story.children].map((item) => item.textContent).join() !== event.story.join()) {
    story.replaceChildren(...event.story.map((line) => element('li', line)));
  }
  byId('executions').replaceChildren(...event.executions.map((one) => element('li', `${one.status} ${one.code}`)));
  if (event.service && !byId('service').firstChild) {
    const link = element('a', 'The page of the file service');
    link.href = event.service;
    byId('service').append(link);
  }
};

byId('start').addEventListener('click', () => act('/start', () => 'Started.'));
byId('create-files').addEventListener('click', () => act('/files', (answer) => `${answer.created} files created.`));

const connect = async () => {
  const state = byId('connection');
  draw(await (await fetch('/machine')).json());
  const events = new EventSource('/events');
  events.onmessage = (message) => {
    try {
      show(JSON.parse(message.data));
      say(state, 'live');
      state.className = 'up';
    } catch (error) {
      say(state, error.message);
      state.className = 'down';
    }
  };
  events.onerror = () => {
    say(state, 'disconnected; connecting again');
    state.className = 'down';
  };
};
connect().catch((error) => say(byId('connection'), error.message));
