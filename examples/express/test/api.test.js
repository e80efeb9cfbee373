/*
 * api.test.js: what the clients of the API see
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 */
'use strict';

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { readFileSync } = require('node:fs');
const net = require('node:net');
const path = require('node:path');
const { before, test } = require('node:test');
const {
  assertRefused, curl, define, eventually, newIdentity, newRole, pool, send, startApi, statusOf, until, used,
} = require('./helpers.js');

/* Both ways into each API, and the documented limit that they share */
const APIS = [
  ['data-sources', 200, 10, ['GET', '/v1/data-sources/1/data'], ['POST', '/js/data-sources/find', { id: '1' }]],
  ['communicate', 20, 30, ['POST', '/v1/communicate/messages', { to: 'a', text: 'b' }], ['POST', '/js/communicate/send', { to: 'a', text: 'b' }]],
  ['audit-logs', 30, 10, ['GET', '/v1/audit-logs'], ['POST', '/js/audit-logs/list', {}]],
  ['ai', 10, 60, ['POST', '/v1/ai/completions', { prompt: 'a' }], ['POST', '/js/ai/complete', { prompt: 'a' }]],
  ['app-actions', 60, 60, ['POST', '/v1/app-actions/a/run', {}], ['POST', '/js/app-actions/run', { action: 'a' }]],
];

/* Every route there is */
const ROUTES = [
  ...APIS.flatMap(([, , , rest, js]) => [rest, js]),
  ['POST', '/v1/data-sources/1/data', { data: {} }],
  ['POST', '/js/data-sources/insert', { id: '1', data: {} }],
  ['POST', '/v1/data-sources/1/commit', { append: [] }],
  ['POST', '/js/data-sources/commit', { id: '1', append: [] }],
];

const to = (api, [method, target, body], identity) => send(api, method, target, identity, body);

/* The API, and one that has a single connection to the database and no right but the one that it needs */
let api;
let narrow;

before(async () => {
  await pool.query('CREATE EXTENSION IF NOT EXISTS fliplet_ratelimit');
  // has the server log every statement of this API
  api = await startApi({ PGAPPNAME: 'api', PGOPTIONS: '-c log_statement=all' });
  await newRole('caller', ['EXECUTE ON FUNCTION fl_rate_try_all(text[], text[], text, bigint, text)']);
  narrow = await startApi({ PGUSER: 'caller', PGAPPNAME: 'narrow', RATE_LIMIT_CONNECTIONS: '1' });
});

for (const [name, maxRequests, seconds, rest, js] of APIS) {
  test(`${name}: the documented limit, one for REST and the JS API together`, async () => {
    const identity = newIdentity();
    for (const [i, request] of [rest, js, rest].entries()) {
      const response = await to(api, request, identity);
      assert.equal(response.status, 200, response.text);
      assert.equal(response.headers['ratelimit-policy'], `"fliplet/${name}";q=${maxRequests};w=${seconds}`);
      assert.match(
        response.headers.ratelimit,
        new RegExp(`^"fliplet/${name}";r=${maxRequests - 1 - i};t=[1-9]\\d*$`),
      );
      assert.equal(response.headers['retry-after'], undefined);
    }
  });
}

test('app actions are the app\'s, whoever runs them', async () => {
  const app = newIdentity()['x-app'];
  for (const left of [59, 58, 57]) {
    const response = await to(api, APIS[4][3], newIdentity({ app }));
    assert.match(response.headers.ratelimit, new RegExp(`^"fliplet/app-actions";r=${left};`));
  }
});

test('curl: 200 while there is quota, then the documented 429, and 200 again at its date', async () => {
  const identity = newIdentity();
  await define('fliplet/audit-logs', 'user', 'audit-logs', 3, '2 s', identity['x-user']);
  const responses = await curl(api, 'GET', Array(5).fill('/v1/audit-logs'), identity);
  assert.deepEqual(responses.map(({ status }) => status), [200, 200, 200, 429, 429]);
  for (const [i, { headers }] of responses.slice(0, 3).entries()) {
    assert.equal(headers['ratelimit-policy'], '"fliplet/audit-logs";q=3;w=2');
    assert.match(headers.ratelimit, new RegExp(`^"fliplet/audit-logs";r=${2 - i};t=[12]$`));
  }
  assert.equal(responses[3].statusLine, 'HTTP/1.1 429 Too Many Requests');
  const date = assertRefused(responses[3], 'fliplet/audit-logs', 3, 2);
  // the second refusal was free: the same date
  assert.deepEqual(assertRefused(responses[4], 'fliplet/audit-logs', 3, 2), date);
  await until(date);
  const [again] = await curl(api, 'GET', ['/v1/audit-logs'], identity);
  assert.equal(again.status, 200);
});

