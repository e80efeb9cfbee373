-- Every encoding of a database: keys are bytes, names ASCII.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_fl_encoded;
SELECT current_database() AS home \gset
\pset format unaligned
\pset tuples_only on

-- One byte a character
CREATE DATABASE regress_fl_encoded TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C';
\c regress_fl_encoded
SET client_encoding = 'UTF8';
CREATE EXTENSION fliplet_ratelimit;
SELECT fl_rate_check('user', repeat('é', 80), 'ai'), fl_rate_check('user', repeat('é', 80), 'ai'), fl_rate_check('user', repeat('é', 79) || 'è', 'ai');
SELECT octet_length(key), key = repeat('é', 64), used FROM fl_rate_counters ORDER BY used;
SELECT fl_rate_json(v) ->> 'key' = repeat('é', 3) FROM fl_rate_try('user', repeat('é', 3), 'ai') AS v;
SELECT fl_rate_check('usér', 'k', 'ai');
\set VERBOSITY terse
INSERT INTO fl_rate_limit (name, scope, api, max_requests, period) VALUES ('é', 'user', 'ai', 5, '1 min');
\set VERBOSITY default
INSERT INTO fl_rate_limit (name, scope, api, key, max_requests, period) VALUES ('e', 'user', 'ai', 'é', 5, '1 min');
SELECT v.name FROM fl_rate_try('user', 'é', 'ai') AS v;
\c :home
DROP DATABASE regress_fl_encoded;

-- Two and three bytes a character, some of which look like ASCII to the careless
CREATE DATABASE regress_fl_encoded TEMPLATE template0 ENCODING 'EUC_JP' LC_COLLATE 'C' LC_CTYPE 'C';
\c regress_fl_encoded
SET client_encoding = 'UTF8';
CREATE EXTENSION fliplet_ratelimit;
SELECT fl_rate_check('user', repeat('語', 40), 'ai'), fl_rate_check('user', 'x' || repeat('語', 40), 'ai');
SELECT octet_length(key), length(key) FROM fl_rate_counters ORDER BY 1 DESC;
SELECT fl_rate_json(v) ->> 'key' FROM fl_rate_try('user', '日本語', 'ai') AS v;
SELECT fl_rate_check('user', 'k', '日本');
INSERT INTO fl_rate_limit (name, scope, api, key, max_requests, period) VALUES ('e', 'user', 'ai', '日本語', 5, '1 min');
SELECT v.name FROM fl_rate_try('user', '日本語', 'ai') AS v;
\c :home
DROP DATABASE regress_fl_encoded;

-- No encoding at all: any bytes
CREATE DATABASE regress_fl_encoded TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C';
\c regress_fl_encoded
SET client_encoding = 'SQL_ASCII';
CREATE EXTENSION fliplet_ratelimit;
SELECT fl_rate_check('user', repeat(E'\xe9', 80), 'ai'), fl_rate_check('user', repeat(E'\xe9', 80), 'ai'), fl_rate_check('user', E'\xff\xfe', 'ai');
SELECT octet_length(key), used FROM fl_rate_counters ORDER BY 1;
SELECT fl_rate_check(E'us\xe9r', 'k', 'ai');
SELECT v.allowed, encode(v.key::bytea, 'hex') FROM fl_rate_try('user', E'\xe9', 'ai') AS v;
\c :home
DROP DATABASE regress_fl_encoded;
