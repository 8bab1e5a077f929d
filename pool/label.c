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

bool
label_has(const struct label *l, const char *name)
{
	for (size_t i = 0; l != NULL && i < l->n; i++)
		if (strcasecmp(l->pair[i].name, name) == 0)
			return true;
	return false;
}

void
labels_fini(struct labels *cache)
{
	for (size_t i = 0; i < LABELS_SLOTS; i++)
		label_unref(&cache->slot[i]);
}
