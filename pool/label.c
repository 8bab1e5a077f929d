#include "pool/label.h"

#include <assert.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/buf.h"

static void
label_digest(struct label *l)
{
	uint8_t sha[EVP_MAX_MD_SIZE];
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();

	if (ctx == NULL || EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) != 1)
		abort();
	for (size_t i = 0; i < l->n; i++) {
		EVP_DigestUpdate(ctx, l->pair[i].name,
				 strlen(l->pair[i].name) + 1);
		EVP_DigestUpdate(ctx, l->pair[i].value,
				 strlen(l->pair[i].value) + 1);
	}
	/* No name is empty: nothing else looks like this. */
	if (l->context != NULL) {
		EVP_DigestUpdate(ctx, "", 1);
		EVP_DigestUpdate(ctx, l->context, strlen(l->context) + 1);
	}
	EVP_DigestFinal_ex(ctx, sha, NULL);
	EVP_MD_CTX_free(ctx);
	memcpy(l->digest, sha, LABEL_DIGEST);
}

/* A literal is read by these when its statement is parsed. */
static const char *const reading[] = {
	"array_nulls", "datestyle", "intervalstyle",
	"lc_monetary", "timezone",  "timezone_abbreviations",
	"xmloption",   NULL
};

static uint64_t
hash_pair(uint64_t h, const struct label_pair *pair)
{
	for (const char *p = pair->name; *p != '\0'; p++)
		h = (h ^ (uint8_t)(*p | 32)) * 1099511628211u;
	for (const char *p = pair->value; *p != '\0'; p++)
		h = (h ^ (uint8_t)*p) * 1099511628211u;
	return h | 1;
}

/* UTF-8 is what nearly all databases and clients speak, asked or not. */
static bool
is_utf8(const char *value)
{
	return strcasecmp(value, "utf8") == 0 ||
	       strcasecmp(value, "utf-8") == 0 ||
	       strcasecmp(value, "unicode") == 0;
}

static void
label_read(struct label *l)
{
	for (size_t i = 0; i < l->n; i++) {
		const struct label_pair *pair = &l->pair[i];

		if (strcasecmp(pair->name, "client_encoding") == 0 &&
		    !is_utf8(pair->value))
			l->letters = hash_pair(14695981039346656037u, pair);
		for (size_t k = 0; reading[k] != NULL; k++)
			if (strcasecmp(pair->name, reading[k]) == 0)
				l->literals = hash_pair(
				    l->literals ^ 14695981039346656037u, pair);
	}
}

static int
compare(const void *a, const void *b)
{
	const struct label_pair *x = a, *y = b;

	return strcasecmp(x->name, y->name);
}

/* Sorted by insertion, so that of two equal names the later value stays. */
static size_t
sort_unique(struct label_pair *out, const struct label_pair *in, size_t n)
{
	size_t m = 0;

	for (size_t i = 0; i < n; i++) {
		size_t at = m;

		while (at > 0 && compare(&in[i], &out[at - 1]) < 0)
			at--;
		if (at > 0 && compare(&in[i], &out[at - 1]) == 0) {
			out[at - 1] = in[i];
			continue;
		}
		memmove(out + at + 1, out + at, (m - at) * sizeof(*out));
		out[at] = in[i];
		m++;
	}
	return m;
}

struct label *
label_new(struct labels *cache, const struct label_pair *pairs, size_t n)
{
	return label_new_signed(cache, pairs, n, NULL);
}

struct label *
label_new_signed(struct labels *cache, const struct label_pair *pairs, size_t n,
		 const char *context)
{
	struct label *l, **slot;
	size_t bytes = 0;
	char *text;

	for (size_t i = 0; i < n; i++)
		bytes += strlen(pairs[i].name) + strlen(pairs[i].value) + 2;
	l = malloc(sizeof(*l) + n * sizeof(l->pair[0]) + bytes);
	if (l == NULL)
		abort();
	*l = (struct label){ .refs = 1 };
	l->n = sort_unique(l->pair, pairs, n);
	text = (char *)&l->pair[n];
	for (size_t i = 0; i < l->n; i++) {
		l->pair[i].name = strcpy(text, l->pair[i].name);
		text += strlen(text) + 1;
		l->pair[i].value = strcpy(text, l->pair[i].value);
		text += strlen(text) + 1;
		if (context != NULL &&
		    strcasecmp(l->pair[i].name, context) == 0)
			l->context = l->pair[i].name;
	}
	label_digest(l);
	label_read(l);
	slot = &cache->slot[(l->digest[0] | l->digest[1] << 8) % LABELS_SLOTS];
	if (label_same(*slot, l) && *slot != NULL) {
		label_unref(&l);
		return label_ref(*slot);
	}
	label_unref(slot);
	*slot = label_ref(l);
	return l;
}

struct label *
label_ref(struct label *l)
{
	if (l != NULL)
		atomic_fetch_add(&l->refs, 1);
	return l;
}

void
label_unref(struct label **at)
{
	struct label *l = *at;

	*at = NULL;
	if (l == NULL || atomic_fetch_sub(&l->refs, 1) != 1)
		return;
	if (l->params != NULL)
		buf_free(l->params);
	free(l->params);
	free(l);
}

bool
label_same(const struct label *a, const struct label *b)
{
	if (a == b)
		return true;
	if (a == NULL || b == NULL)
		return (a ? a->n : b->n) == 0;
	return memcmp(a->digest, b->digest, LABEL_DIGEST) == 0;
}

const char *
label_value(const struct label *l, const char *name)
{
	for (size_t i = 0; l != NULL && i < l->n; i++)
		if (strcasecmp(l->pair[i].name, name) == 0)
			return l->pair[i].value;
	return NULL;
}

bool
label_has(const struct label *l, const char *name)
{
	return label_value(l, name) != NULL;
}

static bool
is_among(const struct label_pair *pairs, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (strcasecmp(pairs[i].name, name) == 0)
			return true;
	return false;
}

struct label *
label_over(struct labels *cache, const struct label *l,
	   const struct label_pair *pairs, size_t n)
{
	size_t most = n + (l ? l->n : 0), m = 0;
	struct label_pair *all = calloc(most + 1, sizeof(*all));
	struct label *over;

	if (all == NULL)
		abort();
	for (size_t i = 0; l != NULL && i < l->n; i++)
		if (l->pair[i].name == l->context ||
		    !is_among(pairs, n, l->pair[i].name))
			all[m++] = l->pair[i];
	for (size_t i = 0; i < n; i++)
		if (pairs[i].value != NULL &&
		    !(l && l->context &&
		      strcasecmp(l->context, pairs[i].name) == 0))
			all[m++] = pairs[i];
	over = label_new_signed(cache, all, m, l ? l->context : NULL);
	free(all);
	return over;
}

uint64_t
label_reads(const struct label *l, struct slice text)
{
	bool quotes = false, letters = false;

	if (l == NULL || (l->literals == 0 && l->letters == 0))
		return 0;
	for (size_t i = 0; i < text.n && text.p[i] != '\0'; i++) {
		quotes |= text.p[i] == '\'' || text.p[i] == '$';
		letters |= text.p[i] >= 0x80;
	}
	return (quotes ? l->literals : 0) ^ (letters ? l->letters << 1 : 0);
}

void
labels_fini(struct labels *cache)
{
	for (size_t i = 0; i < LABELS_SLOTS; i++)
		label_unref(&cache->slot[i]);
}
