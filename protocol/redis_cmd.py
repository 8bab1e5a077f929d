#!/usr/bin/python3
"""Write redis_cmd_table.h: Redis's own list of commands, weir's class and risk.

    protocol/redis_cmd.py           write the table
    protocol/redis_cmd.py --check   exit 1 if the table is not what this writes

The facts (arity, key positions, flags) are the COMMAND reply of a Redis
7.0.15, in redis_commands_7.0.15.json; the classes (how it travels) are the
lists below, and every command must be in exactly one of them; the risks (whom
it could hurt) are in RISK.
"""
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
FACTS = os.path.join(HERE, "redis_commands_7.0.15.json")
TABLE = os.path.join(HERE, "redis_cmd_table.h")

SHARED = """
append bitcount bitfield bitfield_ro bitop bitpos copy decr decrby del dump
eval eval_ro evalsha evalsha_ro exists expire expireat expiretime fcall
fcall_ro geoadd geodist geohash geopos georadius georadius_ro
georadiusbymember georadiusbymember_ro geosearch geosearchstore get getbit
getdel getex getrange getset hdel hexists hget hgetall hincrby hincrbyfloat
hkeys hlen hmget hmset hrandfield hscan hset hsetnx hstrlen hvals incr incrby
incrbyfloat lcs lindex linsert llen lmove lmpop lpop lpos lpush lpushx lrange
lrem lset ltrim mget mset msetnx object persist pexpire pexpireat pexpiretime
pfadd pfcount pfmerge psetex pttl publish rename renamenx restore rpop
rpoplpush rpush rpushx sadd scard sdiff sdiffstore set setbit setex setnx
setrange sinter sintercard sinterstore sismember smembers smismember smove
sort sort_ro spop spublish srandmember srem sscan strlen substr sunion
sunionstore time touch ttl type unlink xack xadd xautoclaim xclaim xdel xgroup
xinfo xlen xpending xrange xrevrange xsetid xtrim zadd zcard zcount zdiff
zdiffstore zincrby zinter zintercard zinterstore zlexcount zmpop zmscore
zpopmax zpopmin zrandmember zrange zrangebylex zrangebyscore zrangestore zrank
zrem zremrangebylex zremrangebyrank zremrangebyscore zrevrange zrevrangebylex
zrevrangebyscore zrevrank zscan zscore zunion zunionstore
""".split()

# Shared unless they are asked to wait.
BLOCKS = "xread xreadgroup".split()

LOCAL = """
asking auth client command echo hello info ping quit readonly readwrite reset
role select subscribe psubscribe ssubscribe unsubscribe punsubscribe
sunsubscribe
""".split()

DEDICATED = """
multi exec discard watch unwatch blpop brpop brpoplpush blmove blmpop bzpopmin
bzpopmax bzmpop monitor wait
""".split()

# What no profile can carry: it turns the connection into something else.
REFUSED = "psync replconf sync".split()

# Shared as to how they travel, but see RISK.
GUARDED = """
acl bgrewriteaof bgsave cluster config dbsize debug failover flushall flushdb
function keys lastsave latency lolwut memory migrate module move pfdebug
pfselftest pubsub randomkey replicaof restore-asking save scan script shutdown
slaveof slowlog swapdb
""".split()

# What takes the longer, or says the more, the more is stored: in no proportion
# to the request.  Scripts may do anything.
HEAVY = """
bitcount bitop bitpos dump eval eval_ro evalsha evalsha_ro fcall fcall_ro flushall
flushdb georadius georadius_ro georadiusbymember georadiusbymember_ro geosearch
geosearchstore hgetall hkeys hvals keys lcs lpos lrange lrem sdiff sdiffstore
sinter sintercard sinterstore smembers sort sort_ro sunion sunionstore xrange xread
xreadgroup xrevrange zdiff zdiffstore zinter zintercard zinterstore zrange
zrangebylex zrangebyscore zrangestore zremrangebylex zremrangebyrank
zremrangebyscore zrevrange zrevrangebylex zrevrangebyscore zunion zunionstore
""".split()

