"""
redis_rows: one row for each command and subcommand of Redis 7.0: a call of it.

    name: prepared ; prepared => call ; call        ## what is compared, and why

What stands before => is done past weir.  The calls are made on a new
connection, to Redis and through weir, and all their replies must be the same
bytes, unless the row begins with

    #  but for digits: numbers that time makes
    ~  only the shape (types, lengths of arrays, names): values that chance makes
    %  the same elements, in an order that is made of a random seed
    !  weir's own answer, of this pattern

`\\n` in a word is a line's end, @DUMP a value of DUMP, @PASSWORD the password
both take; quotes are those of a shell.
"""
import shlex

ROWS = r"""
# Strings.
append: set k v => append k w ; get k
bitcount: set k foobar => bitcount k ; bitcount k 1 1 ; bitcount k 0 3 bit
bitfield: => bitfield k set u8 0 200 get u4 0 overflow fail incrby u8 0 100
bitfield_ro: set k v => bitfield_ro k get u8 0
bitop: mset a foo b bar => bitop and d a b ; get d ; bitop not d a
bitpos: set k "\n" => bitpos k 1 ; bitpos none 0
decr: set k 5 => decr k ; decr none
decrby: set k 5 => decrby k 3 ; decrby k x
get: set k v ; lpush l 1 => get k ; get none ; get l
getbit: set k v => getbit k 1
getdel: set k v => getdel k ; get k
getex: set k v => getex k ex 100 ; getex k persist ; ttl k
getrange: set k value => getrange k 1 -2
getset: set k v => getset k w ; getset none w
incr: => incr k ; incr k
incrby: => incrby k 5
incrbyfloat: set k 10.5 => incrbyfloat k 0.1
lcs: mset a ohmytext b mynewtext => lcs a b ; lcs a b idx minmatchlen 4
mget: mset a 1 b 2 => mget a none b
mset: => mset a 1 b 2 ; mset a
msetnx: set a 1 => msetnx a 2 b 2 ; msetnx c 1
psetex: => psetex k 100000 v ; get k ; psetex k 0 v
set: => set k v ; set k w nx ; set k w get ; set k v px 100000 keepttl
setbit: => setbit k 7 1 ; setbit k 7 2
setex: => setex k 100 v ; ttl k
setnx: => setnx k v ; setnx k v
setrange: set k value => setrange k 1 X ; get k
strlen: set k value => strlen k
substr: set k value => substr k 0 1

# Keys.
copy: set k v => copy k j ; copy k j ; copy k j replace ; copy k j db 0 replace
del: mset a 1 b 1 => del a b c
dump: set k v => dump k ; dump none
exists: set a 1 => exists a a b
expire: set k v => expire k 100 ; ttl k ; expire k 10 gt ; expire k x
expireat: set k v => expireat k 99999999999 ; expiretime k
expiretime: set k v => expiretime k ; expiretime none
keys: set k v => keys * ; keys x*
migrate: => migrate 127.0.0.1 1 none 0 10
move: set k v => move k 1 ; move none 1 ; move k 99
object|encoding: set k 1 => object encoding k ; object encoding none
object|freq: set k v => object freq k
object|help: => object help
object|idletime: set k v => object idletime k
object|refcount: set k v => object refcount k
object: => object
persist: setex k 100 v => persist k ; ttl k
pexpire: set k v => pexpire k 100000 ; ttl k
pexpireat: set k v => pexpireat k 99999999999999 ; pexpiretime k
pexpiretime: => pexpiretime none
#pttl: psetex k 100000 v => pttl k ; pttl none ## milliseconds have passed
randomkey: set k v => randomkey
rename: set a 1 => rename a b ; rename a b
renamenx: mset a 1 b 2 => renamenx a b ; renamenx a c
restore: => restore k 0 @DUMP ; get k ; restore k 0 @DUMP ; restore j 0 garbage
restore-asking: => restore-asking k 0 @DUMP ; get k
scan: set k v => scan 0 ; scan 0 match x* count 10 type string ; scan x
sort: rpush l 3 1 2 ; mset w_1 3 w_2 2 w_3 1 => sort l ; sort l desc limit 0 2 ; sort l by w_* get # ; sort l store d
sort_ro: rpush l b a => sort_ro l alpha
touch: set a 1 => touch a b
ttl: setex k 100 v => ttl k ; ttl none
type: lpush l 1 => type l ; type none
unlink: set a 1 => unlink a b

# Lists.
lindex: rpush l a b => lindex l 1 ; lindex l 9
linsert: rpush l a b => linsert l before b x ; linsert l after none x
llen: rpush l a b => llen l
lmove: rpush l a b => lmove l d left right ; lmove none d left left
lmpop: rpush l a b => lmpop 2 none l left count 2 ; lmpop 1 none left
lpop: rpush l a b => lpop l ; lpop l 5 ; lpop l ; lpop l 0
lpos: rpush l a b a => lpos l a ; lpos l a count 0 ; lpos l x
lpush: => lpush l a b
lpushx: => lpushx l a
lrange: rpush l a b c => lrange l 0 -1 ; lrange none 0 -1
lrem: rpush l a b a => lrem l 0 a
lset: rpush l a => lset l 0 b ; lset l 9 b
ltrim: rpush l a b c => ltrim l 1 1 ; lrange l 0 -1
rpop: rpush l a b => rpop l ; rpop l 1
rpoplpush: rpush l a b => rpoplpush l d ; rpoplpush none d
rpush: => rpush l a b
rpushx: => rpushx l a

# Sets: of numbers, whose order is fixed.
sadd: => sadd s 1 2 2
scard: sadd s 1 2 => scard s
sdiff: sadd s 1 2 ; sadd t 2 => sdiff s t
sdiffstore: sadd s 1 2 ; sadd t 2 => sdiffstore d s t
sinter: sadd s 1 2 ; sadd t 2 => sinter s t ; sinter s none
sintercard: sadd s 1 2 ; sadd t 2 => sintercard 2 s t limit 1
sinterstore: sadd s 1 2 ; sadd t 2 => sinterstore d s t
sismember: sadd s 1 => sismember s 1 ; sismember s 2
smembers: sadd s 1 2 3 => smembers s ; smembers none
smismember: sadd s 1 => smismember s 1 2
smove: sadd s 1 => smove s t 1 ; smove s t 1
spop: sadd s 1 => spop s ; spop s ; spop s 3
srandmember: sadd s 1 => srandmember s ; srandmember s -2
srem: sadd s 1 => srem s 1 2
sscan: sadd s 1 2 => sscan s 0
sunion: sadd s 1 2 ; sadd t 3 => sunion s t
sunionstore: sadd s 1 2 ; sadd t 3 => sunionstore d s t

# Hashes.
hdel: hset h f 1 => hdel h f g
hexists: hset h f 1 => hexists h f ; hexists h g
hget: hset h f 1 => hget h f ; hget h g
hgetall: hset h f 1 g 2 => hgetall h ; hgetall none
hincrby: => hincrby h f 5
hincrbyfloat: => hincrbyfloat h f 0.5
hkeys: hset h f 1 g 2 => hkeys h
hlen: hset h f 1 => hlen h
hmget: hset h f 1 => hmget h f g
hmset: => hmset h f 1 ; hmset h f
hrandfield: hset h f 1 => hrandfield h ; hrandfield h 2 withvalues
hscan: hset h f 1 => hscan h 0
hset: => hset h f 1 g 2
hsetnx: => hsetnx h f 1 ; hsetnx h f 2
hstrlen: hset h f value => hstrlen h f
hvals: hset h f 1 g 2 => hvals h

# Sorted sets.
zadd: => zadd z 1 a 2 b ; zadd z xx ch 3 a ; zadd z incr 1 a ; zadd z x a
zcard: zadd z 1 a => zcard z
zcount: zadd z 1 a 2 b => zcount z 1 (2
zdiff: zadd z 1 a 2 b ; zadd y 1 a => zdiff 2 z y withscores
zdiffstore: zadd z 1 a 2 b ; zadd y 1 a => zdiffstore d 2 z y
zincrby: => zincrby z 1.5 a
zinter: zadd z 1 a 2 b ; zadd y 1 a => zinter 2 z y withscores
zintercard: zadd z 1 a ; zadd y 1 a => zintercard 2 z y
zinterstore: zadd z 1 a ; zadd y 1 a => zinterstore d 2 z y weights 2 3
zlexcount: zadd z 0 a 0 b => zlexcount z - + ; zlexcount z [b +
zmpop: zadd z 1 a 2 b => zmpop 2 none z min ; zmpop 1 none max
zmscore: zadd z 1 a => zmscore z a none
zpopmax: zadd z 1 a 2 b => zpopmax z ; zpopmax z 2 ; zpopmax z
zpopmin: zadd z 1 a 2 b => zpopmin z ; zpopmin z 2
zrandmember: zadd z 1 a => zrandmember z ; zrandmember z 2 withscores
zrange: zadd z 1 a 2 b => zrange z 0 -1 withscores ; zrange z (1 2 byscore rev ; zrange z - + bylex
zrangebylex: zadd z 0 a 0 b => zrangebylex z - (b
zrangebyscore: zadd z 1 a 2 b => zrangebyscore z 1 2 withscores limit 1 1
zrangestore: zadd z 1 a 2 b => zrangestore d z 0 0
zrank: zadd z 1 a 2 b => zrank z b ; zrank z none
zrem: zadd z 1 a => zrem z a b
zremrangebylex: zadd z 0 a 0 b => zremrangebylex z [a [a
zremrangebyrank: zadd z 1 a 2 b => zremrangebyrank z 0 0
zremrangebyscore: zadd z 1 a 2 b => zremrangebyscore z 1 1
zrevrange: zadd z 1 a 2 b => zrevrange z 0 -1 withscores
zrevrangebylex: zadd z 0 a 0 b => zrevrangebylex z + -
zrevrangebyscore: zadd z 1 a 2 b => zrevrangebyscore z 2 1 withscores
zrevrank: zadd z 1 a 2 b => zrevrank z b
zscan: zadd z 1 a => zscan z 0
zscore: zadd z 1.5 a => zscore z a ; zscore z none
zunion: zadd z 1 a ; zadd y 2 a => zunion 2 z y withscores aggregate max
zunionstore: zadd z 1 a ; zadd y 2 a => zunionstore d 2 z y

# HyperLogLog, places.
pfadd: => pfadd p a b ; pfadd p a
pfcount: pfadd p a b => pfcount p
pfdebug: pfadd p a => pfdebug encoding p
pfmerge: pfadd p a ; pfadd q b => pfmerge d p q ; pfcount d
pfselftest: => pfselftest x ## without x it takes seconds; that one is in test_redis_hostile_tenant.py
geoadd: => geoadd g 13.36 38.11 x 15.08 37.50 y ; geoadd g 200 0 z
geodist: geoadd g 13.36 38.11 x 15.08 37.50 y => geodist g x y km ; geodist g x none
geohash: geoadd g 13.36 38.11 x => geohash g x none
geopos: geoadd g 13.36 38.11 x => geopos g x none
georadius: geoadd g 13.36 38.11 x => georadius g 15 37 200 km withdist withcoord
georadius_ro: geoadd g 13.36 38.11 x => georadius_ro g 15 37 200 km
georadiusbymember: geoadd g 13.36 38.11 x => georadiusbymember g x 300 km store d
georadiusbymember_ro: geoadd g 13.36 38.11 x => georadiusbymember_ro g x 300 km
geosearch: geoadd g 13.36 38.11 x => geosearch g frommember x byradius 300 km withdist
geosearchstore: geoadd g 13.36 38.11 x => geosearchstore d g frommember x byradius 300 km

# Streams.
xack: xadd x 1-1 f v ; xgroup create x g 0 ; xreadgroup group g me streams x > => xack x g 1-1 ; xack x none 1-1
xadd: => xadd x 1-1 f v ; xadd x 1-1 f v ; xadd x nomkstream maxlen 5 2-1 f w
xautoclaim: xadd x 1-1 f v ; xgroup create x g 0 ; xreadgroup group g me streams x > => xautoclaim x g you 0 0
xclaim: xadd x 1-1 f v ; xgroup create x g 0 ; xreadgroup group g me streams x > => xclaim x g you 0 1-1
xdel: xadd x 1-1 f v => xdel x 1-1
xgroup: => xgroup
xgroup|create: xadd x 1-1 f v => xgroup create x g $ ; xgroup create x g $ ; xgroup create none g 0
xgroup|createconsumer: xadd x 1-1 f v ; xgroup create x g 0 => xgroup createconsumer x g me
xgroup|delconsumer: xadd x 1-1 f v ; xgroup create x g 0 => xgroup delconsumer x g me
xgroup|destroy: xadd x 1-1 f v ; xgroup create x g 0 => xgroup destroy x g ; xgroup destroy x g
xgroup|help: => xgroup help
xgroup|setid: xadd x 1-1 f v ; xgroup create x g 0 => xgroup setid x g 1-1
xinfo: => xinfo
#xinfo|consumers: xadd x 1-1 f v ; xgroup create x g 0 ; xgroup createconsumer x g me => xinfo consumers x g ## idle milliseconds
xinfo|groups: xadd x 1-1 f v ; xgroup create x g 0 => xinfo groups x
xinfo|help: => xinfo help
xinfo|stream: xadd x 1-1 f v => xinfo stream x ; xinfo stream none
xlen: xadd x 1-1 f v => xlen x
xpending: xadd x 1-1 f v ; xgroup create x g 0 ; xreadgroup group g me streams x > => xpending x g
xrange: xadd x 1-1 f v => xrange x - + ; xrange x - + count 1
xread: xadd x 1-1 f v => xread count 1 streams x 0 ; xread streams x 1-1 ; xread streams x
xreadgroup: xadd x 1-1 f v ; xgroup create x g 0 => xreadgroup group g me count 1 streams x > ; xreadgroup group none me streams x >
xrevrange: xadd x 1-1 f v => xrevrange x + -
xsetid: xadd x 1-1 f v => xsetid x 5-5
xtrim: xadd x 1-1 f v ; xadd x 2-1 f v => xtrim x maxlen 1

# Scripts and functions.
eval: => eval "return {KEYS[1], ARGV[1]}" 1 k a ; eval "return redis.call('set', KEYS[1], 'v')" 1 k ; eval "return redis.error_reply('MY error')" 0 ; eval "syntax" 0
eval_ro: => eval_ro "return 1" 0 ; eval_ro "return redis.call('set', 'k', 'v')" 0
evalsha: script load "return 1" => evalsha e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0 ; evalsha ffffffffffffffffffffffffffffffffffffffff 0
evalsha_ro: script load "return 1" => evalsha_ro e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0
script: => script
script|debug: => script debug no ## ?
script|exists: script load "return 1" => script exists e0e1f9fabfc9d4800c877a703b823ac0578ff8db ffffffffffffffffffffffffffffffffffffffff
script|flush: => script flush ; script exists e0e1f9fabfc9d4800c877a703b823ac0578ff8db ; script flush x
script|help: => script help
script|kill: => script kill
script|load: => script load "return 1" ; evalsha e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0
fcall: function load "#!lua name=lib\nredis.register_function('f', function(k, a) return a end)" => fcall f 0 x ; fcall none 0
fcall_ro: function load "#!lua name=lib\nredis.register_function{function_name='f', callback=function() return 1 end, flags={'no-writes'}}" => fcall_ro f 0
function: => function
function|delete: function load "#!lua name=lib\nredis.register_function('f', function() return 1 end)" => function delete lib ; function delete lib
function|dump: function load "#!lua name=lib\nredis.register_function('f', function() return 1 end)" => function dump
function|flush: => function flush ; function flush x
function|help: => function help
function|kill: => function kill
function|list: function load "#!lua name=lib\nredis.register_function('f', function() return 1 end)" => function list ; function list withcode
function|load: => function load "#!lua name=lib\nredis.register_function('f', function() return 1 end)" ; function load x
function|restore: => function restore garbage
function|stats: => function stats

# Publishing.
publish: => publish c hello
spublish: => spublish c hello
pubsub: => pubsub
pubsub|channels: => pubsub channels
pubsub|help: => pubsub help
pubsub|numpat: => pubsub numpat
pubsub|numsub: => pubsub numsub c
pubsub|shardchannels: => pubsub shardchannels
pubsub|shardnumsub: => pubsub shardnumsub c

# A connection of its own.
multi: => multi ; set k v ; get k ; multi ; exec ; get k
exec: => exec ; exec x ; multi ; get none ; exec ; multi ; nosuch ; exec
discard: => discard ; multi ; set k v ; discard ; get k
watch: set k v => watch k ; multi ; incr j ; exec ; unwatch ; watch
unwatch: => unwatch ; watch k ; unwatch
subscribe: => subscribe c ; ping
psubscribe: => psubscribe c* ; ping x
ssubscribe: => ssubscribe c
unsubscribe: => unsubscribe ; unsubscribe c
punsubscribe: => punsubscribe ; punsubscribe c
sunsubscribe: => sunsubscribe ; sunsubscribe c
blpop: rpush l a => blpop l 0 ; blpop l 0.01 ; blpop l x
brpop: rpush l a => brpop none l 0 ; brpop l 0.01
brpoplpush: rpush l a => brpoplpush l d 0 ; brpoplpush l d 0.01
blmove: rpush l a => blmove l d left right 0 ; blmove l d left right 0.01
blmpop: rpush l a b => blmpop 0 1 l left count 2 ; blmpop 0.01 1 l left
bzpopmin: zadd z 1 a => bzpopmin z 0 ; bzpopmin z 0.01
bzpopmax: zadd z 1 a => bzpopmax z 0 ; bzpopmax z 0.01
bzmpop: zadd z 1 a => bzmpop 0 1 z min ; bzmpop 0.01 1 z min
monitor: => monitor
wait: => wait 0 10
client|caching: => client caching yes
client|tracking: => client tracking on ; client trackinginfo ; client tracking off
client|reply: => client reply on ; client reply x
client|unblock: => client unblock 99999999 ; client unblock x ; client unblock 1 foo ; client unblock 1 error x ; client unblock -1 TIMEOUT

# What weir answers.
auth: => auth default @PASSWORD ; auth default wrong ; auth a b c ; auth wrong
asking: => asking
client: => client
client|getname: => client getname ; client setname me ; client getname
client|getredir: => client getredir
client|help: => client help
#client|id: => client id ## each numbers its own
!client|info: => client info ## (\$\d+\r\n|=\d+\r\ntxt:)id=\d+ addr=127\.0\.0\.1:\d+ .* cmd=client\|info user=\S+ .*
client|kill: => client kill 1.2.3.4:5 ; client kill id 99999999
!client|list: => client list ## (\$\d+\r\n|=\d+\r\ntxt:)id=\d+ addr=127\.0\.0\.1:\d+ .* cmd=client\|list user=\S+ .*
client|no-evict: => client no-evict on ; client no-evict x
client|pause: => client pause 0 ; client pause x
client|setname: => client setname me ; client setname "a b" ; client getname ; client setname ""
client|trackinginfo: => client trackinginfo
readonly: => readonly
readwrite: => readwrite
client|unpause: => client unpause
%command: => command ## a hash table's order
command|count: => command count
command|docs: => command docs get
command|getkeys: => command getkeys mset a 1 b 2 ; command getkeys ping
command|getkeysandflags: => command getkeysandflags set k v
command|help: => command help
command|info: => command info get nosuch
%command|list: => command list filterby pattern xgr* ; command list filterby x y ## likewise
echo: => echo "a b" ; echo
#hello: => hello ; hello 3 ; hello 2 ; hello 4 ; hello x ; hello 2 foo ## the id of the client
~info: => info server ## times and ids
ping: => ping ; ping x ; ping x y
quit: => quit
reset: => reset ; ping
role: => role
select: => select 1 ; select 99 ; select x ; select 0

# For who has the server to himself.
acl: => acl
acl|cat: => acl cat ; acl cat nosuch
acl|deluser: acl setuser somebody => acl deluser somebody
acl|dryrun: => acl dryrun default get k
~acl|genpass: => acl genpass ; acl genpass 5 ## chance
acl|getuser: => acl getuser default
acl|help: => acl help
acl|list: => acl list
acl|load: => acl load
acl|log: => acl log reset ; acl log
acl|save: => acl save
acl|setuser: => acl setuser somebody on ; acl deluser somebody
acl|users: => acl users
acl|whoami: => acl whoami
bgrewriteaof: @SETTLED => bgrewriteaof
bgsave: @SETTLED => bgsave
save: @SETTLED => save
cluster: => cluster
cluster|addslots: => cluster addslots 1
cluster|addslotsrange: => cluster addslotsrange 1 2
cluster|bumpepoch: => cluster bumpepoch
cluster|count-failure-reports: => cluster count-failure-reports x
cluster|countkeysinslot: => cluster countkeysinslot 0
cluster|delslots: => cluster delslots 1
cluster|delslotsrange: => cluster delslotsrange 1 2
cluster|failover: => cluster failover
cluster|flushslots: => cluster flushslots
cluster|forget: => cluster forget x
cluster|getkeysinslot: => cluster getkeysinslot 0 1
cluster|help: => cluster help
cluster|info: => cluster info
cluster|keyslot: => cluster keyslot k
cluster|links: => cluster links
cluster|meet: => cluster meet 127.0.0.1 1
cluster|myid: => cluster myid
cluster|nodes: => cluster nodes
cluster|replicas: => cluster replicas x
cluster|replicate: => cluster replicate x
cluster|reset: => cluster reset
cluster|saveconfig: => cluster saveconfig
cluster|set-config-epoch: => cluster set-config-epoch 1
cluster|setslot: => cluster setslot 1 stable
cluster|shards: => cluster shards
cluster|slaves: => cluster slaves x
cluster|slots: => cluster slots
config: => config
config|get: => config get save ; config get appendonly ; config get maxmemory-policy
config|help: => config help
config|resetstat: => config resetstat
config|rewrite: => config rewrite
config|set: => config set maxmemory-samples 5 ; config set nosuch 1
dbsize: set k v => dbsize
debug: => debug sleep 0
failover: => failover ; failover abort
flushall: set k v => flushall ; dbsize
flushdb: set k v => flushdb async ; dbsize
#lastsave: => lastsave ## a time
latency: => latency
latency|doctor: => latency doctor
latency|graph: => latency graph nosuch
latency|help: => latency help
latency|histogram: => latency histogram nosuch
latency|history: => latency history nosuch
latency|latest: => latency latest
latency|reset: => latency reset
lolwut: => lolwut x
memory: => memory
~memory|doctor: => memory doctor ## what it finds depends on what else there is
memory|help: => memory help
~memory|malloc-stats: => memory malloc-stats ## numbers
memory|purge: => memory purge
~memory|stats: => memory stats ## numbers
memory|usage: set k v => memory usage k ; memory usage none
module: => module
module|help: => module help
module|list: => module list
module|load: => module load /nonexistent
module|loadex: => module loadex /nonexistent
module|unload: => module unload nosuch
!psync: => psync ? -1 ## -ERR weir: PSYNC is not supported
!replconf: => replconf ack 1 ## -ERR weir: REPLCONF is not supported
!sync: => sync ## -ERR weir: SYNC is not supported
replicaof: => replicaof no one
shutdown: => shutdown abort
slaveof: => slaveof no one
slowlog: => slowlog
slowlog|get: => slowlog reset ; slowlog get
slowlog|help: => slowlog help
slowlog|len: => slowlog reset ; slowlog len
slowlog|reset: => slowlog reset
swapdb: => swapdb 0 1 ; swapdb 0 99
#time: => time ## it passes
"""

MARKS = "#~%!"


class Row:
    def __init__(self, line):
        line, _, note = line.partition(" ## ")
        self.how = line[0] if line[0] in MARKS else ""
        self.name, _, rest = line.lstrip(MARKS).partition(": ")
        prepare, _, calls = rest.partition("=> ")
        self.prepare, self.calls = split(prepare), split(calls)
        self.note = note.partition(" -- ")[0]
        assert self.calls, line
        if note == "?":
            self.how, self.note = "!", "-ERR weir: %s is not supported" \
                % self.name.upper().replace("|", " ")


def split(text):
    found, words = [], []
    for word in shlex.split(text):
        if word == ";":
            found.append(words)
            words = []
        else:
            words.append(word.replace("\\n", "\n"))
    return found + [words] if words else found


def rows():
    return [Row(line) for line in ROWS.splitlines() if line and line[:2] != "# "]
