// postgres.js, with its defaults: everything prepared, everything pipelined.
import assert from 'node:assert/strict'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import postgres from 'postgres'
import { main, ORGANIZATION, together } from './harness.js'

const { DSN, OTHER } = process.env

const connect = (options, url = DSN) => postgres(url, { onnotice: () => {}, ...options })

async function code(promise) {
	try {
		await promise
	} catch (e) {
		return e.code
	}
	return 'no error'
}

async function empty() {
	const sql = connect()
	await sql`TRUNCATE scratch.tasks`
	await sql.end()
}

async function values() {
	const notices = []
	const sql = connect({ onnotice: n => notices.push(n.message) })
	const when = new Date('2024-02-29T12:34:56.789Z')
	const [r] = await sql`
		SELECT ${7}::int AS i, ${'9007199254740993'}::bigint AS big, ${'grüße \u{1f600}'}::text AS t,
			${Buffer.from([0, 1, 255])}::bytea AS b, ${sql.json({ deep: [1, { x: null }] })} AS j,
			${[1, 2, 3]}::int[] AS a, ${when} AS w, ${null}::text AS n, ${true}::bool AS yes`
	assert.deepEqual({ ...r }, {
		i: 7, big: '9007199254740993', t: 'grüße \u{1f600}', b: Buffer.from([0, 1, 255]),
		j: { deep: [1, { x: null }] }, a: [1, 2, 3], w: when, n: null, yes: true,
	})
	// An array of a type that only pg_type tells about: fetch_types.
	const [{ ids }] = await sql`SELECT ${[ORGANIZATION.acme_app]}::uuid[] AS ids`
	assert.deepEqual(ids, [ORGANIZATION.acme_app])
	const many = await sql.unsafe("SELECT 1 AS a; SELECT 'x' AS b")
	assert.deepEqual(many.map(m => ({ ...m[0] })), [{ a: 1 }, { b: 'x' }])
	assert.equal((await sql`SELECT 1 WHERE false`).length, 0)
	assert.deepEqual((await sql`SELECT ${'a'}::text AS x, 1 AS y`.values()).slice(), [['a', 1]])
	await sql`DO $$ BEGIN RAISE NOTICE 'seen'; END $$`
	assert.deepEqual(notices, ['seen'])
	const rows = Array.from({ length: 50 }, (_, task) => ({ task, tag: `t${task}` }))
	await sql`INSERT INTO scratch.tasks ${sql(rows)}`
	const found = await sql`SELECT * FROM scratch.tasks WHERE task = ANY(${[3, 4]}) ORDER BY 1`
	assert.deepEqual(found.map(f => f.tag), ['t3', 't4'])
	assert.equal((await sql`UPDATE scratch.tasks SET tag = 'u' WHERE task < ${10}`).count, 10)
	const shape = await sql`SELECT task, tag FROM scratch.tasks WHERE task = ${1}`.describe()
	assert.deepEqual(shape.columns.map(c => c.name), ['task', 'tag'])
	const big = 'x'.repeat(3_000_000)
	assert.equal((await sql`SELECT ${big}::text || length(${big}) AS r`)[0].r, big + '3000000')
	await sql.end()
}

// One connection, everything on its way at once.
async function pipelined() {
	const clients = await together(4, () => connect({ max: 1 }))
	await Promise.all(clients.map((sql, who) => together(80, async i => {
		const tag = `${who}/${i}`
		if (i % 10 === 3)
			return assert.equal(await code(sql`SELECT 1 / ${0}::int`), '22012')
		if (i % 10 === 7)
			return assert.equal(await code(sql`SELECT ${i} FROM ${sql(`missing_${i}`)}`), '42P01')
		if (i % 10 === 9)
			return assert.deepEqual((await sql.unsafe(`SELECT '${tag}' AS tag`)).slice(), [{ tag }])
		const [r] = await sql`SELECT ${sql.unsafe(String(i % 6))} AS k, ${tag}::text AS tag`
		assert.deepEqual({ ...r }, { k: i % 6, tag })
	})))
	await Promise.all(clients.map(sql => sql.end()))
}

