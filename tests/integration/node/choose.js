// What a web application does: an organization for each task, on a pool's connections.
import assert from 'node:assert/strict'

export const { DSN, INSERT, READ } = process.env
const rows = JSON.parse(process.env.ROWS)
const slugs = Object.keys(rows)

export const id = slug => rows[slug][0][0]
export const insert = slug => INSERT.replace('%s', slug)
export const owns = (slug, found) => assert.deepEqual(found, rows[slug])
export const ownsNothing = found => assert.deepEqual(found, [])

// work(n, slug) for all tasks at once; the pool says how many run.
export const tasks = work => Promise.all(Array.from(
	{ length: +process.env.TASKS }, (_, n) => work(n, slugs[n % slugs.length])))
