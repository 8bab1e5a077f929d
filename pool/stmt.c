#include "pool/stmt.h"

#include <assert.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

#include "pool/label.h"

static void *
need(void *p)
{
	if (p == NULL)
		abort(); /* bounded by what clients may keep */
	return p;
}

void
stmt_name(char out[STMT_NAME + 1], const uint8_t digest[STMT_DIGEST])
{
	static const char hex[] = "0123456789abcdef";
	char *p = out;

	memcpy(p, "weir_", 5);
	p += 5;
	for (int i = 0; i < STMT_DIGEST; i++) {
		*p++ = hex[digest[i] >> 4];
		*p++ = hex[digest[i] & 15];
	}
	*p = '\0';
}

/* ---- a worker's statements -------------------------------------------- */

static size_t
digest_hash(const uint8_t *digest)
{
	size_t h;

	memcpy(&h, digest, sizeof(h)); /* SHA-256: as random as it gets */
	return h;
}

static void
stmts_grow(struct stmts *all)
{
	size_t buckets = all->buckets ? all->buckets * 2 : 64;
	struct stmt **bucket = need(calloc(buckets, sizeof(*bucket)));

	for (size_t i = 0; i < all->buckets; i++) {
		struct stmt *s;

		while ((s = all->bucket[i]) != NULL) {
			struct stmt **at;

			all->bucket[i] = s->chain;
			at = &bucket[digest_hash(s->digest) & (buckets - 1)];
			s->chain = *at;
			*at = s;
		}
	}
	free(all->bucket);
	all->bucket = bucket;
	all->buckets = buckets;
}

static void
digest_of(uint8_t out[STMT_DIGEST], const void *p, size_t n)
{
	uint8_t sha[EVP_MAX_MD_SIZE];

	if (EVP_Digest(p, n, sha, NULL, EVP_sha256(), NULL) != 1)
		abort();
	memcpy(out, sha, STMT_DIGEST);
}

static struct stmt_renewal *
renewal_of(const struct stmts *all, const uint8_t base[STMT_DIGEST])
{
	size_t n =
	    all->renewed_n < STMT_RENEWED ? all->renewed_n : STMT_RENEWED;

	for (size_t i = 0; i < n; i++)
		if (memcmp(all->renewed[i].base, base, STMT_DIGEST) == 0)
			return &all->renewed[i];
	return NULL;
}

void
stmt_renew(struct stmts *all, struct stmt *s)
{
	struct stmt_renewal *r = renewal_of(all, s->base);

	if (s->stale)
		return;
	s->stale = true;
	if (all->renewed == NULL)
		all->renewed =
		    need(calloc(STMT_RENEWED, sizeof(*all->renewed)));
	if (r == NULL)
		r = &all->renewed[all->renewed_n++ % STMT_RENEWED];
	memcpy(r->base, s->base, STMT_DIGEST);
	if (RAND_bytes((uint8_t *)&r->salt, sizeof(r->salt)) != 1)
		abort();
}

struct stmt *
stmt_intern(struct stmts *all, struct slice body, unsigned flags)
{
	return stmt_intern_as(all, NULL, body, flags);
}

struct stmt *
stmt_intern_as(struct stmts *all, const struct label *label, struct slice body,
	       unsigned flags)
{
	struct {
		uint8_t base[STMT_DIGEST];
		uint64_t reads;
	} read = { .reads = label_reads(label, body) };
	uint8_t base[STMT_DIGEST], sha[STMT_DIGEST];
	struct stmt_renewal *r;
	struct stmt **at, *s;

	digest_of(base, body.p, body.n);
	if (read.reads != 0) {
		memcpy(read.base, base, STMT_DIGEST);
		digest_of(base, &read, sizeof(read));
	}
	memcpy(sha, base, sizeof(sha));
	if ((r = renewal_of(all, base)) != NULL)
		digest_of(sha, r, sizeof(*r));
	if (all->n >= all->buckets)
		stmts_grow(all);
	at = &all->bucket[digest_hash(sha) & (all->buckets - 1)];
	for (s = *at; s != NULL; s = s->chain)
		if (!s->stale && memcmp(s->digest, sha, STMT_DIGEST) == 0)
			return stmt_ref(s);
	s = need(malloc(sizeof(*s) + body.n));
	*s = (struct stmt){
		.refs = 1, .flags = flags, .len = body.n, .chain = *at
	};
	memcpy(s->digest, sha, STMT_DIGEST);
	memcpy(s->base, base, STMT_DIGEST);
	stmt_name(s->name, s->digest);
	memcpy(s->body, body.p, body.n);
	*at = s;
	all->n++;
	return s;
}