// 60 tasks of two users, statements and transactions, each with its own answer.
async function tasks() {
	const users = [connect(), connect({}, OTHER)]
	const user = ['acme_app', 'beta_app']
	await together(60, async i => {
		const sql = users[i % 2], org = ORGANIZATION[user[i % 2]]
		for (let turn = 0; turn < 3; turn++) {
			const tag = `task ${i} turn ${turn}`
			const [one] = await sql`SELECT ${tag}::text AS tag, own_organization() AS org`
			assert.deepEqual({ ...one }, { tag, org })
			const undo = new Error('undo')
			const seen = await sql.begin(async tx => {
				const [a] = await tx`INSERT INTO scratch.tasks VALUES (${i}, ${tag}) RETURNING *, own_organization() AS org`
				assert.deepEqual({ ...a }, { task: i, tag, org })
				const inner = await tx.savepoint(async sp => {
					await sp`INSERT INTO scratch.tasks VALUES (${i}, ${'lost'})`
					await sp`SELECT ${tag}::text::int`
				}).catch(e => e.code)
				assert.equal(inner, '22P02')
				const rows = await tx`SELECT tag FROM scratch.tasks WHERE task = ${i} AND tag IN (${tag}, 'lost')`
				if (turn === 1)
					throw undo
				return rows
			}).catch(e => assert.equal(e, undo))
			if (turn !== 1)
				assert.deepEqual(seen.slice(), [{ tag }])
		}
	})
	const [r] = await users[0]`SELECT count(*)::int AS n, count(DISTINCT task)::int AS tasks FROM scratch.tasks`
	assert.deepEqual({ ...r }, { n: 120, tasks: 60 })
	// The statements of one transaction, sent together.
	const [a, b] = await users[1].begin('isolation level serializable read only', tx => [
		tx`SELECT 'a' AS x, current_setting('transaction_isolation') AS i, current_setting('transaction_read_only') AS r`,
		tx`SELECT 'b' AS x`])
	assert.deepEqual([...a, ...b].map(x => ({ ...x })), [{ x: 'a', i: 'serializable', r: 'on' }, { x: 'b' }])
	await Promise.all(users.map(sql => sql.end()))
}

async function cursors() {
	const sql = connect()
	await together(6, async who => {
		let next = 1
		for await (const rows of sql`SELECT ${who}::int AS who, i FROM generate_series(1, 250) i`.cursor(40))
			for (const row of rows)
				assert.deepEqual({ ...row }, { who, i: next++ })
		assert.equal(next, 251)
		next = 1
		for await (const rows of sql`SELECT ${who}::int AS who, i FROM generate_series(1, 250) i`.cursor(30)) {
			for (const row of rows)
				assert.deepEqual({ ...row }, { who, i: next++ })
			if (next > 100)
				break
		}
		assert.equal(next, 121)
		let sum = 0
		await sql`SELECT ${who}::int AS who, i FROM generate_series(1, 100) i`.forEach(row => {
			assert.equal(row.who, who)
			sum += row.i
		})
		assert.equal(sum, 5050)
	})
	// Last: a connection of postgres.js whose cursor failed puts the rows of its
	// next query one place too far, on PostgreSQL itself too.
	await together(6, async () => assert.equal(
		await code(sql`SELECT 10 / (5 - i) AS x FROM generate_series(1, 9) i`.cursor(3, () => {})), '22012'))
	await sql.end()
}

async function copies() {
	const sql = connect()
	// Each less than the 16 kB a stream holds: the driver leaves a socket that it
	// paused at the end of a COPY paused for ever.
	const lines = who => Array.from({ length: 800 }, (_, i) => `${who}\tline ${who}/${i}\n`)
	await together(4, async who => {
		const into = await sql`COPY scratch.tasks FROM STDIN`.writable()
		await pipeline(Readable.from(lines(who)), into)
		const from = await sql`
			COPY (SELECT * FROM scratch.tasks WHERE task = ${sql.unsafe(String(who))}
			ORDER BY substring(tag from '[0-9]+$')::int) TO STDOUT`.readable()
		let out = ''
		for await (const chunk of from)
			out += chunk
		assert.equal(out, lines(who).join(''))
	})
	const [r] = await sql`SELECT count(*)::int AS n FROM scratch.tasks`
	assert.equal(r.n, 4 * 800)
	await sql.end()
}

