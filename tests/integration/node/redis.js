// redis: what applications do with ioredis, node-redis and what stands on them.
//
//     node redis.js SCENARIO...     the Redis is $URL, its protocol $RESP (2 or 3)
//
// ioredis 5 speaks RESP2 alone, and is asked where $RESP says so.  Every key begins with the name of its client.
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { Redis as Redis6 } from 'ioredis'
import { Redis as Redis5 } from 'ioredis5'
import { createClient, createClientPool } from 'redis'
import { main, together } from './harness.js'

const { URL: url, RESP } = process.env

const give = { family: 4, maxRetriesPerRequest: 1 }
const ioredis5 = (more = {}, where = url) => new Redis5(where, { ...give, ...more })
const ioredis6 = (more = {}, where = url) =>
	new Redis6(where, { ...give, protocol: Number(RESP), ...more })
const IOREDIS = RESP === '2' ? { ioredis5, ioredis6 } : { ioredis6 }

async function nodeRedis(more = {}) {
	const c = createClient({ url, RESP: Number(RESP), ...more })
	c.on('error', e => { throw e })
	return c.connect()
}

const each = f => async () => {
	for (const [name, open] of Object.entries(IOREDIS)) {
		const c = open()
		await f(c, `${name}:${RESP}`, open)
		await c.quit()
	}
}

const text = buffer => buffer.toString('latin1')

// ---- ioredis -----------------------------------------------------------------

const ioredisValues = each(async (c, k) => {
	const bytes = randomBytes(300_000)
	assert.equal(await c.set(k, 'grüße \u{1f600}\r\n\0', 'EX', 100), 'OK')
	assert.equal(await c.get(k), 'grüße \u{1f600}\r\n\0')
	assert.equal(await c.get(`${k}:none`), null)
	await c.set(k, bytes)
	assert.deepEqual(await c.getBuffer(k), bytes)
	assert.equal(await c.hset(`${k}:h`, { a: 1, b: 'two' }), 2)
	assert.deepEqual({ ...await c.hgetall(`${k}:h`) }, { a: '1', b: 'two' })
	assert.equal(await c.rpush(`${k}:l`, 1, 2, 3), 3)
	assert.deepEqual(await c.lrange(`${k}:l`, 0, -1), ['1', '2', '3'])
	assert.equal(await c.zadd(`${k}:z`, 1.5, 'a', 2, 'b'), 2)
	assert.equal(Number(await c.zscore(`${k}:z`, 'a')), 1.5)
	assert.equal((await c.zrange(`${k}:z`, 0, -1, 'WITHSCORES')).flat().length, 4)
	const id = await c.xadd(`${k}:x`, '*', 'field', 'value')
	const [[stream, entries]] = await c.xread('COUNT', 5, 'STREAMS', `${k}:x`, 0)
	assert.deepEqual([stream, entries], [`${k}:x`, [[id, ['field', 'value']]]])
	assert.equal(await c.incrbyfloat(`${k}:f`, 0.5), '0.5')
	assert.equal(await c.type(`${k}:x`), 'stream')
	await assert.rejects(c.lpush(k, 'x'), /^ReplyError: WRONGTYPE Operation against a key/)
	await assert.rejects(c.call('nosuch', 'x'), /unknown command 'nosuch', with args beginning with: 'x'/)
	assert.equal(await c.exists(`${k}:h`, `${k}:l`, `${k}:none`), 2)
	assert.equal(await c.del(k, `${k}:h`, `${k}:l`, `${k}:z`, `${k}:x`, `${k}:f`), 6)
})

const ioredisPipelines = each(async (c, k, open) => {
	const p = c.pipeline()
	for (let i = 0; i < 1000; i++)
		p.set(`${k}:${i % 50}`, i).get(`${k}:${i % 50}`)
	const replies = await p.exec()
	assert.deepEqual(replies.map(r => r[0]), Array(2000).fill(null))
	assert.deepEqual(replies.filter((_, i) => i % 2).map(r => r[1]),
		Array.from({ length: 1000 }, (_, i) => String(i)))
	const mixed = await c.pipeline().set(k, 'x').incr(k).get(k).exec()
	assert.match(String(mixed[1][0]), /not an integer/)
	assert.equal(mixed[2][1], 'x')

	const auto = open({ enableAutoPipelining: true })
	const got = await together(300, async i => {
		await auto.set(`${k}:auto:${i}`, `${k}/${i}`)
		return auto.get(`${k}:auto:${i}`)
	})
	assert.deepEqual(got, Array.from({ length: 300 }, (_, i) => `${k}/${i}`))
	auto.disconnect()
})

