#!lua name=hashweir_1
-- The only writer of shards and sets, for Redis >= 7.0 and Valkey. Layout version 1 (`shards/layout.py`).
--
-- Keys of shard n share the hash tag {prefix:n}, so that a cluster keeps them together:
--   :head          hash: layout, epoch, seq, total, entries, n:<kind> (slots in use)
--   :c:<kind>:<i>  chunk i: 1023 slots of 64 bytes     :s:<kind>:<i>  their side records, 40 bytes each
--   :sums:<kind>   8 bytes per chunk                   :d:<b>         dedupe bucket: id prefix -> place
--   :names         item -> name over 18 bytes          :op:<id>       the answer to an operation's part
--   :changes       stream: one record per part, under epoch-seq of its last change; a record is the time in ms (8
--                  bytes) and for each change kind from 0, slot u32, slot and side record as they are then
-- Keys of the sets share {prefix:sets}: :head, :sets, :batches, :op:<id>, :changes.
--
-- Chunks, sums, buckets and names are not declared but computed from the head's key, because which ones a part
-- touches is known only here. Nothing is written before all of a part was checked.
-- Long because a server loads a library as one text.

local call, sub, byte, char, floor, pack, take

local KINDS = {'pdq', 'tlsh', 'sha256', 'md5', 'text'}
local ID_AT = {32, 35, 32, 32, 32}     -- where a slot holds its entry id, from 0
local STATE_AT = {60, 62, 60, 60, 60}  -- where it holds its state
local LAYOUT, RETIRED = '1', 3
local ADD, WITHDRAW = 65, 87           -- letters A and W
local SLOT, SIDE, SLOTS, BUCKET = 64, 40, 1023, 64
local MODULUS = 2 ^ 52

local function no(reason, words)
  return redis.error_reply('HASHWEIR ' .. reason .. ' ' .. words)
end

local function u64(n)
  return pack('>I4I4', floor(n / 4294967296), n % 4294967296)
end

-- A slot's share of its chunk's sum, from its number (4 bytes), image and side record: the first 52 bits of a SHA-1,
-- exact in a double, also while two of them are added.
local function sum_of(numbered)
  return tonumber(sub(redis.sha1hex(numbered), 1, 13), 16)
end

-- Add to one chunk's sum; gives the shard's total with the same added.
local function add_to_sum(sums, chunk, difference, total)
  local was, hi, lo = call('GETRANGE', sums, chunk * 8, chunk * 8 + 7), 0, 0
  if was ~= '' then hi, lo = take('>I4I4', was) end
  call('SETRANGE', sums, chunk * 8, u64((hi * 4294967296 + lo + difference) % MODULUS))
  return (total + difference) % MODULUS
end

-- Dedupe is linear hashing: as many buckets as keep the mean at 64 fields or less, so that every one stays a
-- compact listpack; bucket n is split off when the shard grows into it, 64 adds apart.
local function power_below(n)
  local p = 1
  while p * 2 <= n do p = p * 2 end
  return p
end

local function bucket_of(id, n, p)
  local h = take('>I4', id)
  local b = h % (2 * p)
  return b < n and b or h % p
end