test('several users at once, on both sides of the API: each gets their own, exactly', async () => {
  const users = Array.from({ length: 4 }, () => newIdentity());
  for (const user of users) {
    await define('fliplet/data-sources', 'user', 'data-sources', 25, '1 h', user['x-user']);
  }
  const granted = await Promise.all(
    users.map(async (user) => {
      const responses = await Promise.all(
        Array.from({ length: 40 }, (_, i) => to(api, APIS[0][3 + (i % 2)], user)),
      );
      const refused = responses.filter(({ status }) => status !== 200);
      refused.forEach((response) => assertRefused(response, 'fliplet/data-sources', 25, 3600));
      return responses.length - refused.length;
    }),
  );
  assert.deepEqual(granted, [25, 25, 25, 25]);
});

test('device, user, app and organisation: all spend or none', async () => {
  const first = newIdentity();
  const organisation = first['x-organisation'];
  await define('organisation/ai', 'organisation', 'ai', 2, '1 h', organisation);
  const second = newIdentity({ organisation });
  assert.equal((await to(api, APIS[3][3], first)).status, 200);
  const granted = await to(api, APIS[3][3], second);
  // the limit with the least remaining is the one that is told
  assert.match(granted.headers.ratelimit, /^"organisation\/ai";r=0;/);
  assertRefused(await to(api, APIS[3][3], second), 'organisation/ai', 2, 3600);
  assert.equal(await used('user', second['x-user'], 'ai'), 1);
  assert.equal(await used('organisation', organisation, 'ai'), 2);
});

test('a request is one statement, in no transaction', { skip: !process.env.PGLOG && 'PGLOG is not set' }, async () => {
  const statements = () =>
    readFileSync(process.env.PGLOG, 'utf8')
      .split('\n')
      .filter((line) => /\] api LOG: {2}(statement|execute)/.test(line));
  const earlier = statements().length;
  for (let i = 0; i < 3; i++) {
    await to(api, APIS[0][3], newIdentity());
  }
  const added = statements().slice(earlier);
  assert.equal(added.length, 3, added.join('\n'));
  assert.ok(added.every((line) => line.includes('fl_rate_try_all(')), added.join('\n'));
});

test('a loop of 500 is 500 requests, a bulk commit of 500 entries is one', async () => {
  const identity = newIdentity();
  const user = identity['x-user'];
  await define('fliplet/data-sources', 'user', 'data-sources', 600, '1 h', user);

  const entries = Array.from({ length: 500 }, (_, i) => ({ name: `entry ${i}` }));
  const bulk = await send(api, 'POST', '/v1/data-sources/bulk/commit', identity, { append: entries });
  assert.deepEqual([bulk.status, bulk.json], [200, { entries: 500 }]);
  assert.equal(await used('user', user, 'data-sources'), 1);

  const todo = [...entries];
  await Promise.all(
    Array.from({ length: 4 }, async () => {
      let data;
      while ((data = todo.pop())) {
        const one = await send(api, 'POST', '/v1/data-sources/loop/data', identity, { data });
        assert.equal(one.status, 200);
      }
    }),
  );
  assert.equal(await used('user', user, 'data-sources'), 501);
});

test('a limit that allows none: no date, and no Retry-After', async () => {
  const identity = newIdentity();
  await define('fliplet/ai', 'user', 'ai', 0, null, identity['x-user']);
  const response = await to(api, APIS[3][3], identity);
  assert.equal(response.status, 429);
  assert.equal(response.json.nextValidRequestDate, null);
  assert.equal(response.headers['retry-after'], undefined);
});

test('throttled requests are all served, late', async () => {
  const identity = newIdentity();
  const user = identity['x-user'];
  await define('fliplet/communicate', 'user', 'communicate', 1, '300 ms', user, 'delay', '1 min');
  const responses = await Promise.all([0, 1, 2].map(() => to(narrow, APIS[1][3], identity)));
  assert.deepEqual(responses.map(({ status }) => status), [200, 200, 200]);
  const { rows } = await pool.query('SELECT delayed::integer FROM fl_rate_counters WHERE key = $1', [user]);
  assert.deepEqual(rows, [{ delayed: 2 }]);
});