# What a command or subcommand may do to others on the same upstream.  Profile
# `shared` refuses DANGER to everybody, PROBE to who belongs to an
# organization, HEARS to the same where others have its user upstream, OTHER_DB
# to the same where it names another database.  A
# container's is its subcommands' that are listed nowhere.
RISK = {
    "DANGER": """
        acl bgrewriteaof bgsave debug failover flushall flushdb keys latency
        memory migrate module pfdebug pfselftest replicaof restore-asking save
        shutdown slaveof slowlog swapdb
        client|pause client|unpause
        cluster|addslots cluster|addslotsrange cluster|bumpepoch
        cluster|delslots cluster|delslotsrange cluster|failover
        cluster|flushslots cluster|forget cluster|meet cluster|replicate
        cluster|reset cluster|saveconfig cluster|set-config-epoch
        cluster|setslot
        config|resetstat config|rewrite config|set
        function|delete function|flush function|kill function|load
        function|restore
        script|debug script|flush script|kill
    """.split(),
    "PROBE": """
        client|caching client|tracking dbsize function|dump function|list
        lastsave monitor move pubsub randomkey scan
    """.split(),
    "HEARS": "subscribe psubscribe ssubscribe".split(),
    "OTHER_DB": ["copy"],
    "SAFE": """
        acl|cat acl|genpass acl|help acl|whoami latency|help memory|help
        memory|usage module|help pubsub|help slowlog|help
    """.split(),
}

# Where a subcommand is not of its container's class.  Of the cluster's those
# that change nothing have one constant answer.
SUB = {
    "LOCAL": """
        acl|whoami
        cluster|count-failure-reports cluster|countkeysinslot
        cluster|getkeysinslot cluster|help cluster|info cluster|keyslot
        cluster|links cluster|myid cluster|nodes cluster|replicas
        cluster|shards cluster|slaves cluster|slots
        config|get
    """.split(),
    "DEDICATED": """
        client|caching client|pause client|tracking client|unpause
        function|kill script|kill
    """.split(),
    "REFUSED": ["script|debug"],
}

NAME, ARITY, FLAGS, FIRST, LAST, STEP = range(6)
SUBCOMMANDS = 9

BITS = 10
MASK64 = (1 << 64) - 1


def classes():
    """Name -> class; complains of a command with none or two."""
    found = {}
    for cls, names in (("SHARED", SHARED + BLOCKS + GUARDED), ("LOCAL", LOCAL),
                       ("DEDICATED", DEDICATED), ("REFUSED", REFUSED)):
        for name in names:
            if name in found:
                sys.exit(f"{name}: {found[name]} and {cls}")
            found[name] = cls
    return found


def sub_classes(facts):
    found = {}
    known = {s[NAME] for f in facts for s in f[SUBCOMMANDS]}
    for cls, names in SUB.items():
        for name in names:
            if name not in known or name in found:
                sys.exit(f"{name}: unknown, or listed twice")
            found[name] = cls
    return found


def risks(facts):
    """Name -> risk, of every command and subcommand."""
    listed = {}
    for risk, names in RISK.items():
        for name in names:
            if name in listed:
                sys.exit(f"{name}: {listed[name]} and {risk}")
            listed[name] = risk
    found = {}
    for f in facts:
        found[f[NAME]] = listed.pop(f[NAME], "SAFE")
        for s in f[SUBCOMMANDS]:
            found[s[NAME]] = listed.pop(s[NAME], found[f[NAME]])
    if listed:
        sys.exit("no such command: %s" % sorted(listed))
    return found


