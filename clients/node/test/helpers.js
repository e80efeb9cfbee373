/*
 * helpers.js: what the tests share
 *
 * The server is the one that test/run has started, named by the environment.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 */
'use strict';

const { once } = require('node:events');
const { after } = require('node:test');
const { Pool } = require('pg');

/* A pool that remembers the statements that were sent through it. */
function newPool(options = {}) {
  const pool = new Pool({ max: 8, ...options });
  const { query } = pool;
  pool.sent = [];
  pool.query = function (...args) {
    pool.sent.push(args[0].text ?? args[0]);
    return query.apply(this, args);
  };
  // a connection that dies while nobody uses it
  pool.on('error', () => {});
  after(() => pool.end());
  return pool;
}

/* A pool whose server does not exist. */
const poolOfNobody = () => newPool({ host: '/nonexistent' });

/* Serve an Express application until the tests are over; returns its URL. */
async function serve(app) {
  const server = app.listen(0, '127.0.0.1');
  await once(server, 'listening');
  after(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${server.address().port}`;
}

/* Sleep until a date has come. */
async function until(date) {
  let left;
  while ((left = date - Date.now()) > 0) {
    await new Promise((resolve) => setTimeout(resolve, left));
  }
}

let keys = 0;
/* A key that no other test uses. */
const newKey = () => `key ${process.pid} ${++keys}`;

module.exports = { newPool, poolOfNobody, serve, until, newKey };
