// Flotilla's demo chat: one page, one socket. The sections follow a visit: which node serves us, the timeline, what we
// send, who is here, the connection, and the way in.

const ACK_TIMEOUT_MS = 10_000;
const MAX_ENTRIES = 500;
const SAME_BREATH_S = 300; // messages of one author closer than this share one heading
const NAME_KEY = 'flotilla.name';
const TRANSPORTS = { polling: ['polling'], websocket: ['websocket'], upgrade: ['polling', 'websocket'] };

const params = new URLSearchParams(location.search);
const wide = matchMedia('(min-width: 760px)');
const clock = new Intl.DateTimeFormat(undefined, { hour: 'numeric', minute: '2-digit' });
const byId = (id) => document.getElementById(id);
const nowS = () => Date.now() / 1000;

// Everything that others wrote reaches the page through here, as text nodes: there is no HTML to inject into.
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

// ---- Nodes and their colours ----------------------------------------------------------------------------------------

let home = null; // {node, port} that serves this window
let lostAt = null; // when the connection to it broke, until we have said how that ended

// Neighbouring numbers lie a golden angle apart on the colour wheel, so that any few nodes of a fleet differ clearly,
// and every browser gives a node the same colour. The name is always written beside it.
function hueOf(node) {
  const [, prefix, digits] = /^(.*?)(\d*)$/s.exec(node);
  const number = [...prefix].reduce((sum, letter) => sum + letter.codePointAt(0), Number(digits));
  return (number * 137.508 + 280) % 360;
}

function tint(element, node) {
  element.style.setProperty('--hue', hueOf(node).toFixed(1)); // by script, which a strict style-src allows
  return element;
}

const chip = (node, port) => tint(el('span', { class: 'chip', title: port && `port ${port}` }, node), node);

function servedBy({ node, port }) {
  if (!node) return;
  const how = lostAt === null ? 'without reconnecting' : `after ${((performance.now() - lostAt) / 1000).toFixed(1)} s`;
  const here = chip(node, port);
  if (home && home.node !== node) addLine(['Moved from ', chip(home.node, home.port), ' to ', here, ` ${how}`], node);
  else if (home && lostAt !== null) addLine(['Back on ', here, ` ${how}`], node);
  home = { node, port };
  lostAt = null;
  byId('serving-node').textContent = node;
  byId('serving-port').textContent = port;
  tint(byId('serving-chip'), node);
  byId('served').hidden = false;
}

// ---- The timeline ---------------------------------------------------------------------------------------------------

const timeline = byId('timeline');
const messages = byId('messages');
const unsent = '[data-delivery=waiting], [data-delivery=sending]';
let following = true; // the reader is at the end, so we keep the end in sight

function toBottom() {
  timeline.scrollTop = timeline.scrollHeight;
  byId('newer').hidden = true;
}

// Puts an entry in the stead of the one it confirms, or last; but what we have not sent yet stays behind the others'.
function place(item, confirmed = null) {
  if (confirmed) confirmed.replaceWith(item);
  else messages.insertBefore(item, item.matches(unsent) ? null : messages.querySelector(unsent));
  item.classList.toggle('continued', continues(item.previousElementSibling, item));
  while (messages.childElementCount > MAX_ENTRIES) messages.firstElementChild.remove();
  messages.firstElementChild.classList.remove('continued');
  if (following) toBottom();
  else byId('newer').hidden = false;
}

function continues(before, item) {
  const same = (key) => before.dataset[key] === item.dataset[key];
  return Boolean(before) && item.dataset.kind === 'message' && ['kind', 'username', 'node'].every(same)
    && item.dataset.at - before.dataset.at < SAME_BREATH_S;
}

function addLine(parts, node, username) {
  const attributes = { class: 'line', 'data-kind': 'system', 'data-node': node, 'data-username': username };
  place(el('li', attributes, el('span', {}, ...parts), timeOf(nowS())));
}

function timeOf(at) {
  const date = new Date(at * 1000);
  return el('time', { datetime: date.toISOString() }, clock.format(date));
}

function messageItem({ username, text, node, port, at }) {
  const attributes = { 'data-kind': 'message', 'data-username': username, 'data-node': node, 'data-at': at };
  const item = el('li', { class: username === me.name ? 'message own' : 'message', ...attributes },
    avatar(username),
    el('p', { class: 'meta' }, el('strong', {}, username), ...(node ? [chip(node, port)] : []), timeOf(at)),
    el('p', { class: 'text', dir: 'auto' }, text));
  return node ? tint(item, node) : item;
}

const avatar = (username) => el('span', { class: 'avatar', 'aria-hidden': 'true' }, [...username][0].toUpperCase());

// ---- What we send ---------------------------------------------------------------------------------------------------

