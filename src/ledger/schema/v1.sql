-- Repeated texts stand once. A row is never changed but for `seen`, the last day (days since 1970, UTC) of a call that
-- refers to it; rows that no call refers to any more are removed. Equal rows may exist twice.
CREATE TABLE callers (
  id INTEGER PRIMARY KEY,
  seen INTEGER NOT NULL,
  key TEXT, key_name TEXT, team TEXT, env TEXT, client TEXT, labels TEXT, account TEXT
) STRICT;

CREATE TABLE targets (
  id INTEGER PRIMARY KEY,
  seen INTEGER NOT NULL,
  way TEXT NOT NULL, provider TEXT NOT NULL, operation TEXT NOT NULL, protocol TEXT NOT NULL,
  model TEXT, request_model TEXT, response_model TEXT, priced_model TEXT, service_tier TEXT
) STRICT;

CREATE TABLE results (
  id INTEGER PRIMARY KEY,
  seen INTEGER NOT NULL,
  status INTEGER, outcome TEXT NOT NULL, fault TEXT NOT NULL, retryable INTEGER NOT NULL, first_fix TEXT,
  error_type TEXT, error_code TEXT, stream INTEGER NOT NULL, end TEXT NOT NULL,
  usage_source TEXT NOT NULL, unpriced_reason TEXT, cost_stated INTEGER NOT NULL, partly_priced INTEGER NOT NULL,
  findings TEXT
) STRICT;

-- One row a call, in the order in which the calls ended. What is summed up comes first.
CREATE TABLE calls (
  id INTEGER PRIMARY KEY,
  -- Start of the call, milliseconds since 1970, UTC.
  time INTEGER NOT NULL,
  caller INTEGER NOT NULL, target INTEGER NOT NULL, result INTEGER NOT NULL,
  input_tokens INTEGER, output_tokens INTEGER,
  -- Spend is exact: whole nano-dollars, and the rest in femto-dollars (0 to 999,999). Both may be summed by SQL.
  cost_nano INTEGER, cost_femto INTEGER,
  unpriced_tokens INTEGER NOT NULL, retry_count INTEGER NOT NULL,
  duration_us INTEGER NOT NULL,
  cache_read_tokens INTEGER, cache_write_tokens INTEGER, reasoning_tokens INTEGER,
  first_token_us INTEGER, connect_us INTEGER, overhead_us INTEGER NOT NULL,
  request_bytes INTEGER NOT NULL, response_bytes INTEGER NOT NULL,
  call_id BLOB NOT NULL, trace_id BLOB, span_id BLOB, parent_span_id BLOB,
  provider_request_id TEXT,
  -- The other parts of `usage`, as a JSON object.
  more_usage TEXT
) STRICT;

CREATE INDEX calls_by_time ON calls (time);

-- For people: `SELECT * FROM records ORDER BY time DESC LIMIT 10`. Field names are those of docs/call-record.md.
CREATE VIEW records AS
SELECT
  strftime('%Y-%m-%dT%H:%M:%fZ', c.time / 1000.0, 'unixepoch') AS time,
  lower(hex(c.call_id)) AS call_id, lower(hex(c.trace_id)) AS trace_id, lower(hex(c.span_id)) AS span_id,
  lower(hex(c.parent_span_id)) AS parent_span_id,
  t.way, t.provider, t.operation, t.protocol, t.model, t.request_model, t.response_model, t.priced_model,
  a.key, a.key_name, a.team, a.env, a.client, a.labels, a.account,
  r.status, r.outcome, r.fault, r.retryable, r.first_fix, r.error_type, r.error_code, c.provider_request_id,
  r.stream, r.end,
  c.input_tokens, c.output_tokens, c.cache_read_tokens, c.cache_write_tokens, c.reasoning_tokens, c.more_usage,
  r.usage_source, c.cost_nano / 1e9 + c.cost_femto / 1e15 AS cost_usd, c.cost_nano, c.cost_femto,
  r.cost_stated, r.unpriced_reason, r.partly_priced, c.unpriced_tokens, t.service_tier,
  c.duration_us / 1e6 AS duration_seconds, c.first_token_us / 1e6 AS time_to_first_token_seconds,
  c.connect_us / 1e6 AS upstream_connect_seconds, c.overhead_us / 1e6 AS overhead_seconds,
  c.request_bytes, c.response_bytes, c.retry_count, r.findings
FROM calls c JOIN callers a ON a.id = c.caller JOIN targets t ON t.id = c.target JOIN results r ON r.id = c.result;
