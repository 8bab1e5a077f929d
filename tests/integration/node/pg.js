// node-postgres: Client, Pool, cursors, streams, COPY, LISTEN.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import pg from 'pg'
import copy from 'pg-copy-streams'
import Cursor from 'pg-cursor'
import QueryStream from 'pg-query-stream'
import { main, ORGANIZATION, together } from './harness.js'

const { DSN, OTHER } = process.env

async function connected(more = {}) {
	const client = new pg.Client({ connectionString: DSN, ...more })
	await client.connect()
	return client
}

// The deployment guide's pool, as it is written there.
function pooled(connectionString = DSN) {
	return new pg.Pool({
		connectionString,
		max: 20,
		idleTimeoutMillis: 30000,
		connectionTimeoutMillis: 10000,
	})
}

async function code(promise) {
	try {
		await promise
	} catch (e) {
		return e.code
	}
	return 'no error'
}

async function empty() {
	const c = await connected()
	await c.query('TRUNCATE scratch.tasks')
	await c.end()
}

async function values() {
	const c = await connected()
	const when = new Date('2024-02-29T12:34:56.789Z')
	const { rows: [r], fields } = await c.query(
		`SELECT $1::int AS i, $2::bigint AS big, $3::text AS t, $4::bytea AS b,
			$5::jsonb AS j, $6::int[] AS a, $7::timestamptz AS w, $8::text AS n,
			$9::numeric AS num, $10::bool AS yes`,
		[7, '9007199254740993', 'grüße \u{1f600}', Buffer.from([0, 1, 255]),
			{ deep: [1, { x: null }] }, [1, 2, 3], when, null, '1.50', true])
	assert.deepEqual(r, {
		i: 7, big: '9007199254740993', t: 'grüße \u{1f600}', b: Buffer.from([0, 1, 255]),
		j: { deep: [1, { x: null }] }, a: [1, 2, 3], w: when, n: null, num: '1.50', yes: true,
	})
	assert.deepEqual(fields.map(f => f.name).join(), 'i,big,t,b,j,a,w,n,num,yes')
	const array = await c.query({ text: 'SELECT 1, 2', rowMode: 'array' })
	assert.deepEqual(array.rows, [[1, 2]])
	const many = await c.query("SELECT 1 AS a; SELECT 'x' AS b; ")
	assert.deepEqual(many.map(m => m.rows), [[{ a: 1 }], [{ b: 'x' }]])
	assert.equal((await c.query('')).rows.length, 0)
	const binary = await c.query({ text: 'SELECT $1::int + 1 AS n', values: [41], binary: true })
	assert.deepEqual(binary.rows, [{ n: 42 }])
	const notice = once(c, 'notice')
	await c.query("DO $$ BEGIN RAISE NOTICE 'seen'; END $$")
	assert.equal((await notice)[0].message, 'seen')
	const big = 'x'.repeat(3_000_000)
	assert.equal((await c.query('SELECT $1::text || length($1) AS r', [big])).rows[0].r, big + '3000000')
	await c.end()
}

async function named() {
	const first = await connected(), second = await connected()
	for (let i = 0; i < 30; i++) {
		// One name, two texts: a name is its connection's own.
		const [a, b] = await Promise.all([
			first.query({ name: 'mine', text: "SELECT 'first' AS who, $1::int AS i", values: [i] }),
			second.query({ name: 'mine', text: 'SELECT $1::text AS i, 2 AS two', values: [`s${i}`] })])
		assert.deepEqual(a.rows, [{ who: 'first', i }])
		assert.deepEqual(b.rows, [{ i: `s${i}`, two: 2 }])
	}
	assert.equal(await code(first.query({ name: 'bad', text: 'SELECT nothing FROM nowhere' })), '42P01')
	// It never came to be, so the name is free.
	const again = await first.query({ name: 'bad', text: 'SELECT 1 AS one' })
	assert.deepEqual(again.rows, [{ one: 1 }])
	assert.equal(await code(first.query({ name: 'div', text: 'SELECT 1 / $1::int', values: [0] })), '22012')
	assert.deepEqual((await first.query({ name: 'div', text: 'SELECT 1 / $1::int', values: [1] }))
		.rows, [{ '?column?': 1 }])
	await Promise.all([first.end(), second.end()])
}