// Our own outbox instead of socket.io's send buffer, which would empty itself before we are registered again. One
// message at a time, so that they stay in order. An entry leaves when its echo is here, as everybody sees it.
const outbox = [];
let sending = false;

function submit(entry) {
  mark(entry, 'waiting', 'Waiting for the connection');
  place(entry.item);
  toBottom();
  flush();
}

async function flush() {
  if (sending) return;
  sending = true;
  for (let entry; me.registered && (entry = outbox.find(({ item }) => item.dataset.delivery === 'waiting'));) {
    await deliver(entry);
  }
  sending = false;
  showNotice();
}

async function deliver(entry) {
  const { id } = socket;
  mark(entry, 'sending', 'Sending');
  try {
    const reply = await socket.timeout(ACK_TIMEOUT_MS).emitWithAck('message', { text: entry.text });
    if (reply.ok) mark(entry, 'sent', '');
    else if (socket.id !== id) mark(entry, 'waiting', 'Waiting for the connection'); // refused: new here, not yet known
    else mark(entry, 'refused', reply.error);
  } catch {
    // No answer: it may have arrived or not. To send again unasked could say it twice, so whoever wrote it decides;
    // a late echo settles it as well.
    mark(entry, 'unconfirmed', 'Not confirmed');
  }
}

function mark(entry, delivery, words) {
  if (entry.echoed) return;
  entry.item.dataset.delivery = delivery;
  entry.item.querySelector('.delivery')?.remove();
  const note = el('p', { class: 'delivery' }, words);
  if (delivery === 'refused' || delivery === 'unconfirmed') {
    const again = el('button', { type: 'button', class: 'quiet' }, 'Send again');
    again.addEventListener('click', () => submit(entry));
    note.append(again);
  }
  entry.item.append(note);
}

function received(message) {
  const mine = message.username === me.name
    ? outbox.findIndex(({ text, item }) => text === message.text && item.dataset.delivery !== 'waiting') : -1;
  const [entry] = mine < 0 ? [] : outbox.splice(mine, 1);
  if (entry) entry.echoed = true;
  place(messageItem(message), entry?.item);
}

// ---- Who is here ----------------------------------------------------------------------------------------------------

function showPeople({ count, users }) {
  byId('online-count').textContent = count;
  const meFirst = (a, b) => (b.username === me.name) - (a.username === me.name) || a.username.localeCompare(b.username);
  byId('user-list').replaceChildren(...[...users].sort(meFirst).map(personItem));
  const perNode = new Map();
  for (const { nodes, ports } of users) {
    nodes.forEach((node, i) => perNode.set(node, { port: ports[i], people: (perNode.get(node)?.people ?? 0) + 1 }));
  }
  const byName = ([a], [b]) => a.localeCompare(b, undefined, { numeric: true });
  byId('fleet').replaceChildren(...[...perNode].sort(byName).map(([node, { port, people }]) =>
    el('li', { 'data-node': node }, chip(node, port), people === 1 ? '1 person' : `${people} people`)));
}

function personItem({ username, devices, nodes, ports, since }) {
  return el('li', { 'data-username': username, 'data-devices': devices, title: `since ${clock.format(since * 1000)}` },
    tint(avatar(username), nodes[0]),
    el('span', { class: 'who' }, el('strong', {}, username), username === me.name ? el('em', {}, 'you') : '',
      devices > 1 ? el('small', {}, `${devices} devices`) : ''),
    el('span', { class: 'where' }, ...nodes.map((node, i) => chip(node, ports[i]))));
}

function cameOrWent({ username, node, port, count }, verb) {
  byId('online-count').textContent = count;
  const mine = username === me.name;
  if (mine && me.introduced) return; // later the line about the node we moved to says it all
  me.introduced ||= mine;
  addLine([el('strong', {}, mine ? 'You' : username), ` ${verb} `, chip(node, port)], node, username);
}

// ---- The connection -------------------------------------------------------------------------------------------------

const me = { name: (params.get('name') ?? sessionStorage.getItem(NAME_KEY) ?? '').trim(), registered: false };
const link = { state: 'connecting', attempt: 0, problem: '' };
const socket = globalThis.io?.({ transports: TRANSPORTS[params.get('transport')], autoConnect: false });

function setLink(state, problem = '') {
  if (state === 'connected') link.attempt = 0;
  Object.assign(link, { state, problem });
  const attempt = link.attempt && state !== 'disconnected' ? `, attempt ${link.attempt}` : '';
  byId('state').textContent = `${state[0].toUpperCase()}${state.slice(1)}${attempt}`;
  byId('state').dataset.state = state;
  byId('state').dataset.transport = state === 'connected' ? socket.io.engine.transport.name : '';
  showNotice();
}

