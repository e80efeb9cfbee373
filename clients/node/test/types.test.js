/*
 * types.test.js: the type declarations compile, and catch mistakes
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 */
'use strict';

const assert = require('node:assert/strict');
const { spawnSync } = require('node:child_process');
const path = require('node:path');
const { test } = require('node:test');

test('index.d.ts compiles under strict, for both kinds of modules', () => {
  const tsc = path.join(path.dirname(require.resolve('typescript/package.json')), 'bin', 'tsc');
  const usage = path.join(__dirname, 'types', 'usage.ts');
  const options = ['--noEmit', '--strict', '--esModuleInterop', '--module', 'node16', '--target', 'es2022', '--types', 'node'];
  const { status, stdout } = spawnSync(process.execPath, [tsc, ...options, usage], { encoding: 'utf8' });
  assert.equal(status, 0, stdout);
});