// 60 tasks on two pools of 20: every answer must be the task's own, and its
// organization's.
async function pool() {
	const pools = [pooled(), pooled(OTHER)]
	const user = ['acme_app', 'beta_app']
	const own = i => ORGANIZATION[user[i % 2]]
	const lent = (i, work) => pools[i % 2].connect().then(async c => {
		try {
			return await work(c)
		} finally {
			c.release()
		}
	})
	await together(60, async i => {
		for (let turn = 0; turn < 2; turn++) {
			const tag = `task ${i} turn ${turn}`
			const one = await pools[i % 2].query('SELECT $1::text AS tag, own_organization() AS org', [tag])
			assert.deepEqual(one.rows, [{ tag, org: own(i) }])
			const two = await pools[i % 2].query({
				name: `by ${i % 7}`, values: [tag],
				text: `SELECT ${i % 7} AS n, $1::text AS tag, own_organization() AS org` })
			assert.deepEqual(two.rows, [{ n: i % 7, tag, org: own(i) }])
			await lent(i, async c => {
				await c.query('BEGIN')
				await c.query(`INSERT INTO scratch.tasks VALUES ($1, $2)`, [i, tag])
				const seen = await c.query(
					`SELECT tag, own_organization() AS org FROM scratch.tasks WHERE task = $1 AND tag = $2`, [i, tag])
				assert.deepEqual(seen.rows, [{ tag, org: own(i) }])
				await c.query(turn % 2 ? 'ROLLBACK' : 'COMMIT')
			})
			assert.equal(await code(pools[i % 2].query('SELECT $1::text::int', [tag])), '22P02')
		}
	})
	const { rows } = await pools[0].query(`SELECT count(*)::int AS n, count(DISTINCT task)::int AS tasks FROM scratch.tasks`)
	assert.deepEqual(rows, [{ n: 60, tasks: 60 }])
	assert.ok(pools.every(p => p.totalCount <= 20 && p.waitingCount === 0))
	await together(2, i => pools[i].end())
}

// Many queries on one connection without waiting: queued by the client, or,
// with `pipeline`, all on their way at once.
async function queued(more = {}) {
	const clients = await together(4, () => connected(more))
	await Promise.all(clients.map((c, who) => together(60, async i => {
		if (i % 10 === 3)
			return assert.equal(await code(c.query('SELECT 1 / $1::int', [0])), '22012')
		const { rows } = await c.query(i % 2
			? { name: `n${i % 6}`, text: `SELECT ${i % 6} AS k, $1::text AS r`, values: [`${who}/${i}`] }
			: { text: `SELECT ${i % 6} AS k, $1::text AS r`, values: [`${who}/${i}`] })
		assert.deepEqual(rows, [{ k: i % 6, r: `${who}/${i}` }])
	})))
	await Promise.all(clients.map(c => c.end()))
}

const pipelined = () => queued({ pipeline: true })

// Transactions whose statements leave without waiting for their BEGIN.
async function pipelinedTransactions() {
	const clients = await together(8, () => connected({ pipeline: true }))
	await Promise.all(clients.map(async (c, who) => {
		for (let turn = 0; turn < 6; turn++) {
			const tag = `${who}/${turn}`
			const [, , seen] = await Promise.all([
				c.query('BEGIN'),
				c.query(`INSERT INTO scratch.tasks VALUES ($1, $2)`, [who, tag]),
				c.query({ name: 'seen', text: `SELECT tag FROM scratch.tasks WHERE task = $1 AND tag = $2`, values: [who, tag] }),
				c.query(turn % 2 ? 'ROLLBACK' : 'COMMIT')])
			assert.deepEqual(seen.rows, [{ tag }])
		}
	}))
	const { rows } = await clients[0].query(`SELECT task, count(*)::int AS n FROM scratch.tasks GROUP BY 1 ORDER BY 1`)
	assert.deepEqual(rows, clients.map((_, task) => ({ task, n: 3 })))
	await Promise.all(clients.map(c => c.end()))
}