struct stmt *
stmt_ref(struct stmt *s)
{
	s->refs++;
	return s;
}

void
stmt_unref(struct stmts *all, struct stmt **sp)
{
	struct stmt *s = *sp, **at;

	*sp = NULL;
	if (s == NULL)
		return;
	assert(s->refs > 0);
	if (--s->refs > 0)
		return;
	at = &all->bucket[digest_hash(s->digest) & (all->buckets - 1)];
	while (*at != s)
		at = &(*at)->chain;
	*at = s->chain;
	all->n--;
	free(s);
}

void
stmts_fini(struct stmts *all)
{
	assert(all->n == 0);
	free(all->bucket);
	free(all->renewed);
	*all = (struct stmts){ 0 };
}

/* ---- a client's names ------------------------------------------------- */

static size_t
name_hash(const uint8_t *p, size_t n)
{
	uint64_t h = 14695981039346656037u;

	for (size_t i = 0; i < n; i++)
		h = (h ^ p[i]) * 1099511628211u;
	return (size_t)(h ^ h >> 32);
}

static void
names_grow(struct stmt_names *names)
{
	size_t buckets = names->buckets ? names->buckets * 4 : 4;
	struct stmt_entry **bucket = need(calloc(buckets, sizeof(*bucket)));

	for (size_t i = 0; i < names->buckets; i++) {
		struct stmt_entry *e;

		while ((e = names->bucket[i]) != NULL) {
			size_t h = name_hash((uint8_t *)e->name, e->name_len);

			names->bucket[i] = e->chain;
			e->chain = bucket[h & (buckets - 1)];
			bucket[h & (buckets - 1)] = e;
		}
	}
	free(names->bucket);
	names->bucket = bucket;
	names->buckets = buckets;
}

struct stmt_entry *
stmt_names_find(const struct stmt_names *names, struct slice name)
{
	struct stmt_entry *e;

	if (names->buckets == 0)
		return NULL;
	e = names->bucket[name_hash(name.p, name.n) & (names->buckets - 1)];
	/* One that is being closed does not count: its name is free again. */
	while (e != NULL &&
	       (e->stmt == NULL || e->id < names->hidden ||
		e->name_len != name.n || memcmp(e->name, name.p, name.n) != 0))
		e = e->chain;
	return e;
}

struct stmt_entry *
stmt_names_find_id(const struct stmt_names *names, uint32_t id)
{
	for (size_t i = 0; i < names->buckets; i++)
		for (struct stmt_entry *e = names->bucket[i]; e; e = e->chain)
			if (e->id == id)
				return e;
	return NULL;
}

struct stmt_entry *
stmt_names_add(struct stmt_names *names, struct slice name, struct stmt *s)
{
	struct stmt_entry *e, **at;

	if (names->n >= STMT_NAMES_MAX ||
	    s->len > STMT_BYTES_MAX - names->bytes)
		return NULL;
	if (names->n >= names->buckets)
		names_grow(names);
	e = need(malloc(sizeof(*e) + name.n));
	at = &names->bucket[name_hash(name.p, name.n) & (names->buckets - 1)];
	*e = (struct stmt_entry){ .chain = *at,
				  .stmt = s,
				  .id = ++names->last_id,
				  .name_len = name.n };
	memcpy(e->name, name.p, name.n);
	*at = e;
	names->n++;
	names->bytes += s->len;
	return e;
}

