-- DNSPacketOverlay
local P = ...

local core, wrong, HEADER, MAPPED, name_of, address_of =
  P.core, P.wrong, P.HEADER, P.MAPPED, P.name_of, P.address_of
local byte, sub, error, setmetatable, type = string.byte, string.sub, error, setmetatable, type

local OVERLAY, overlays = {}, {}
OVERLAY.__index = overlays
function overlays:getRecordsCountInSection(section) return self.counts[section] or 0 end
function overlays:getRecord(at)
  local record = self.records[at + 1]
  if not record then wrong("getRecord", at, "the number of a record, from 0 to " .. #self.records - 1) end
  return record
end
overlays.getDNSRecord = overlays.getRecord

function newDNSPacketOverlay(packet)
  if type(packet) ~= "string" then wrong("newDNSPacketOverlay", packet, "a string") end
  local qname, qtype, qclass = core.question(packet)
  if not qname then error("newDNSPacketOverlay: the packet has no question that can be read", 2) end
  local copy = {}
  for at = 0, 11 do copy[at] = byte(packet, at + 1) end
  local overlay = { qname = name_of(qname), qtype = qtype, qclass = qclass, dh = setmetatable(copy, HEADER),
                    counts = { [0] = 1, 0, 0, 0 }, records = {} }
  core.records(packet, function(owner, rtype, class, ttl, place, length, offset)
    overlay.counts[place] = overlay.counts[place] + 1
    overlay.records[#overlay.records + 1] = { name = name_of(owner), type = rtype, class = class, ttl = ttl,
                                              place = place, contentLength = length, contentOffset = offset }
  end)
  return setmetatable(overlay, OVERLAY)
end

local function parse_address(packet, record, rtype, length)
  if record.type ~= rtype or record.contentLength ~= length then return nil end
  local bytes = sub(packet, record.contentOffset + 1, record.contentOffset + length)
  return address_of(length == 4 and MAPPED .. bytes or bytes, 0)
end
function parseARecord(packet, record) return parse_address(packet, record, 1, 4) end
function parseAAAARecord(packet, record) return parse_address(packet, record, 28, 16) end
function parseAddressRecord(packet, record)
  return parseARecord(packet, record) or parseAAAARecord(packet, record)
end