const ioredisScripts = each(async (c, k) => {
	const own = `-- ${k} ${Math.random()}\n`	// not in the script cache
	c.defineCommand('twice', { numberOfKeys: 1,
		lua: own + `redis.call('SET', KEYS[1], ARGV[1] * 2) return redis.call('GET', KEYS[1])` })
	assert.deepEqual(await together(20, i => c.twice(`${k}:${i}`, i)),
		Array.from({ length: 20 }, (_, i) => String(i * 2)))
	await assert.rejects(c.evalsha('0'.repeat(40), 0), /^ReplyError: NOSCRIPT No matching script/)
	const sha = await c.script('LOAD', 'return {1, {ARGV[1], false}}')
	assert.deepEqual(await c.evalsha(sha, 0, 'a'), [1, ['a', null]])
	await assert.rejects(c.eval("return redis.error_reply('MY own')", 0), /MY own/)
})

const ioredisIterates = each(async (c, k) => {
	await c.mset(Object.fromEntries(Array.from({ length: 300 }, (_, i) => [`${k}:scan:${i}`, i])))
	const seen = new Set()
	for await (const keys of c.scanStream({ match: `${k}:scan:*`, count: 50 }))
		keys.forEach(key => seen.add(key))
	assert.equal(seen.size, 300)
	await c.sadd(`${k}:set`, ...Array.from({ length: 300 }, (_, i) => i))
	let n = 0
	for await (const members of c.sscanStream(`${k}:set`, { count: 30 }))
		n += members.length
	assert.ok(n >= 300)
	await c.del(...seen, `${k}:set`)
})

const ioredisSessions = each(async (c, k, open) => {
	const named = open({ connectionName: k.replaceAll(':', '-'), keyPrefix: `${k}:` },
		url.replace(/0$/, '3'))
	assert.equal(await named.client('GETNAME'), k.replaceAll(':', '-'))
	await named.set('db', 'three')
	assert.equal(await c.get(`${k}:db`), null)
	await c.select(3)
	assert.equal(await c.get(`${k}:db`), 'three')
	assert.equal(await named.del('db'), 1)
	assert.match(await c.info('server'), /redis_version:\d/)
	assert.ok(await c.client('ID') !== await named.client('ID'))
	named.disconnect()

	// A client that is cut off comes back, logs in again and goes on.
	const back = new Promise(r => c.once('ready', r))
	c.disconnect(true)
	await back
	assert.equal(await c.set(`${k}:again`, 1), 'OK')

	const wrong = open({ password: 'wrong', retryStrategy: null }, url.replace(/:[^:/]*@/, '@'))
	wrong.on('error', () => {})
	await assert.rejects(wrong.get(k), /WRONGPASS|NOAUTH|closed/)
	wrong.disconnect()
})

const ioredisTransactions = each(async (c, k, open) => {
	const replies = await c.multi().set(k, 1).incr(k).get(k).exec()
	assert.deepEqual(replies, [[null, 'OK'], [null, 2], [null, '2']])
	await assert.rejects(c.multi().set(k).exec(), /EXECABORT/)
	await c.multi({ pipeline: false })
	assert.equal(await c.incr(k), 'QUEUED')
	assert.deepEqual(await c.exec(), [[null, 3]])

	// Optimistic locking: each increment is lost, or counts.
	await c.set(k, 0)
	await together(5, async () => {
		const own = open()
		for (let done = false; !done;) {
			await own.watch(k)
			const n = Number(await own.get(k))
			done = await own.multi().set(k, n + 1).exec() !== null
		}
		await own.quit()
	})
	assert.equal(await c.get(k), '5')
})

const ioredisBlocks = each(async (c, k, open) => {
	const waiting = together(5, async i => {
		const own = open()
		const [, value] = await own.blpop(`${k}:list:${i}`, 0)
		await own.quit()
		return value
	})
	assert.equal(await c.blpop(`${k}:empty`, 0.01), null)
	await together(5, i => c.rpush(`${k}:list:${i}`, `for ${i}`))
	assert.deepEqual(await waiting, Array.from({ length: 5 }, (_, i) => `for ${i}`))
	const reader = open()
	const read = reader.xread('BLOCK', 0, 'STREAMS', `${k}:stream`, '0')
	await c.xadd(`${k}:stream`, '1-1', 'a', 'b')
	assert.deepEqual(await read, [[`${k}:stream`, [['1-1', ['a', 'b']]]]])
	const never = reader.blpop(`${k}:empty`, 0)
	reader.disconnect()
	await assert.rejects(never, /closed/)
})