test('a throttled request holds no connection, not even of a pool of one', async () => {
  const slow = newIdentity();
  const user = slow['x-user'];
  await define('fliplet/communicate', 'user', 'communicate', 1, '1 h', user, 'delay', '1 day');
  assert.equal((await to(narrow, APIS[1][3], slow)).status, 200);

  const client = new AbortController();
  let answered = false;
  const held = fetch(narrow.url + APIS[1][3][1], {
    method: 'POST',
    headers: { ...slow, 'content-type': 'application/json' },
    body: '{"to": "a", "text": "held"}',
    signal: client.signal,
  });
  held.then(() => { answered = true; }, () => {});

  // the database has answered it, and has nothing more to do
  await eventually(async () => {
    const { rows } = await pool.query('SELECT delayed::integer FROM fl_rate_counters WHERE key = $1', [user]);
    return rows[0].delayed === 1;
  });
  await eventually(async () => {
    const { rows } = await pool.query("SELECT state FROM pg_stat_activity WHERE application_name = 'narrow'");
    return rows.length === 1 && rows[0].state === 'idle';
  });
  const response = await to(narrow, APIS[1][3], newIdentity());
  assert.equal(response.status, 200);
  assert.equal(answered, false);
  client.abort();
  await assert.rejects(held, { name: 'AbortError' });
});

test('a request without an identity is nobody\'s: 401 on every route', async () => {
  for (const route of ROUTES) {
    for (const missing of Object.keys(newIdentity())) {
      for (const nothing of [undefined, '', ' ']) {
        const identity = newIdentity();
        if (nothing === undefined) {
          delete identity[missing];
        } else {
          identity[missing] = nothing;
        }
        const response = await to(api, route, identity);
        assert.equal(response.status, 401, `${route[1]} without ${missing}`);
        assert.equal(response.headers['www-authenticate'], 'Bearer');
        assert.deepEqual(Object.keys(response.json), ['message']);
        assert.equal(response.headers.ratelimit, undefined);
      }
    }
  }
});

test('an identity that is no id is 400, and spends nothing', async () => {
  const bad = [
    '*', '-', 'a b', 'a,b', 'a"b', 'a\\b', '{a}', 'é', '\u00ff\u00fe', '%00', 'null\tnull',
    "'; DROP TABLE fl_rate_limit; --", '1 OR 1=1', "x' UNION SELECT secret FROM fl_rate_secret --",
    '$1', '{"a","b"}', 'a'.repeat(65), 'a'.repeat(8000), ['a', 'b'],
  ];
  const limits = async () => (await pool.query('SELECT count(*) FROM fl_rate_limit')).rows[0].count;
  const counters = async () => (await pool.query('SELECT count(*) FROM fl_rate_counters')).rows[0].count;
  const earlier = [await limits(), await counters()];
  for (const [method, target] of [ROUTES[0], ROUTES[1]]) {
    for (const value of bad) {
      for (const name of Object.keys(newIdentity())) {
        const status = await statusOf(api, method, target, { ...newIdentity(), [name]: value });
        assert.equal(status, 400, `${name}: ${value}`);
      }
    }
  }
  assert.deepEqual([await limits(), await counters()], earlier);
});

test('what is no HTTP does not reach the application: 400, 431', async () => {
  const { hostname, port } = new URL(api.url);
  for (const [field, status] of [
    ['X-User: a\0b', 400],
    ['X-User a', 400],
    [`X-User: ${'a'.repeat(20000)}`, 431],
  ]) {
    const socket = net.connect(port, hostname).setEncoding('latin1');
    let answer = '';
    socket.on('data', (text) => { answer += text; });
    socket.write(`GET /v1/audit-logs HTTP/1.1\r\nHost: a\r\n${field}\r\n\r\n`);
    await once(socket, 'close');
    assert.match(answer, new RegExp(`^HTTP/1.1 ${status} `));
  }
});

test('the longest id is an id', async () => {
  const id = 'a'.repeat(64);
  const identity = newIdentity({ device: id, user: id, app: id, organisation: id });
  assert.equal((await to(api, APIS[0][3], identity)).status, 200);
});

test('unknown paths are 404, with an identity and without', async () => {
  for (const [method, target] of [
    ['GET', '/'],
    ['GET', '/v1'],
    ['GET', '/v1/data-sources'],
    ['GET', '/v1/unknown'],
    ['GET', '//v1/audit-logs'],
    ['GET', '/v1%2faudit-logs'],
    ['DELETE', '/v1/data-sources/1/data'],
    ['GET', '/js/data-sources/find'],
    ['POST', '/js/data-sources/constructor'],
  ]) {
    for (const identity of [newIdentity(), {}]) {
      const response = await send(api, method, target, identity);
      assert.deepEqual([response.status, response.json], [404, { message: 'not found' }], target);
    }
  }
});

