// node-postgres: transactions of one INSERT, one after the other.
import assert from 'node:assert/strict'
import pg from 'pg'

const { DSN, DOC, EACH } = process.env
const client = new pg.Client({ connectionString: DSN })

await client.connect()
for (let i = 0; i < +EACH; i++) {
	await client.query('BEGIN')
	const { rowCount } = await client.query(
		'INSERT INTO ops (doc, clock, data) VALUES ($1, $2, $3)', [DOC, i, { i }])
	assert.equal(rowCount, 1)
	assert.equal((await client.query('COMMIT')).command, 'COMMIT')
}
await client.end()
