-- wrk counts answers that do not have the client's own address.
local threads = {}
function setup(thread) table.insert(threads, thread) end
function init(args) bad = 0; want = args[1] end
function response(status, headers, body)
	if status ~= 200 or body ~= want then bad = bad + 1; wrong = body end
end
function done(summary, latency, requests)
	local n, sample = 0, ""
	for _, t in ipairs(threads) do n = n + t:get("bad"); sample = t:get("wrong") or sample end
	local e = summary.errors
	io.write(string.format("requests %d bytes %d bad %d errors %d %s\n", summary.requests, summary.bytes, n,
		e.connect + e.read + e.write + e.status + e.timeout, sample))
end