void
stmt_names_told_types(struct stmt_entry *e, struct slice types)
{
	if (e->types_n == types.n && types.n > 0 &&
	    memcmp(e->types, types.p, types.n) == 0)
		return;
	free(e->types);
	e->types = types.n > 0 ? need(malloc(types.n)) : NULL;
	e->types_n = types.n;
	if (types.n > 0)
		memcpy(e->types, types.p, types.n);
}

void
stmt_names_drop(struct stmt_names *names, struct stmts *all,
		struct stmt_entry *e)
{
	size_t h = name_hash((uint8_t *)e->name, e->name_len);
	struct stmt_entry **at = &names->bucket[h & (names->buckets - 1)];

	while (*at != e)
		at = &(*at)->chain;
	*at = e->chain;
	names->n--;
	names->bytes -= e->stmt ? e->stmt->len : e->closed->len;
	stmt_unref(all, &e->stmt);
	stmt_unref(all, &e->closed);
	free(e->types);
	free(e);
}

void
stmt_entry_read(struct stmt_entry *e, struct stmts *all,
		const struct label *label)
{
	uint64_t reads =
	    label != NULL ? label->literals ^ label->letters << 1 : 0;
	struct stmt *old = e->stmt;

	if (old == NULL || old->stale || e->reads == reads)
		return;
	e->reads = reads;
	e->stmt = stmt_intern_as(all, label, slice_of(old->body, old->len),
				 old->flags);
	stmt_unref(all, &old);
}

void
stmt_names_hide(struct stmt_names *names)
{
	names->hidden = names->last_id + 1;
}

void
stmt_names_unhide(struct stmt_names *names, struct stmts *all, bool dropped)
{
	uint32_t hidden = names->hidden;

	names->hidden = 0;
	for (size_t i = 0; dropped && i < names->buckets; i++) {
		struct stmt_entry *next, *e = names->bucket[i];

		for (; e != NULL; e = next) {
			next = e->chain;
			if (hidden == 0 || e->id < hidden)
				stmt_names_drop(names, all, e);
		}
	}
}

void
stmt_names_fini(struct stmt_names *names, struct stmts *all)
{
	for (size_t i = 0; i < names->buckets; i++)
		while (names->bucket[i] != NULL)
			stmt_names_drop(names, all, names->bucket[i]);
	free(names->bucket);
	*names = (struct stmt_names){ 0 };
}

/* ---- what a server has ------------------------------------------------ */

void
stmt_held_init(struct stmt_held *h, unsigned max)
{
	*h = (struct stmt_held){ .max = (uint16_t)(max > 10000 ? 10000 : max) };
	if (h->max == 0)
		h->max = 1;
}

void
stmt_held_clear(struct stmt_held *h)
{
	free(h->slot);
	h->slot = NULL;
	h->n = h->size = 0;
}

void
stmt_held_fini(struct stmt_held *h)
{
	stmt_held_clear(h);
}

void
stmt_held_sync(struct stmt_held *h)
{
	h->epoch++;
}

void
stmt_held_doubt(struct stmt_held *h, const uint8_t digest[STMT_DIGEST])
{
	for (struct stmt_slot *s = h->slot; s < h->slot + h->size; s++)
		if (digest == NULL ||
		    memcmp(s->digest, digest, STMT_DIGEST) == 0)
			s->doubted = true;
}

static bool
slot_is_free(const struct stmt_slot *s)
{
	return !s->has && s->asked == 0;
}

static bool
slot_counts(const struct stmt_slot *s)
{
	return s->asked > 0 ? s->will : s->has;
}

/* Tens to hundreds of slots of 32 bytes: a scan of the digests is as fast as
 * a hash for the usual few, and needs nothing kept in step. */