async function cursors() {
	const clients = await together(3, () => connected())
	await Promise.all(clients.map(async (c, who) => {
		const text = 'SELECT $1::int AS who, i FROM generate_series(1, 250) i'
		for (const transaction of [false, true]) {
			if (transaction)
				await c.query('BEGIN')
			const cursor = c.query(new Cursor(text, [who]))
			let next = 1
			for (let rows; (rows = await cursor.read(40)).length; )
				for (const row of rows)
					assert.deepEqual(row, { who, i: next++ })
			assert.equal(next, 251)
			await cursor.close()
			const part = c.query(new Cursor(text, [who]))
			assert.equal((await part.read(10)).length, 10)
			await part.close()
			assert.deepEqual((await c.query('SELECT $1::int AS who', [who])).rows, [{ who }])
			if (transaction)
				await c.query('COMMIT')
		}
		const wrong = c.query(new Cursor('SELECT 10 / (5 - i) AS x FROM generate_series(1, 9) i'))
		assert.equal((await wrong.read(3)).length, 3)
		assert.equal(await code(wrong.read(3)), '22012')
		await wrong.close()
		assert.deepEqual((await c.query('SELECT $1::int AS who', [who])).rows, [{ who }])
	}))
	// Two readers take turns, each holding a place in its result.
	const [a, b] = clients.map((c, who) => c.query(new Cursor('SELECT $1::int AS who, i FROM generate_series(1, 50) i', [who])))
	for (let i = 0; i < 5; i++)
		for (const [who, cursor] of [a, b].entries())
			assert.deepEqual((await cursor.read(10)).at(-1), { who, i: 10 * i + 10 })
	await Promise.all([a.close(), b.close()])
	await Promise.all(clients.map(c => c.end()))
}

async function streams() {
	const p = pooled()
	await together(6, async who => {
		const c = await p.connect()
		const text = 'SELECT $1::int AS who, i FROM generate_series(1, 1000) i'
		let next = 1
		for await (const row of c.query(new QueryStream(text, [who], { batchSize: 70 })))
			assert.deepEqual(row, { who, i: next++ })
		assert.equal(next, 1001)
		// Left in the middle.
		for await (const row of c.query(new QueryStream(text, [who], { batchSize: 7 })))
			if (row.i === 20)
				break
		assert.deepEqual((await c.query('SELECT $1::int AS who', [who])).rows, [{ who }])
		c.release()
	})
	await p.end()
}

async function copies() {
	const p = pooled()
	const lines = who => Array.from({ length: 1500 }, (_, i) => `${who}\tline ${who}/${i}\n`)
	await together(4, async who => {
		const c = await p.connect()
		await pipeline(Readable.from(lines(who)), c.query(copy.from(`COPY scratch.tasks FROM STDIN`)))
		let out = ''
		const stream = c.query(copy.to(`COPY (SELECT * FROM scratch.tasks WHERE task = ${who}
			ORDER BY substring(tag from '[0-9]+$')::int) TO STDOUT`))
		for await (const chunk of stream)
			out += chunk
		assert.equal(out, lines(who).join(''))
		// A line that is wrong, far in.
		assert.equal(await code(pipeline(Readable.from([...lines(who), 'x\ty\n', ...lines(who)]),
			c.query(copy.from(`COPY scratch.tasks FROM STDIN`)))), '22P02')
		// A source that fails: CopyFail.
		async function* source() {
			yield* lines(who).slice(0, 100)
			throw new Error('source')
		}
		await assert.rejects(pipeline(Readable.from(source()), c.query(copy.from(`COPY scratch.tasks FROM STDIN`))))
		const { rows } = await c.query(`SELECT count(*)::int AS n FROM scratch.tasks WHERE task = $1`, [who])
		assert.deepEqual(rows, [{ n: 1500 }])
		c.release()
	})
	await p.end()
}

async function listens() {
	const ears = await together(2, () => connected())
	const heard = [[], []]
	ears.forEach((c, i) => c.on('notification', n => heard[i].push(`${n.channel}:${n.payload}`)))
	await ears[0].query('LISTEN news')
	await ears[1].query('LISTEN "Other News"')
	const p = pooled()
	await together(20, i => p.query('SELECT pg_notify($1, $2)', [i % 2 ? 'news' : 'Other News', `n${i}`]))
	await p.query("NOTIFY news, 'last'; NOTIFY \"Other News\", 'last'")
	for (let i = 0; i < 2; i++)
		while (!heard[i].some(h => h.endsWith(':last')))
			await once(ears[i], 'notification')
	const odd = Array.from({ length: 10 }, (_, i) => `news:n${2 * i + 1}`)
	const even = Array.from({ length: 10 }, (_, i) => `Other News:n${2 * i}`)
	assert.deepEqual(heard[0].slice().sort(), ['news:last', ...odd].sort())
	assert.deepEqual(heard[1].slice().sort(), ['Other News:last', ...even].sort())
	await ears[0].query('UNLISTEN *')
	await p.query("NOTIFY news, 'too late'")
	assert.deepEqual((await ears[0].query('SELECT 1 AS one')).rows, [{ one: 1 }])
	assert.equal(heard[0].length, 11)
	await Promise.all([...ears.map(c => c.end()), p.end()])
}