local function split(prefix, n)
  local p = power_below(n)
  local old, new = prefix .. 'd:' .. (n - p), prefix .. 'd:' .. n
  local fields, put, del = call('HGETALL', old), {}, {}
  for i = 1, #fields, 2 do
    if take('>I4', fields[i]) % (2 * p) == n then
      put[#put + 1], put[#put + 2], del[#del + 1] = fields[i], fields[i + 1], fields[i]
    end
  end
  for i = 1, #del, 256 do  -- in runs: unpack has a limit
    call('HSET', new, unpack(put, 2 * i - 1, math.min(2 * i + 510, #put)))
    call('HDEL', old, unpack(del, i, math.min(i + 255, #del)))
  end
end

local function buckets(entries)
  return math.max(1, math.ceil(entries / BUCKET))
end

-- Where an id stands: kind, slot, slot image; or nil. A bucket's field is the first 6 bytes of the id; an id that
-- meets another one there goes under all its 16 bytes.
local function look(prefix, bucket, id)
  for _, field in ipairs({sub(id, 1, 6), id}) do
    local place = call('HGET', bucket, field)
    if not place then return nil end
    local kind, slot = place % 8, floor(place / 8)
    local at = (slot % SLOTS) * SLOT
    local image = call('GETRANGE', prefix .. 'c:' .. KINDS[kind] .. ':' .. floor(slot / SLOTS), at, at + SLOT - 1)
    if sub(image, ID_AT[kind] + 1, ID_AT[kind] + 16) == id then return kind, slot, image end
  end
  return nil
end

-- Cut off the oldest changes. A sixteenth of a large shard stays, so that whoever follows an import into it has time.
local function trim(changes, epoch, seq, least, entries)
  local keeps = math.max(tonumber(least), floor(tonumber(entries) / 16))
  if seq > keeps then call('XTRIM', changes, 'MINID', '~', epoch .. '-' .. string.format('%d', seq - keeps)) end
end

-- What is wrong with an edit, or false. An edit is a verb (A or W) and the kind's number, a slot and a side record; of
-- a withdrawal only the entry id in its slot counts.
local function fault(verb, kind, state)
  if not KINDS[kind] then return 'unknown kind' end
  if verb == WITHDRAW then return false end
  if verb ~= ADD then return 'unknown verb' end
  return (state > 4 or state == RETIRED) and 'an addition is neither retired nor of an unknown state'
end

-- keys: head, changes, op:<operation>; args: changes to keep, answer's life in ms, principal, verbs and kinds (2 bytes
-- per edit), slots, side records, and for each long name the number of its edit and the name.
-- Answers {repeated, epoch, seq, results}; results has one letter per edit: A R W U N.
-- Runs of new slots are written with one call each and all changes go into one record: calls cost more than bytes.
local function apply(keys, args)
  local head, changes, prefix = keys[1], keys[2], sub(keys[1], 1, -5)
  local state = call('HMGET', head, 'layout', 'epoch', 'seq', 'total', 'entries')
  if not state[1] then return no('store_not_created', 'this shard does not exist') end
  if state[1] ~= LAYOUT then return no('store_layout', 'layout ' .. state[1]) end
  local verbs, slots, sides = args[4] or '', args[5] or '', args[6] or ''
  local edits = #verbs / 2
  if edits < 1 or edits > 256 then return no('operation_too_large', 'an operation holds 1 to 256 changes') end
  if edits % 1 ~= 0 or #slots ~= edits * SLOT or #sides ~= edits * SIDE then
    return no('bad_field', 'a change is 2 bytes, a slot of 64 and a side record of 40')
  end
  local ids, names = {}, {}
  for i = 1, edits do
    local verb, kind = byte(verbs, 2 * i - 1, 2 * i)
    local words = fault(verb, kind, byte(slots, (i - 1) * SLOT + 1 + (STATE_AT[kind] or 0)))
    if words then return no('bad_field', 'change ' .. i .. ': ' .. words) end
    local at = (i - 1) * SLOT + ID_AT[kind]
    ids[i] = sub(slots, at + 1, at + 16)
  end
  for i = 7, #args, 2 do
    local at = tonumber(args[i])
    if not ids[at] or not args[i + 1] then return no('bad_field', 'a name belongs to no change') end
    names[at] = args[i + 1]
  end
  local digest = sub(redis.sha1hex(verbs .. table.concat(ids)), 1, 16)
  local known = call('GET', keys[3])
  if known then
    local epoch, seq, results, of = string.match(known, '^(%d+) (%d+) (%u+) (%x+)')
    if of ~= digest then return no('store_refused', 'this operation id was used for other changes') end
    return {1, epoch, seq, results}
  end

  local epoch, seq, total, entries = state[2], tonumber(state[3]), tonumber(state[4]), tonumber(state[5])
  local counts, deltas, results = {}, {}, {}
  local n, clock = buckets(entries), call('TIME')
  local p = power_below(n)
  local record = {u64(clock[1] * 1000 + floor(clock[2] / 1000))}
  local run, run_kind, run_edit, run_slot = 0, 0, 0, 0  -- new slots in a row that are still to be written

  local function flush()
    if run == 0 then return end
    local chunk, at = KINDS[run_kind] .. ':' .. floor(run_slot / SLOTS), run_slot % SLOTS
    if at == 0 then  -- written whole at once: a string that grows is given up to twice its size
      call('SETRANGE', prefix .. 'c:' .. chunk, SLOTS * SLOT - 1, '\0')
      call('SETRANGE', prefix .. 's:' .. chunk, SLOTS * SIDE - 1, '\0')
    end
    local from, to = run_edit - 1, run_edit - 1 + run
    call('SETRANGE', prefix .. 'c:' .. chunk, at * SLOT, sub(slots, from * SLOT + 1, to * SLOT))
    call('SETRANGE', prefix .. 's:' .. chunk, at * SIDE, sub(sides, from * SIDE + 1, to * SIDE))
    run = 0
  end

  local function changed(kind, slot, numbered, before)
    seq = seq + 1
    record[#record + 1] = char(kind - 1)
    record[#record + 1] = numbered
    local key = kind * 16777216 + floor(slot / SLOTS)
    deltas[key] = ((deltas[key] or 0) + sum_of(numbered) - before) % MODULUS
  end

  for i = 1, edits do
    local verb, kind = byte(verbs, 2 * i - 1, 2 * i)
    local adds, id, result = verb == ADD, ids[i]
    local bucket = prefix .. 'd:' .. bucket_of(id, n, p)
    local count = adds and (counts[kind] or tonumber(call('HGET', head, 'n:' .. KINDS[kind]) or 0))
    local place, grows = adds and string.format('%d', count * 8 + kind), entries >= n * BUCKET
    -- Most additions are new: then one command both asks and enters. (Where a bucket has to be split off first it
    -- can't, since the number of buckets follows from the number of entries.)
    local entered = adds and not grows and call('HSETNX', bucket, sub(id, 1, 6), place) == 1
    local where, slot, old
    if not entered then
      flush()  -- it may be an entry of this very part
      where, slot, old = look(prefix, bucket, id)
    end
    if not where and not adds then
      result = 'N'
    elseif not where then
      if grows then
        split(prefix, n)
        n = n + 1
        p = power_below(n)
        bucket = prefix .. 'd:' .. bucket_of(id, n, p)
      end
      if not entered and call('HSETNX', bucket, sub(id, 1, 6), place) == 0 then call('HSET', bucket, id, place) end
      if run == 0 or kind ~= run_kind or i ~= run_edit + run or count % SLOTS == 0 then
        flush()
        run_kind, run_edit, run_slot = kind, i, count
      end
      run = run + 1
      counts[kind], entries = count + 1, entries + 1
      local image, side = sub(slots, (i - 1) * SLOT + 1, i * SLOT), sub(sides, (i - 1) * SIDE + 1, i * SIDE)
      changed(kind, count, pack('>I4', count) .. image .. side, 0)
      result = 'A'
    else
      local retired = byte(old, STATE_AT[where] + 1) == RETIRED
      if retired ~= adds or where ~= kind then
        result = 'U'
      else
        local chunk, at = KINDS[kind] .. ':' .. floor(slot / SLOTS), slot % SLOTS
        local was = call('GETRANGE', prefix .. 's:' .. chunk, at * SIDE, at * SIDE + SIDE - 1)
        local image, side = sub(old, 1, STATE_AT[kind]) .. char(RETIRED) .. sub(old, STATE_AT[kind] + 2), was
        if adds then
          image, side = sub(slots, (i - 1) * SLOT + 1, i * SLOT), sub(sides, (i - 1) * SIDE + 1, i * SIDE)
          call('SETRANGE', prefix .. 's:' .. chunk, at * SIDE, side)
        end
        call('SETRANGE', prefix .. 'c:' .. chunk, at * SLOT, image)
        local number = pack('>I4', slot)
        changed(kind, slot, number .. image .. side, sum_of(number .. old .. was))
        result = adds and 'R' or 'W'
      end
    end
    results[i] = result
    if names[i] and result ~= 'U' then
      local at = (i - 1) * SLOT + ID_AT[kind] + 16
      call('HSET', prefix .. 'names', sub(slots, at + 1, at + 8), names[i])
    end
  end
  flush()

  for key, difference in pairs(deltas) do
    total = add_to_sum(prefix .. 'sums:' .. KINDS[floor(key / 16777216)], key % 16777216, difference, total)
  end
  local answer, written = table.concat(results), string.format('%d', seq)
  if next(deltas) then
    call('XADD', changes, epoch .. '-' .. written, 'c', table.concat(record))
    trim(changes, epoch, seq, args[1], entries)
    call('HSET', head, 'seq', written, 'total', string.format('%.0f', total), 'entries', entries)
    for kind, count in pairs(counts) do call('HSET', head, 'n:' .. KINDS[kind], count) end
  end
  call('SET', keys[3], table.concat({epoch, written, answer, digest, args[3]}, ' '), 'PX', args[2])
  return {0, epoch, written, answer}
end

-- keys: head; args: entry ids (16 bytes). Answers slot * 8 + kind number for each, or -1.
local function find(keys, args)
  local layout, entries = unpack(call('HMGET', keys[1], 'layout', 'entries'))
  if not layout then return no('store_not_created', 'this shard does not exist') end
  local n, prefix, places = buckets(tonumber(entries)), sub(keys[1], 1, -5), {}
  local p = power_below(n)
  for i, id in ipairs(args) do
    local kind, slot = look(prefix, prefix .. 'd:' .. bucket_of(id, n, p), id)
    places[i] = kind and slot * 8 + kind or -1
  end
  return places
end

-- keys: head; args: kind, first chunk, number of chunks. Answers for each that is in use the SHA-1 of its slots and the
-- SHA-1 of its side records, one behind the other. A string that is gone or cut short has the digest of what is left.
local function digests(keys, args)
  local layout, used = unpack(call('HMGET', keys[1], 'layout', 'n:' .. args[1]))
  if not layout then return no('store_not_created', 'this shard does not exist') end
  local prefix, first, found = sub(keys[1], 1, -5), tonumber(args[2]), {}
  for n = first, math.min(first + args[3], math.ceil((used or 0) / SLOTS)) - 1 do
    local count = math.min(SLOTS, used - n * SLOTS)
    local name = ':' .. args[1] .. ':' .. n
    found[#found + 1] = redis.sha1hex(call('GETRANGE', prefix .. 'c' .. name, 0, count * SLOT - 1))
      .. redis.sha1hex(call('GETRANGE', prefix .. 's' .. name, 0, count * SIDE - 1))
  end
  return found
end

-- keys: sets' head; args: epoch, number of shards. The first caller settles the number of shards; answers it and
-- 1 where the deployment is complete. A creation that was cut short is completed by the next one.
local function claim(keys, args)
  local layout, shards, ready = unpack(call('HMGET', keys[1], 'layout', 'shards', 'ready'))
  if layout and layout ~= LAYOUT then return no('store_layout', 'layout ' .. layout) end
  if layout then return {tonumber(shards), tonumber(ready)} end
  call('HSET', keys[1], 'layout', LAYOUT, 'epoch', args[1], 'seq', 0, 'shards', args[2], 'ready', 0, 'numbers', 0)
  return {tonumber(args[2]), 0}
end

-- keys: a shard's head, changes; args: epoch. Never touches a shard that exists, nor what is left of one.
local function create_shard(keys, args)
  if call('EXISTS', keys[1]) == 1 then return 0 end
  if call('EXISTS', keys[2]) == 1 then return no('store_refused', 'changes of a lost shard are in the way') end
  call('HSET', keys[1], 'layout', LAYOUT, 'epoch', args[1], 'seq', 0, 'total', 0, 'entries', 0)
  return 1
end

-- keys: sets' head. Says that every shard exists.
local function complete(keys)
  return call('HSET', keys[1], 'ready', 1)
end

-- keys: head, changes (a shard's, or those of the sets); args: the epoch that is to end, the new one. What the stream
-- held belongs to the old one. The new stream begins with a record of no changes, which wakes waiting readers.
local function new_epoch(keys, args)
  local layout, epoch, seq = unpack(call('HMGET', keys[1], 'layout', 'epoch', 'seq'))
  if not layout then return no('store_not_created', 'this shard does not exist') end
  if layout ~= LAYOUT then return no('store_layout', 'layout ' .. layout) end
  if epoch == args[2] then return {epoch, seq} end
  if epoch ~= args[1] then return no('store_changed', 'somebody else gave it a new epoch meanwhile') end
  call('DEL', keys[2])
  call('HSET', keys[1], 'epoch', args[2])
  local clock = call('TIME')
  call('XADD', keys[2], args[2] .. '-' .. seq, 'c', u64(clock[1] * 1000 + floor(clock[2] / 1000)))
  return {args[2], seq}
end

-- keys: head, changes; args: changes to keep, kind number, chunk, SHA-1 of the slots and side records as they were
-- seen; then, to put them right, slots and side records that give the sum kept. Without these the chunk is accepted as
-- it is: its slots are told as changes and the sums made anew. Answers {epoch, seq}.
local function mend(keys, args)
  local head, changes, prefix = keys[1], keys[2], sub(keys[1], 1, -5)
  local kind, chunk = tonumber(args[2]), tonumber(args[3])
  local layout, epoch, seq, count = unpack(call('HMGET', head, 'layout', 'epoch', 'seq', 'n:' .. (KINDS[kind] or '')))
  if not layout then return no('store_not_created', 'this shard does not exist') end
  if layout ~= LAYOUT then return no('store_layout', 'layout ' .. layout) end
  local used = math.min(SLOTS, tonumber(count or 0) - chunk * SLOTS)
  if used < 1 then return no('bad_field', 'there is no such chunk') end
  local c = prefix .. 'c:' .. KINDS[kind] .. ':' .. chunk
  local s = prefix .. 's:' .. KINDS[kind] .. ':' .. chunk
  local slots, sides = call('GETRANGE', c, 0, used * SLOT - 1), call('GETRANGE', s, 0, used * SIDE - 1)
  if redis.sha1hex(slots .. sides) ~= args[4] then return no('store_changed', 'the chunk was changed meanwhile') end
  local accepts = not args[5]
  if not accepts then slots, sides = args[5], args[6] or '' end
  if #slots ~= used * SLOT or #sides ~= used * SIDE then
    return no('bad_field', 'these are not the slots and side records of ' .. used .. ' entries')
  end
  local record, sum = {}, 0
  for i = 0, used - 1 do
    local numbered = pack('>I4', chunk * SLOTS + i)
      .. sub(slots, i * SLOT + 1, i * SLOT + SLOT) .. sub(sides, i * SIDE + 1, i * SIDE + SIDE)
    sum = (sum + sum_of(numbered)) % MODULUS
    record[2 * i + 2], record[2 * i + 3] = char(kind - 1), numbered
  end
  local sums = prefix .. 'sums:' .. KINDS[kind]
  if not accepts then
    local hi, lo = take('>I4I4', call('GETRANGE', sums, chunk * 8, chunk * 8 + 7))
    if sum ~= hi * 4294967296 + lo then return no('bad_field', 'this does not give the sum that is kept') end
    call('SETRANGE', c, 0, slots)
    call('SETRANGE', s, 0, sides)
    return {epoch, seq}
  end
  call('SETRANGE', sums, chunk * 8, u64(sum))
  local total = 0  -- made anew too: the sum that was kept may be what was damaged
  for _, name in ipairs(KINDS) do
    local all = call('GET', prefix .. 'sums:' .. name) or ''
    for at = 1, #all, 8 do
      local hi, lo = take('>I4I4', all, at)
      total = (total + hi * 4294967296 + lo) % MODULUS
    end
  end
  local clock = call('TIME')
  record[1] = u64(clock[1] * 1000 + floor(clock[2] / 1000))
  local written = string.format('%d', seq + used)
  call('XADD', changes, epoch .. '-' .. written, 'c', table.concat(record))
  trim(changes, epoch, seq + used, args[1], call('HGET', head, 'entries') or 0)
  call('HSET', head, 'seq', written, 'total', string.format('%.0f', total))
  return {epoch, written}
end

-- keys: sets' head, changes, sets, op:<operation>; args: stream length, answer's life in ms, name, expected
-- version, policy. Stores and answers "<number> <version> <policy>"; the version is the sequence of the change.
local function put_set(keys, args)
  local head, changes, sets, op = unpack(keys)
  local layout, epoch, seq, numbers = unpack(call('HMGET', head, 'layout', 'epoch', 'seq', 'numbers'))
  if not layout then return no('store_not_created', 'there are no sets') end
  if layout ~= LAYOUT then return no('store_layout', 'layout ' .. layout) end
  local name, expected, policy = args[3], args[4], args[5]
  local digest = redis.sha1hex(expected .. ' ' .. policy)
  local known = call('GET', op)
  if known then
    if sub(known, 1, 40) ~= digest then return no('store_refused', 'this operation id was used for another change') end
    return sub(known, 42)
  end
  local now = call('HGET', sets, name)
  local number, version = string.match(now or '', '^(%d+) (%d+) ')
  if expected == '0' and now then return no('set_exists', name) end
  if expected ~= '0' and not now then return no('set_not_found', name) end
  if now and version ~= expected then return no('set_changed', name .. ' is at version ' .. version) end
  if not now then
    if tonumber(numbers) >= 16777215 then return no('store_refused', 'no set numbers are left') end
    number = call('HINCRBY', head, 'numbers', 1)
  end
  local value = number .. ' ' .. string.format('%d', seq + 1) .. ' ' .. policy
  call('HINCRBY', head, 'seq', 1)
  call('HSET', sets, name, value)
  call('XADD', changes, 'MAXLEN', '~', args[1], epoch .. '-' .. string.format('%d', seq + 1), 's', value)
  call('SET', op, digest .. ' ' .. value, 'PX', args[2])
  return value
end

-- keys: sets' head, batches; args: id, batch. The id is derived from the batch, so the first one stays.
local function put_batch(keys, args)
  if call('EXISTS', keys[1]) == 0 then return no('store_not_created', 'there are no sets') end
  return call('HSETNX', keys[2], args[1], args[2])
end

-- No global but register_function exists while a library loads, so the short names are filled in by the first call.
local function ready(f)
  return function(keys, args)
    if not call then
      call, sub, byte, char = redis.call, string.sub, string.byte, string.char
      floor, pack, take = math.floor, struct.pack, struct.unpack
    end
    return f(keys, args)
  end
end

redis.register_function{function_name='hashweir_1_find', callback=ready(find), flags={'no-writes'}}
redis.register_function{function_name='hashweir_1_digests', callback=ready(digests), flags={'no-writes'}}
redis.register_function('hashweir_1_apply', ready(apply))
redis.register_function('hashweir_1_claim', ready(claim))
redis.register_function('hashweir_1_create_shard', ready(create_shard))
redis.register_function('hashweir_1_complete', ready(complete))

-- These run in a store that has reached its `maxmemory`, too: what is wrong must be undone at any time. Callers send
-- withdrawals alone by the first.
redis.register_function{function_name='hashweir_1_withdraw', callback=ready(apply), flags={'allow-oom'}}
redis.register_function{function_name='hashweir_1_new_epoch', callback=ready(new_epoch), flags={'allow-oom'}}
redis.register_function{function_name='hashweir_1_mend', callback=ready(mend), flags={'allow-oom'}}
redis.register_function{function_name='hashweir_1_put_set', callback=ready(put_set), flags={'allow-oom'}}
redis.register_function{function_name='hashweir_1_put_batch', callback=ready(put_batch), flags={'allow-oom'}}