static struct stmt_slot *
slot_find(struct stmt_held *h, const uint8_t digest[STMT_DIGEST])
{
	for (uint16_t i = 0; i < h->size; i++)
		if (!slot_is_free(&h->slot[i]) &&
		    memcmp(h->slot[i].digest, digest, STMT_DIGEST) == 0)
			return &h->slot[i];
	return NULL;
}

static uint16_t
slot_number(const struct stmt_held *h, const struct stmt_slot *s)
{
	return (uint16_t)(s - h->slot);
}

/* A Parse or a Close of it goes out. */
static uint16_t
slot_ask(struct stmt_held *h, struct stmt_slot *s, bool parse)
{
	bool before = slot_counts(s);

	assert(s->asked < UINT16_MAX); /* the ledger is full long before */
	s->asked++;
	s->will = parse;
	s->doubted = false;
	s->epoch = h->epoch;
	s->used = ++h->clock;
	h->n = (uint16_t)(h->n + parse - before);
	return slot_number(h, s);
}

/* What is on its way comes after it. */
void
stmt_held_forget(struct stmt_held *h)
{
	h->n = 0;
	for (uint16_t i = 0; i < h->size; i++) {
		h->slot[i].has = false;
		h->slot[i].doubted &= h->slot[i].asked > 0;
		h->n = (uint16_t)(h->n + slot_counts(&h->slot[i]));
	}
}

uint16_t
stmt_held_find(struct stmt_held *h, const uint8_t digest[STMT_DIGEST])
{
	struct stmt_slot *s = slot_find(h, digest);

	if (s == NULL || s->doubted ||
	    (s->asked > 0 && (!s->will || s->epoch != h->epoch)))
		return STMT_NONE;
	s->used = ++h->clock;
	return slot_number(h, s);
}

uint16_t
stmt_held_evict(struct stmt_held *h)
{
	struct stmt_slot *oldest = NULL;

	if (h->n < h->max)
		return STMT_NONE;
	for (struct stmt_slot *s = h->slot; s < h->slot + h->size; s++)
		if (s->has && s->asked == 0 &&
		    (oldest == NULL || s->used < oldest->used))
			oldest = s;
	return oldest ? slot_ask(h, oldest, false) : STMT_NONE;
}

uint16_t
stmt_held_unsure(struct stmt_held *h, const uint8_t digest[STMT_DIGEST])
{
	struct stmt_slot *s = slot_find(h, digest);

	if (s == NULL || (!s->doubted && s->epoch == h->epoch && !s->will))
		return STMT_NONE;
	return slot_ask(h, s, false);
}

static struct stmt_slot *
slot_new(struct stmt_held *h, const uint8_t digest[STMT_DIGEST])
{
	uint16_t i, size;

	for (i = 0; i < h->size && !slot_is_free(&h->slot[i]); i++)
		;
	if (i == h->size) {
		size = (uint16_t)(h->size ? h->size * 2 : 8);
		assert(size > h->size && size < STMT_NONE);
		h->slot = need(realloc(h->slot, size * sizeof(*h->slot)));
		memset(h->slot + h->size, 0,
		       (size_t)(size - h->size) * sizeof(*h->slot));
		h->size = size;
	}
	memcpy(h->slot[i].digest, digest, STMT_DIGEST);
	h->slot[i].doubted = false;
	return &h->slot[i];
}

uint16_t
stmt_held_add(struct stmt_held *h, const uint8_t digest[STMT_DIGEST])
{
	struct stmt_slot *s = slot_find(h, digest);

	return slot_ask(h, s ? s : slot_new(h, digest), true);
}

void
stmt_held_settle(struct stmt_held *h, uint16_t slot, bool parse, bool done)
{
	struct stmt_slot *s;
	bool before;

	if (slot >= h->size)
		return; /* cleared meanwhile */
	s = &h->slot[slot];
	assert(s->asked > 0);
	before = slot_counts(s);
	s->asked--;
	if (done)
		s->has = parse;
	h->n = (uint16_t)(h->n + slot_counts(s) - before);
}