async function errors() {
	const c = await connected()
	await assert.rejects(c.query('SELEC 1'), { code: '42601', severity: 'ERROR', position: '1' })
	await assert.rejects(c.query(`INSERT INTO scratch.tasks VALUES ($1, $2)`, [null, 'x']),
		{ code: '23502', column: 'task', table: 'tasks', schema: 'scratch' })
	assert.equal(await code(c.query('SELECT $1::int', ['x'])), '22P02')
	assert.equal(await code(c.query("SELECT 1; SELECT 'x'::int; SELECT 2")), '22P02')
	await c.query('BEGIN')
	await c.query(`INSERT INTO scratch.tasks VALUES (1, 'kept')`)
	await c.query('SAVEPOINT here')
	assert.equal(await code(c.query('SELECT 1/0')), '22012')
	assert.equal(await code(c.query('SELECT $1::int', [1])), '25P02')
	await c.query('ROLLBACK TO here')
	await c.query('COMMIT')
	await c.query('BEGIN')
	assert.equal(await code(c.query('SELECT $1::int/0', [1])), '22012')
	const end = await c.query('COMMIT')
	assert.equal(end.command, 'ROLLBACK')
	assert.deepEqual((await c.query(`SELECT * FROM scratch.tasks`)).rows, [{ task: 1, tag: 'kept' }])
	await c.end()
	const wrong = new pg.Client({ connectionString: DSN.replace(/:[^:@]*@/, ':wrong@') })
	wrong.on('error', () => {})
	assert.equal(await code(wrong.connect()), '28P01')
}

async function timeouts() {
	const c = await connected({
		statement_timeout: 250, lock_timeout: 5000, application_name: 'patient',
		idle_in_transaction_session_timeout: 60000, options: '-c work_mem=3MB',
	})
	const shown = async name => (await c.query(`SHOW ${name}`)).rows[0][name]
	assert.equal(await shown('statement_timeout'), '250ms')
	assert.equal(await shown('lock_timeout'), '5s')
	assert.equal(await shown('application_name'), 'patient')
	assert.equal(await shown('work_mem'), '3MB')
	assert.equal(await code(c.query('SELECT pg_sleep(20)')), '57014')
	assert.equal(await code(c.query('SELECT pg_sleep($1)', [20])), '57014')
	await c.query('SET statement_timeout = 0')
	await c.query('SELECT pg_sleep(0.3)')
	await c.query('RESET statement_timeout')
	assert.equal(await shown('statement_timeout'), '250ms')
	await c.query('BEGIN')
	await c.query("SET LOCAL statement_timeout = '50ms'")
	assert.equal(await code(c.query('SELECT pg_sleep(20)')), '57014')
	await c.query('ROLLBACK')
	assert.equal(await shown('statement_timeout'), '250ms')
	// Nobody else has them.
	const other = await connected()
	assert.deepEqual((await other.query(
		"SELECT current_setting('statement_timeout') AS s, current_setting('application_name') AS a")).rows,
	[{ s: '0', a: '' }])
	await Promise.all([c.end(), other.end()])
}

async function cancels() {
	const busy = await together(3, () => connected())
	const [c] = busy
	const query = new pg.Query('SELECT pg_sleep(20)')
	const over = new Promise((_, reject) => query.once('error', reject))
	c.query(query)
	const beside = busy[1].query('SELECT pg_sleep(0.5), $1::text AS mine', ['beside'])
	await new Promise(r => setTimeout(r, 100))
	// A Client that was never connected carries the cancel.
	const messenger = new pg.Client({ connectionString: DSN, ssl: false })
	messenger.cancel(c, query)
	assert.equal(await code(over), '57014')
	assert.equal((await beside).rows[0].mine, 'beside')
	for (const [who, b] of busy.entries())
		assert.deepEqual((await b.query('SELECT $1::int AS who', [who])).rows, [{ who }])
	await Promise.all(busy.map(b => b.end()))
}

// A backend that ends under its client, and a pool that goes on.
async function killed() {
	const p = pooled()
	let gone = 0
	p.on('error', () => gone++)
	const c = await p.connect()
	c.on('error', () => gone++)
	await c.query('BEGIN')
	const failure = await code(c.query('SELECT pg_terminate_backend(pg_backend_pid())'))
	assert.ok(['57P01', '08006', undefined].includes(failure), failure)
	c.release(true)
	await together(20, async i =>
		assert.deepEqual((await p.query('SELECT $1::int AS i', [i])).rows, [{ i }]))
	await p.end()
}

main({
	values, named, pool, queued, pipelined, pipelinedTransactions, cursors, streams, copies,
	listens, errors, timeouts, cancels, killed,
}, empty)
