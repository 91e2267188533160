-- Each thread is one client: it sends the cookie that it was given, and names the server that it must get.
-- Arguments: cookie and server of each thread, and then, if there is one more, the value of Connection.
local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("number", threads)
end

function init(arguments)
  wrk.headers["Cookie"] = arguments[2 * number - 1]
  wrk.headers["X-Server"] = arguments[2 * number]
  if #arguments % 2 == 1 then
    wrk.headers["Connection"] = arguments[#arguments]
  end
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"bytes":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d,"status":%d}\n',
    summary.requests, summary.bytes, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect, errors.read, errors.write, errors.timeout, errors.status))
end