async function listens() {
	const sql = connect()
	const heard = [], other = []
	let done
	const last = new Promise(resolve => done = resolve)
	const ear = await sql.listen('news', m => m === 'last' ? done() : heard.push(m))
	await sql.listen('other', m => other.push(m))
	await together(20, i => sql.notify(i % 2 ? 'news' : 'other', `n${i}`))
	await sql.begin(async tx => {
		await tx`SELECT pg_notify('news', 'undone')`
		throw new Error('undo')
	}).catch(() => {})
	await sql.notify('news', 'last')
	await last
	const numbers = odd => Array.from({ length: 10 }, (_, i) => `n${2 * i + odd}`).sort()
	assert.deepEqual(heard.sort(), numbers(1))
	assert.deepEqual(other.sort(), numbers(0))
	await ear.unlisten()
	await sql.notify('news', 'too late')
	assert.equal((await sql`SELECT 1 AS one`)[0].one, 1)
	assert.equal(heard.length, 10)
	await sql.end()
}

async function errors() {
	const sql = connect()
	await assert.rejects(sql`SELEC 1`, { code: '42601', severity: 'ERROR', position: '1' })
	await assert.rejects(sql`INSERT INTO scratch.tasks VALUES (${null}, 'x')`,
		{ code: '23502', column_name: 'task', table_name: 'tasks', schema_name: 'scratch' })
	assert.equal(await code(sql`SELECT ${'x'}::text::int`), '22P02')
	assert.equal(await code(sql.unsafe("SELECT 1; SELECT 'x'::int; SELECT 2")), '22P02')
	assert.equal(await code(sql.begin(async tx => {
		await tx`INSERT INTO scratch.tasks VALUES (1, 'lost')`
		await tx`SELECT 1/0`.catch(() => {})
		await tx`SELECT ${1}::int`
	})), '22012')
	assert.equal((await sql`SELECT * FROM scratch.tasks`).length, 0)
	await sql.end()
	const wrong = connect({ password: 'wrong', max: 1 }, DSN.replace(/:[^:@]*@/, '@'))
	assert.equal(await code(wrong`SELECT 1`), '28P01')
	await wrong.end()
}

async function cancels() {
	const sql = connect({ connection: { application_name: 'patient', statement_timeout: 5000 } })
	const beside = sql`SELECT pg_sleep(0.5), ${'beside'}::text AS mine`
	const slow = sql`SELECT pg_sleep(20)`.execute()
	setTimeout(() => slow.cancel(), 100)
	const [over, [r]] = await Promise.all([code(slow), beside])
	assert.equal(over, '57014')
	assert.equal(r.mine, 'beside')
	const quick = await sql.reserve()
	await quick`SET statement_timeout = '150ms'`
	assert.equal(await code(quick`SELECT pg_sleep(20)`), '57014')
	await quick`RESET statement_timeout`
	assert.deepEqual({ ...(await quick`SHOW statement_timeout`)[0] }, { statement_timeout: '5s' })
	assert.deepEqual({ ...(await quick`SHOW application_name`)[0] }, { application_name: 'patient' })
	quick.release()
	await together(12, async i => assert.equal((await sql`SELECT ${i}::int AS i`)[0].i, i))
	await sql.end()
}

async function largeObjects() {
	const sql = connect({ max: 3 })
	await together(6, async who => {
		const object = await sql.largeObject()
		await object.write(Buffer.from(`object ${who} `))
		await object.write(Buffer.alloc(40_000, 48 + who))
		await object.seek(0)
		const [{ data }] = await object.read(20)
		assert.equal(String(data), `object ${who} ${String(who).repeat(11)}`)
		const [{ position, size }] = await object.size()
		assert.deepEqual([position, size], ['20', '40009'])
		await object.close()
	})
	await sql.end()
}

// Without prepared statements, as one is told to do behind other poolers.
async function unprepared() {
	const sql = connect({ prepare: false })
	await together(60, async i => {
		assert.equal((await sql`SELECT ${i}::int AS i`)[0].i, i)
		assert.equal(await code(sql`SELECT ${i}::int / ${0}::int`), '22012')
	})
	await sql.end()
}

main({
	values, pipelined, tasks, cursors, copies, listens, errors, cancels, largeObjects, unprepared,
}, empty)
