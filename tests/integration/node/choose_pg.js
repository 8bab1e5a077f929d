// node-postgres: an organization chosen at run time.
import pg from 'pg'
import { DSN, id, insert, owns, ownsNothing, READ, tasks } from './choose.js'
import { main } from './harness.js'

const aPool = () => new pg.Pool({ connectionString: DSN, max: 6 })
const read = async c => (await c.query({ text: READ, rowMode: 'array' })).rows

// For one transaction.
async function local() {
	const pool = aPool()
	await tasks(async (n, slug) => {
		const c = await pool.connect()
		await c.query('BEGIN')
		if (n % 2)
			await c.query("SELECT set_config('app.current_organization_id', $1, true)", [id(slug)])
		else
			await c.query(`SET LOCAL app.current_organization_id = '${id(slug)}'`)
		await c.query(insert(slug))
		owns(slug, await read(c))
		await c.query(n % 3 ? 'COMMIT' : 'ROLLBACK')
		ownsNothing(await read(c))
		c.release()
	})
	await pool.end()
}

// For as long as it has the connection.
async function pooled() {
	const pool = aPool()
	await tasks(async (n, slug) => {
		const c = await pool.connect()
		ownsNothing(await read(c))
		await c.query({
			name: 'choose', text: "SELECT set_config('app.current_organization_id', $1, false)",
			values: [id(slug)],
		})
		await c.query(insert(slug))
		owns(slug, await read(c))
		await c.query(n % 2 ? 'RESET app.current_organization_id' : 'RESET ALL')
		c.release()
	})
	await pool.end()
}

await main({ local, pooled }, async () => {})