test('no way around a counter by spelling a path differently', async () => {
  const identity = newIdentity();
  const spellings = [
    '/v1/audit-logs', '/v1/audit-logs/', '/V1/Audit-Logs', '/v1/audit-logs?a=b', '/v1/audit%2dlogs',
  ];
  for (const target of spellings) {
    assert.ok([200, 404].includes((await send(api, 'GET', target, identity)).status));
  }
  const head = await statusOf(api, 'HEAD', '/v1/audit-logs', identity);
  assert.equal(head, 200);
  // all but the last, which is another path
  assert.equal(await used('user', identity['x-user'], 'audit-logs'), 5);
});

test('a request that makes no sense is 400 or 413, never 500, and was a request', async () => {
  const identity = newIdentity();
  const post = async (target, body, type = 'application/json') => {
    const response = await fetch(api.url + target, {
      method: 'POST',
      headers: { ...identity, 'content-type': type },
      body,
    });
    assert.deepEqual(Object.keys(await response.json()), ['message']);
    return response.status;
  };
  const commit = '/v1/data-sources/1/commit';
  const requests = [
    [commit, '{', 400],
    [commit, 'null', 400],
    [commit, '{}', 400],
    [commit, '{"append": {"length": 1}}', 400],
    [commit, '{"append": [1]}', 400],
    [commit, '{"append": [[]]}', 400],
    [commit, '{"append": [null]}', 400],
    [commit, `{"append": [${Array(10001).fill('{}')}]}`, 400],
    [commit, JSON.stringify({ append: [{ a: 'a'.repeat(2 ** 20) }] }), 413],
    [commit, '{"append": []}', 400, 'text/plain'],
    [commit, '{"append": []}', 415, 'application/json; charset=none'],
    ['/v1/data-sources/%20/commit', '{"append": []}', 400],
    ['/js/data-sources/commit', '{"append": []}', 400],
    ['/js/data-sources/commit', '{"id": {"toString": 1}, "append": []}', 400],
    ['/js/data-sources/find', '[]', 400],
  ];
  for (const [target, body, status, type] of requests) {
    assert.equal(await post(target, body, type), status, `${target} ${body.slice(0, 80)}`);
  }
  assert.equal(await used('user', identity['x-user'], 'data-sources'), requests.length);
  // what cannot be decoded has no route, so nobody asks for anything
  assert.equal(await post('/v1/data-sources/%ff/commit', '{}'), 400);
  assert.equal(await post('/v1/ai/completions', '{"prompt": 1}'), 400);
  assert.equal(await post('/v1/communicate/messages', '{"to": "a"}'), 400);
});

test('organisations do not see each other\'s data', async () => {
  const [a, b] = [newIdentity(), newIdentity()];
  const target = '/v1/data-sources/mine/data';
  await send(api, 'POST', target, a, { data: { secret: true } });
  assert.deepEqual((await send(api, 'GET', target, a)).json, { entries: [{ secret: true }] });
  assert.deepEqual((await send(api, 'GET', target, b)).json, { entries: [] });
  assert.equal((await send(api, 'GET', '/v1/audit-logs', a)).json.log.length, 1);
  assert.equal((await send(api, 'GET', '/v1/audit-logs', b)).json.log.length, 0);
});

test('the statement in README.md, for a caller without the client, says the same', async () => {
  const readme = readFileSync(path.join(__dirname, '..', 'README.md'), 'utf8');
  const sql = /^```sql\n(.*?)^```$/ms.exec(readme)[1];
  const identity = newIdentity();
  const keys = Object.values(identity);
  await define('fliplet/ai', 'user', 'ai', 2, '1 h', identity['x-user']);

  const response = await to(api, APIS[3][3], identity);
  assert.match(response.headers.ratelimit, /^"fliplet\/ai";r=1;t=\d+$/);
  const values = [['device', 'user', 'app', 'organisation'], keys, 'ai'];
  const granted = (await pool.query(sql, values)).rows[0];
  assert.equal(granted.verdict.allowed, true);
  assert.equal(granted.verdict.remaining, 0);
  assert.equal(granted.verdict.delayMs, 0);
  assert.match(granted.headers.RateLimit, /^"fliplet\/ai";r=0;t=\d+$/);
  assert.equal(granted.body, null);

  const refused = (await pool.query(sql, values)).rows[0];
  const same = await to(api, APIS[3][3], identity);
  assert.equal(refused.verdict.allowed, false);
  assert.deepEqual(refused.body, same.json);
  assert.equal(refused.headers['RateLimit-Policy'], same.headers['ratelimit-policy']);
});
