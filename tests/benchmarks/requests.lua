-- Goes round in the requests of a file, which stand there as they go over the wire, with "\n\0\n" between them.
local requests, count, at = {}, 0, 0

function init(args)
  local file = assert(io.open(args[1], "rb"))
  local text = file:read("*a") .. "\n\0\n"
  file:close()
  local from = 1
  while from <= #text do
    local first, last = text:find("\n\0\n", from, true)
    count = count + 1
    requests[count] = text:sub(from, first - 1)
    from = last + 1
  end
end

function request()
  at = at % count + 1
  return requests[at]
end
