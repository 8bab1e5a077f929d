// harness: runs the scenarios named on the command line, and fails loudly.
//
//     node pg.js SCENARIO...      the database is $DSN, the other user's $OTHER
//
// A scenario is an async function, with before() in front of it.  Its assertions speak; a rejection nobody
// awaits, a hang, or a connection left open, is a failure too.

let name = 'start'

export async function main(scenarios, before) {
	process.on('unhandledRejection', fail)
	for (name of process.argv.slice(2)) {
		const late = setTimeout(() => fail(new Error('hangs')), process.env.SECONDS * 1000)
		try {
			await before()
			await scenarios[name]()
			await closed()
		} catch (e) {
			fail(e)
		}
		clearTimeout(late)
	}
	process.exit(0)
}

// Every connection must be closed by now, or on its way.
async function closed() {
	for (let n = 0; ; n++) {
		const open = process.getActiveResourcesInfo().filter(r => /TCP|TLS/.test(r))
		if (!open.length)
			return
		if (n === 200)
			throw new Error(`left open: ${open}`)
		await new Promise(r => setTimeout(r, 10))
	}
}

function fail(e) {
	console.error(`scenario ${name}:`, e)
	process.exit(1)
}

// n tasks, all at once; each gets its number.
export const together = (n, task) => Promise.all(Array.from({ length: n }, (_, i) => task(i)))

export const ORGANIZATION = {
	acme_app: 'aaaaaaaa-0000-4000-8000-000000000001',
	beta_app: 'bbbbbbbb-0000-4000-8000-000000000002',
}