def word(name):
    """What redis_cmd.c:name_word() makes of it; the two must agree."""
    b, n = name.encode(), len(name)
    if n >= 8:
        head, tail = b[:8], b[-8:]
    elif n >= 4:
        head, tail = b[:4], b[-4:]
    else:
        head, tail = bytes((b[0], b[n // 2], b[-1])), b""
    return (int.from_bytes(head, "little"), int.from_bytes(tail, "little"))


def slot(name, seed):
    head, tail = word(name)
    h = (head * seed & MASK64) ^ (tail * (seed >> 7 | 1) & MASK64)
    return (h * seed & MASK64) >> (64 - BITS)


def place(names, seed):
    """Slots by linear probing; cost is how many steps all names take."""
    slots, cost = [0] * (1 << BITS), 0
    for i, name in enumerate(names):
        at = slot(name, seed)
        while slots[at]:
            at = (at + 1) % len(slots)
            cost += 1
        slots[at] = i + 1
    return cost, slots


def best_seed(names, tries=400):
    """The seed of the fewest collisions among a fixed series."""
    best, seed = None, 0x9E3779B97F4A7C15
    for _ in range(tries):
        cost, slots = place(names, seed)
        if best is None or cost < best[0]:
            best = (cost, seed, slots)
        seed = (seed * 6364136223846793005 + 1442695040888963407) & MASK64 | 1
    return best


def row(fact, cls, risk, blocks, sub_first=0):
    flag = lambda yes: "true" if yes else "false"
    subs = len(fact[SUBCOMMANDS])
    return ('\t{ "%s", %d, %d, %d, %d, %d, REDIS_%s, REDIS_%s, %s, %s, %s, %s, %d, %d },'
            % (fact[NAME], len(fact[NAME]), fact[ARITY], fact[FIRST],
               fact[LAST], fact[STEP], cls, risk, flag(blocks),
               flag(fact[NAME] in HEAVY),
               flag("write" in fact[FLAGS]), flag("no_auth" in fact[FLAGS]),
               subs, sub_first if subs else 0))


def table():
    facts = sorted(json.load(open(FACTS)))
    cls, sub_cls, risk = classes(), sub_classes(facts), risks(facts)
    names = [f[NAME] for f in facts]
    if set(names) != set(cls):
        sys.exit("not in both: %s" % sorted(set(names) ^ set(cls)))
    if set(HEAVY) - set(names):
        sys.exit("no such command: %s" % sorted(set(HEAVY) - set(names)))
    if len(names) > 255:
        sys.exit("a slot is one byte: 255 commands at most")
    rows, subs = [], []
    for f in facts:
        rows.append(row(f, cls[f[NAME]], risk[f[NAME]], f[NAME] in BLOCKS,
                        len(subs)))
        for s in sorted(f[SUBCOMMANDS]):
            subs.append(row(s, sub_cls.get(s[NAME], cls[f[NAME]]),
                            risk[s[NAME]], False))
    cost, seed, slots = best_seed(names)
    lines = ["\t" + " ".join("%d," % s for s in slots[i:i + 16])
             for i in range(0, len(slots), 16)]
    return f"""\
/* Written by protocol/redis_cmd.py: edit the lists there, not this. */
#ifndef PROTOCOL_REDIS_CMD_TABLE_H
#define PROTOCOL_REDIS_CMD_TABLE_H

#include "protocol/redis_cmd.h"

enum {{
	REDIS_CMD_COUNT = {len(rows)},
	REDIS_CMD_SUB_COUNT = {len(subs)},
	REDIS_CMD_SLOT_BITS = {BITS}
}};

#define REDIS_CMD_SEED UINT64_C(0x{seed:016x})

/* Row + 1 by hash, 0 is free; {cost} steps of probing for all names together. */
static const uint8_t redis_cmd_slot[1 << REDIS_CMD_SLOT_BITS] = {{
{chr(10).join(lines)}
}};

/* name, its size, arity, first, last, step, class, risk, blocks, heavy, write, no_auth, subcommands */
static const struct redis_cmd redis_cmd_row[REDIS_CMD_COUNT] = {{
{chr(10).join(rows)}
}};

static const struct redis_cmd redis_cmd_sub_row[REDIS_CMD_SUB_COUNT] = {{
{chr(10).join(subs)}
}};

#endif
"""


def main():
    text = table()
    if sys.argv[1:] == ["--check"]:
        if open(TABLE).read() != text:
            sys.exit("redis_cmd_table.h is stale: run protocol/redis_cmd.py")
        return
    with open(TABLE, "w") as f:
        f.write(text)


if __name__ == "__main__":
    main()