// Beside the live region, not in it: nobody wants the seconds read out.
function showNotice() {
  byId('notice').hidden = link.state === 'connected';
  byId('reconnect').hidden = link.state !== 'disconnected';
  const waiting = outbox.filter(({ item }) => item.dataset.delivery === 'waiting').length;
  const kept = waiting ? `${waiting} ${waiting === 1 ? 'message waits' : 'messages wait'} to be sent.`
    : 'What you write is kept and sent when you are back.';
  const seconds = Math.round((performance.now() - (lostAt ?? 0)) / 1000); // this clock starts with the page
  const ended = `The server ended this connection. ${link.problem}`;
  const what = link.state === 'disconnected' ? ended : `No connection for ${seconds} s.`;
  byId('notice-text').textContent = `${what} ${kept}`;
}

// Registering twice is harmless, so an unanswered one is repeated for as long as this connection lasts.
async function register() {
  const { id } = socket;
  while (me.name && socket.connected && socket.id === id && !me.registered) {
    const reply = await socket.timeout(ACK_TIMEOUT_MS).emitWithAck('register', { username: me.name }).catch(() => null);
    if (reply && socket.id === id) return reply.ok ? joined(reply) : showSignIn(reply.error);
  }
}

function connect() {
  socket.on('connect', () => {
    socket.io.engine.on('upgrade', () => setLink(link.state));
    setLink('connected');
    // For those who have not signed in. Without an answer the next change tells us.
    socket.timeout(ACK_TIMEOUT_MS).emitWithAck('online_users').then(showPeople, () => {});
    register();
  });
  socket.on('disconnect', () => {
    me.registered = false;
    lostAt = performance.now();
    setLink(socket.active ? 'reconnecting' : 'disconnected'); // inactive: the server said goodbye, we wait for a click
  });
  socket.on('connect_error', (error) => {
    if (!socket.active) setLink('disconnected', error.message);
  });
  socket.io.on('reconnect_attempt', (attempt) => {
    link.attempt = attempt;
    setLink(home ? 'reconnecting' : 'connecting');
  });
  socket.on('welcome', servedBy);
  socket.on('message', received);
  socket.on('online_users', showPeople);
  socket.on('user_joined', (event) => cameOrWent(event, 'joined on'));
  socket.on('user_left', (event) => cameOrWent(event, 'left'));
  setInterval(() => link.state !== 'connected' && showNotice(), 1000);
  socket.connect();
}

// ---- The way in and out ---------------------------------------------------------------------------------------------

function showSignIn(error = '') {
  byId('name').value = me.name;
  me.name = '';
  show('sign-in');
  byId('sign-in-error').textContent = error;
  byId('join').disabled = false;
  byId('name').focus();
}

function joined({ username, online, ...where }) {
  Object.assign(me, { name: username, registered: true });
  sessionStorage.setItem(NAME_KEY, username);
  servedBy(where);
  if (online) showPeople(online);
  if (byId('chat').hidden) {
    show('chat');
    byId('message').focus();
  }
  flush();
}

function show(view) {
  for (const id of ['sign-in', 'chat']) byId(id).hidden = id !== view;
  byId('people-toggle').disabled = view !== 'chat';
}

function showPanel(open) {
  byId('people').hidden = !open;
  byId('people-toggle').setAttribute('aria-expanded', open);
}

byId('sign-in-form').addEventListener('submit', (event) => {
  event.preventDefault();
  me.name = byId('name').value.trim();
  if (!me.name) return;
  byId('sign-in-error').textContent = '';
  byId('join').disabled = true;
  register(); // or, while there is no connection, as soon as there is one
});
byId('composer').addEventListener('submit', (event) => {
  event.preventDefault();
  const text = byId('message').value.trim();
  byId('message').value = '';
  if (!text) return;
  const entry = { text, item: messageItem({ username: me.name, text, at: nowS() }) };
  outbox.push(entry);
  submit(entry);
});
byId('message').addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  byId('composer').requestSubmit();
});
byId('leave').addEventListener('click', () => {
  sessionStorage.removeItem(NAME_KEY);
  params.delete('name');
  location.assign(`${location.pathname}?${params}`);
});
byId('people-toggle').addEventListener('click', () => showPanel(byId('people').hidden));
byId('newer').addEventListener('click', toBottom);
timeline.addEventListener('scroll', () => {
  following = timeline.scrollHeight - timeline.scrollTop - timeline.clientHeight < 80;
  if (following) byId('newer').hidden = true;
}, { passive: true });
new ResizeObserver(() => following && toBottom()).observe(timeline);
byId('reconnect').addEventListener('click', () => {
  setLink('reconnecting');
  socket.connect();
});
wide.addEventListener('change', () => showPanel(wide.matches));

showPanel(wide.matches);
setLink('connecting');
me.name ? show('chat') : showSignIn();
if (socket) connect();
else {
  setLink('disconnected');
  showSignIn('The Socket.IO client is missing from this installation. Install Flotilla again to fetch it.');
  byId('join').disabled = true;
}
