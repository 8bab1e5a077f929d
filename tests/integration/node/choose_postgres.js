// postgres.js: an organization chosen at run time; everything prepared and pipelined.
import postgres from 'postgres'
import { DSN, id, insert, owns, ownsNothing, READ, tasks } from './choose.js'
import { main } from './harness.js'

const connect = () => postgres(DSN, { max: 6, onnotice: () => {} })
const read = async sql => (await sql.unsafe(READ, [], { prepare: true }).values()).slice()

// For one transaction; half of them are rolled back.
async function local() {
	const sql = connect()
	const undone = new Error('undone')
	await tasks((n, slug) => sql.begin(async sql => {
		await sql`SELECT set_config('app.current_organization_id', ${id(slug)}, true)`
		const [, found] = await Promise.all([sql.unsafe(insert(slug)), read(sql)])
		owns(slug, found)
		if (n % 2)
			throw undone
	}).catch(e => {
		if (e !== undone)
			throw e
	}))
	ownsNothing(await read(sql))
	await sql.end()
}

// For as long as it has the connection.
async function pooled() {
	const sql = connect()
	await tasks(async (n, slug) => {
		const own = await sql.reserve()
		ownsNothing(await read(own))
		await own`SELECT set_config('app.current_organization_id', ${id(slug)}, false)`
		await own.unsafe(insert(slug))
		owns(slug, await read(own))
		await own.unsafe('RESET app.current_organization_id')
		own.release()
	})
	await sql.end()
}

await main({ local, pooled }, async () => {})