const ioredisSubscribes = each(async (c, k, open) => {
	const sub = open(), heard = []
	const all = new Promise(r => sub.on('message', (channel, text) => {
		heard.push(`${channel} ${text}`)
		if (heard.length === 100)
			r()
	}))
	const matched = new Promise(r => sub.on('pmessage', (...args) => r(args)))
	assert.equal(await sub.subscribe(`${k}:a`, `${k}:b`), 2)
	assert.equal(await sub.psubscribe(`${k}:p*`), 3)
	for (let i = 0; i < 100; i++)
		await c.publish(`${k}:${i % 2 ? 'a' : 'b'}`, i)
	await all
	assert.deepEqual(heard, Array.from({ length: 100 }, (_, i) => `${k}:${i % 2 ? 'a' : 'b'} ${i}`))
	await c.publish(`${k}:pattern`, 'x')
	assert.deepEqual(await matched, [`${k}:p*`, `${k}:pattern`, 'x'])
	assert.equal(await sub.unsubscribe(`${k}:a`, `${k}:b`), 1)
	assert.equal(await sub.punsubscribe(`${k}:p*`), 0)
	assert.equal(await sub.set(k, 1), 'OK')
	await sub.quit()
})

// ---- node-redis --------------------------------------------------------------

async function nodeRedisValues() {
	const c = await nodeRedis({ name: 'node-redis' }), k = `node-redis:${RESP}`
	const bytes = text(randomBytes(100_000))
	assert.equal(await c.set(k, bytes, { EX: 100 }), 'OK')
	assert.equal(await c.get(k), bytes)
	assert.equal(await c.get(`${k}:none`), null)
	assert.equal(await c.hSet(`${k}:h`, { a: 1, b: 'two' }), 2)
	assert.deepEqual({ ...await c.hGetAll(`${k}:h`) }, { a: '1', b: 'two' })
	assert.equal(await c.zAdd(`${k}:z`, [{ score: 1.5, value: 'a' }, { score: Infinity, value: 'b' }]), 2)
	assert.deepEqual(await c.zRangeWithScores(`${k}:z`, 0, -1),
		[{ value: 'a', score: 1.5 }, { value: 'b', score: Infinity }])
	assert.equal(await c.zScore(`${k}:z`, 'none'), null)
	const id = await c.xAdd(`${k}:x`, '*', { field: 'value' })
	const [{ messages }] = await c.xRead({ key: `${k}:x`, id: '0' }, { COUNT: 5 })
	assert.equal(messages[0].id, id)
	assert.equal(await c.clientGetName(), 'node-redis')
	assert.equal((await c.clientInfo()).id, await c.clientId())
	await assert.rejects(c.lPush(k, 'x'), /WRONGTYPE Operation against a key/)
	const got = await together(500, async i => {
		await c.set(`${k}:${i}`, `${i}`)
		return c.get(`${k}:${i}`)
	})
	assert.deepEqual(got, Array.from({ length: 500 }, (_, i) => `${i}`))
	const seen = new Set()
	for await (const keys of c.scanIterator({ MATCH: `${k}:*`, COUNT: 100 }))
		keys.forEach(key => seen.add(key))
	assert.ok(seen.size >= 500)
	await c.del([...seen])
	await c.close()
}

async function nodeRedisShares() {
	const c = await nodeRedis(), k = `node-redis:shares:${RESP}`
	assert.deepEqual(await c.multi().set(k, 1).incr(k).exec(), ['OK', 2])
	await c.watch(k)
	const other = await nodeRedis()
	await other.set(k, 'changed')
	await assert.rejects(c.multi().get(k).exec(), { name: /WatchError|Error/ })

	const blocked = await nodeRedis()
	const pop = blocked.blPop(`${k}:list`, 0)
	await c.rPush(`${k}:list`, 'x')
	assert.deepEqual({ ...await pop }, { key: `${k}:list`, element: 'x' })

	const sub = await nodeRedis(), heard = []
	await sub.subscribe(`${k}:channel`, text => heard.push(text))
	await new Promise(resolve => {
		sub.sSubscribe(`${k}:shard`, resolve).then(async () => {
			for (let i = 0; i < 50; i++)
				await c.publish(`${k}:channel`, String(i))
			await c.sPublish(`${k}:shard`, 'last')
		})
	})
	await sub.unsubscribe(`${k}:channel`)
	assert.deepEqual(heard, Array.from({ length: 50 }, (_, i) => String(i)))
	await sub.sUnsubscribe()
	await Promise.all([c, other, blocked, sub].map(x => x.close()))
}

async function nodeRedisPool() {
	const pool = createClientPool({ url, RESP: Number(RESP) }, { minimum: 2, maximum: 20 })
	pool.on('error', e => { throw e })
	await pool.connect()
	const got = await together(200, async i => {
		await pool.set(`pool:${RESP}:${i}`, `of ${i}`)
		return pool.get(`pool:${RESP}:${i}`)
	})
	assert.deepEqual(got, Array.from({ length: 200 }, (_, i) => `of ${i}`))
	await pool.close()
}

await main({ ioredisValues, ioredisPipelines, ioredisScripts, ioredisIterates, ioredisSessions,
	ioredisTransactions, ioredisBlocks, ioredisSubscribes,
	nodeRedisValues, nodeRedisShares, nodeRedisPool }, async () => {})
