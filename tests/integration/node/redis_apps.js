// redis_apps: what stands on a Redis client: locks, sessions, queues, events between servers.
//
//     node redis_apps.js SCENARIO...     the Redis is $URL, its protocol $RESP (2 or 3)
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { createAdapter, createShardedAdapter } from '@socket.io/redis-adapter'
import { Queue, QueueEvents, Worker } from 'bullmq'
import { RedisStore } from 'connect-redis'
import session from 'express-session'
import { Redis } from 'ioredis'
import { createClient } from 'redis'
import Redlock from 'redlock'
import { Server } from 'socket.io'
import { main, together } from './harness.js'

const { URL: url, RESP } = process.env
const protocol = Number(RESP)

const ioredis = (more = {}) => new Redis(url, { family: 4, protocol, ...more })

async function nodeRedis() {
	const c = createClient({ url, RESP: protocol })
	c.on('error', e => { throw e })
	return c.connect()
}

// ---- redlock -----------------------------------------------------------------

async function locks() {
	const c = ioredis()
	const redlock = new Redlock([c], { retryCount: 200, retryDelay: 10, retryJitter: 10 })
	let inside = 0, done = 0
	await together(10, () => redlock.using([`lock:${RESP}`], 20000, async signal => {
		assert.equal(++inside, 1)
		await c.get(`lock:${RESP}`)
		inside--
		done++
		assert.ok(!signal.aborted)
	}))
	assert.equal(done, 10)
	const lock = await redlock.acquire([`lock:${RESP}`], 20000)
	await assert.rejects(new Redlock([c], { retryCount: 0 }).acquire([`lock:${RESP}`], 1000))
	await (await lock.extend(20000)).release()
	assert.equal(await c.exists(`lock:${RESP}`), 0)
	await c.quit()
}

// ---- connect-redis with express-session ---------------------------------------

async function sessions() {
	const client = await nodeRedis()
	const store = new RedisStore({ client, prefix: `session:${RESP}:`, ttl: 100 })
	const middleware = session({ store, secret: 'a secret', resave: false, saveUninitialized: false })
	const server = createServer((req, res) => middleware(req, res, () => {
		req.session.seen = (req.session.seen || 0) + 1
		res.end(String(req.session.seen))
	}))
	await once(server.listen(0, '127.0.0.1'), 'listening')
	const at = `http://127.0.0.1:${server.address().port}/`

	await together(10, async () => {
		let cookie
		for (let i = 1; i <= 5; i++) {
			const answer = await fetch(at, { headers: cookie ? { cookie } : {} })
			assert.equal(await answer.text(), String(i))
			cookie ??= answer.headers.get('set-cookie').split(';')[0]
		}
	})
	const call = (what, ...args) => new Promise((resolve, reject) =>
		store[what](...args, (e, value) => e ? reject(e) : resolve(value)))
	assert.equal(await call('length'), 10)
	assert.deepEqual((await call('all')).map(s => s.seen), Array(10).fill(5))
	await call('clear')
	assert.equal(await call('length'), 0)
	server.closeAllConnections()
	server.close()
	await client.close()
}

// ---- BullMQ --------------------------------------------------------------------

async function queues() {
	const name = `queue-${RESP}`, jobs = 40
	const connection = { url, family: 4, protocol, maxRetriesPerRequest: null }
	const queue = new Queue(name, { connection })
	const events = new QueueEvents(name, { connection })
	await events.waitUntilReady()
	for (const emitter of [queue, events])
		emitter.setMaxListeners(0)
	const told = new Set()
	events.on('completed', ({ jobId }) => told.add(jobId))
	const tried = {}
	const workers = [1, 2].map(() => new Worker(name, async job => {
		tried[job.data.i] = (tried[job.data.i] || 0) + 1
		await job.updateProgress(50)
		if (job.data.i % 10 === 0 && job.attemptsMade === 0)
			throw new Error('once')
		return job.data.i * 2
	}, { connection, concurrency: 5 }))
	await Promise.all(workers.map(w => w.waitUntilReady()))

	const added = await queue.addBulk(Array.from({ length: jobs }, (_, i) => ({
		name: 'double', data: { i }, opts: { attempts: 2, backoff: 10, priority: 1 + i % 3 } })))
	const late = await queue.add('late', { i: 1001 }, { delay: 200 })
	const results = await Promise.all([...added, late].map(j => j.waitUntilFinished(events, 60000)))
	assert.deepEqual(results, [...Array.from({ length: jobs }, (_, i) => i * 2), 2002])
	for (let i = 0; i < jobs; i++)
		assert.equal(tried[i], i % 10 ? 1 : 2)
	assert.ok(late.timestamp + 200 <= (await queue.getJob(late.id)).finishedOn)
	while (told.size < jobs + 1)
		await once(events, 'completed')
	assert.deepEqual(await queue.getJobCounts('completed', 'failed', 'waiting', 'delayed'),
		{ completed: jobs + 1, failed: 0, waiting: 0, delayed: 0 })

	await Promise.all(workers.map(w => w.close()))
	await events.close()
	await queue.obliterate({ force: true })
	await queue.close()
}

// ---- Socket.IO -------------------------------------------------------------------

// Three servers that know of each other by Redis alone.
async function servers(clients, adapter) {
	const io = clients.map(([pub, sub]) => {
		const server = new Server()
		server.adapter(adapter(pub, sub))
		server.on('early', (i, answer) => answer(i + 1))
		return server
	})
	const of = server => server.of('/')
	await Promise.all(io.map(server => of(server).adapter.init?.()))
	for (let tries = 0; await of(io[0]).adapter.serverCount() < io.length; tries++)
		assert.ok(tries < 500)
	for (let i = 0; i < 10; i++)
		assert.deepEqual(await of(io[i % 3]).serverSideEmitWithAck('early', i), [i + 1, i + 1])
	const heard = io.slice(1).map(server => new Promise(r => server.on('news', r)))
	io[0].serverSideEmit('news', { big: 'x'.repeat(100_000), bytes: [0, 255] })
	for (const news of await Promise.all(heard))
		assert.deepEqual([news.big.length, news.bytes], [100_000, [0, 255]])
	assert.deepEqual(await io[0].fetchSockets(), [])
	await Promise.all(io.map(server => of(server).adapter.close()))
}

async function socketsOnIoredis() {
	const clients = [1, 2, 3].map(() => [ioredis(), ioredis()])
	await servers(clients, (pub, sub) => createAdapter(pub, sub, { key: `io:${RESP}` }))
	await Promise.all(clients.flat().map(c => c.quit()))
}

async function socketsOnNodeRedis() {
	const clients = await together(3, async () => [await nodeRedis(), await nodeRedis()])
	await servers(clients, (pub, sub) => createAdapter(pub, sub, { key: `node:${RESP}` }))
	await Promise.all(clients.flat().map(c => c.close()))
}

// SSUBSCRIBE, SPUBLISH.
async function socketsSharded() {
	const clients = await together(3, async () => [await nodeRedis(), await nodeRedis()])
	await servers(clients, (pub, sub) => createShardedAdapter(pub, sub,
		{ channelPrefix: `sharded:${RESP}` }))
	await Promise.all(clients.flat().map(c => c.close()))
}

await main({ locks, sessions, queues, socketsOnIoredis, socketsOnNodeRedis, socketsSharded },
	async () => {})
