-- Clients of wrk that ask for the status of jobs, or submit one, and check every answer.
--
-- Each connection waits DELAY_MS before each request, so that N connections are N clients that
-- poll at a pace. IDS are the jobs that may be asked for; without them, BODY is submitted.

local ids, known = {}, {}
for id in (os.getenv("IDS") or ""):gmatch("%S+") do
  ids[#ids + 1] = id
  known[id] = true
end
local delay_ms = tonumber(os.getenv("DELAY_MS") or "0")
local clients = tonumber(os.getenv("CLIENTS"))
local app = os.getenv("APP")
local headers = {["Authorization"] = "Key " .. os.getenv("FAL_KEY")}
local threads = {}
local at = 0

function setup(thread)
  threads[#threads + 1] = thread
  thread:set("wrong", 0)
  thread:set("refused", 0)
end

function init(_)
  if #ids == 0 then
    local file = assert(io.open(os.getenv("BODY")))
    wrk.body = file:read("*a")
    file:close()
  end
end

-- Clients do not start in step: before its first request, each waits for a part of the delay.
local started = 0
if delay_ms > 0 then
  function delay()
    if started < clients then
      started = started + 1
      return math.random(0, delay_ms)
    end
    return delay_ms
  end
end

function request()
  if #ids == 0 then
    return wrk.format("POST", "/queue/" .. os.getenv("ENDPOINT"), headers)
  end
  at = at % #ids + 1
  return wrk.format("GET", "/queue/" .. app .. "/requests/" .. ids[at] .. "/status?logs=1", headers)
end

local function is_right(code, body)
  local id = body:match('"request_id":"([^"]+)"')
  if #ids == 0 then
    return code == 200 and body:find('"status":"IN_QUEUE"', 1, true) ~= nil and id ~= nil
  end
  local waits = body:find('"status":"IN_QUEUE"', 1, true) and body:find('"queue_position":%d')
  local runs = body:find('"status":"IN_PROGRESS"', 1, true)
  local url = id and "/requests/" .. id .. "/status"
  return code == 202 and known[id] == true and (waits or runs) and body:find(url, 1, true) ~= nil
end

function response(code, _, body)
  if code == 429 then
    refused = refused + 1
  elseif not is_right(code, body) then
    wrong = wrong + 1
  end
end

function done(summary, latency, _)
  local wrongs, refusals = 0, 0
  for _, thread in ipairs(threads) do
    wrongs = wrongs + thread:get("wrong")
    refusals = refusals + thread:get("refused")
  end
  local errors = summary.errors
  io.write(string.format(
    '\nRESULT {"requests": %d, "seconds": %.3f, "p50_ms": %.3f, "p99_ms": %.3f, "max_ms": %.3f, '
      .. '"socket_errors": %d, "timeouts": %d, "refused": %d, "wrong": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, latency.max / 1e3,
    errors.connect + errors.read + errors.write, errors.timeout, refusals, wrongs))
end
