-- Sends the requests of the file named in WRK_REQUESTS in turn, and prints what
-- was measured as one line of JSON.
local requests = {}
local position = 0

function init(args)
   local file = assert(io.open(os.getenv("WRK_REQUESTS"), "rb"))
   while true do
      local size = file:read("*l")
      if not size then break end
      requests[#requests + 1] = file:read(tonumber(size))
   end
   file:close()
end

function request()
   position = position % #requests + 1
   return requests[position]
end

function done(summary, latency, rates)
   local errors = summary.errors
   print(string.format(
      '{"requests": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "errors": %d}',
      summary.requests, summary.duration / 1e6,
      latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
      errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
