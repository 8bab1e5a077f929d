#include "tests/t.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conf/tenant.h"
#include "protocol/jwt.h"

static const struct tenant acme = { .slug = "acme", .id = "id-1" };

static void
expands(const char *template, const struct tenant *t, const char *user,
	const char *want)
{
	char *got = tenant_expand(template, t, user, NULL);

	assert_non_null(got);
	assert_string_equal(got, want);
	free(got);
}

static void
a_template_without_facts_is_its_own_value(void **state)
{
	(void)state;
	expands("", &acme, "u", "");
	expands("public, \"x\"", &acme, "u", "public, \"x\"");
	expands("{user} $1 \\", NULL, "u", "{user} $1 \\");
	expands("100%%", &acme, "u", "100%");
	expands("%%%%{user}", &acme, "u", "%%{user}");
}

static void
facts_are_filled_in_wherever_they_stand(void **state)
{
	(void)state;
	expands("%{organization.id}", &acme, "u", "id-1");
	expands("%{organization.slug}", &acme, "u", "acme");
	expands("%{user}", &acme, "u", "u");
	expands("<%{user}@%{organization.slug}%%%{user}>", &acme, "u",
		"<u@acme%u>");
}

static void
a_fact_is_not_expanded_again(void **state)
{
	(void)state;
	expands("%{user}", &acme, "%{organization.id}%%",
		"%{organization.id}%%");
}

static void
without_an_organization_its_templates_are_empty_as_a_whole(void **state)
{
	(void)state;
	expands("%{organization.id}", NULL, "u", "");
	expands("org-%{organization.slug}-%{user}", NULL, "u", "");
	expands("%{user}", NULL, "u", "u");
	expands("%{user}", NULL, NULL, "");
}

/* A token with these claims, signed by ourselves and so believed. */
static struct jwt *
token(const char *claims)
{
	static const char secret[] = "0123456789abcdef0123456789abcdef";
	static const char header[] = "eyJhbGciOiJIUzI1NiJ9"; /* HS256 */
	const struct jwt_trust trust = { .secret = secret };
	uint8_t md[32], base64[1024];
	char text[2048], *p;
	const char *why;
	struct jwt *jwt;

	EVP_EncodeBlock(base64, (const uint8_t *)claims, (int)strlen(claims));
	snprintf(text, sizeof(text), "%s.%s", header, (char *)base64);
	text[strcspn(text, "=")] = '\0';
	HMAC(EVP_sha256(), secret, sizeof(secret) - 1, (uint8_t *)text,
	     strlen(text), md, NULL);
	EVP_EncodeBlock(base64, md, sizeof(md));
	strcat(strcat(text, "."), (char *)base64);
	text[strcspn(text, "=")] = '\0';
	while ((p = strpbrk(text, "+/")) != NULL)
		*p = *p == '+' ? '-' : '_';
	jwt = jwt_open(slice_str(text), &trust, 0, &why);
	assert_non_null(jwt);
	return jwt;
}

static void
claims_of_a_token_are_filled_in(void **state)
{
	static const char *const cases[][2] = {
		{ "%{jwt.sub}", "ann" },
		{ "<%{jwt.team}/%{organization.id}/%{jwt.sub}>",
		  "<7/id-1/ann>" },
		{ "%{jwt.admin}", "true" },
		{ "%{jwt.https://example.com/a.b}", "%{user}" },
		/* What is not there hides all of it: policies fail closed. */
		{ "%{jwt.none}", "" },
		{ "x%{jwt.none}y%{jwt.sub}", "" },
		{ "%{jwt.null}", "" },
		{ "%{jwt.list}", "" },
		{ "%{jwt.Sub}", "" },
	};
	struct jwt *jwt =
	    token("{\"exp\":99,\"sub\":\"ann\",\"team\":7,\"admin\":true,"
		  "\"null\":null,\"list\":[1],"
		  "\"https://example.com/a.b\":\"%{user}\"}");

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char *got = tenant_expand(cases[i][0], &acme, "u", jwt);

		assert_string_equal(got, cases[i][1]);
		free(got);
		got = tenant_expand(cases[i][0], &acme, "u", NULL);
		assert_string_equal(got, "");
		free(got);
	}
	jwt_close(&jwt);
}

/* Whatever the tenant: what is malformed is so for everybody. */
static void
a_malformed_template_is_refused_for_everybody(void **state)
{
	static const char *const bad[] = {
		"%",
		"a%",
		"%{",
		"%{}",
		"%{user",
		"%{users}",
		"%{User}",
		"%{ user}",
		"%{organization}",
		"%{organization.name}",
		"%{jwt.}",
		"%{jwt.sub",
		"%{jwt}",
		"%{JWT.sub}",
		"%s",
		"%{organization.id}%{nope}",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_null(tenant_expand(bad[i], &acme, "u", NULL));
		assert_null(tenant_expand(bad[i], NULL, NULL, NULL));
	}
}

/* Cut anywhere, it is what stands there or it is refused; never half a fact. */
static void
every_prefix_of_a_template_is_whole_or_refused(void **state)
{
	static const char template[] = "a%{organization.id}b%%c%{user}";
	static const char value[] = "aid-1b%cu";

	(void)state;
	for (size_t n = 0; n < sizeof(template); n++) {
		char *cut = strndup(template, n);
		char *got = tenant_expand(cut, &acme, "u", NULL);

		if (got != NULL)
			assert_memory_equal(got, value, strlen(got));
		if (n > 0 && cut[n - 1] == '%' && cut[n - 2] != '%')
			assert_null(got);
		free(got);
		free(cut);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_template_without_facts_is_its_own_value),
		cmocka_unit_test(facts_are_filled_in_wherever_they_stand),
		cmocka_unit_test(a_fact_is_not_expanded_again),
		cmocka_unit_test(
		    without_an_organization_its_templates_are_empty_as_a_whole),
		cmocka_unit_test(claims_of_a_token_are_filled_in),
		cmocka_unit_test(a_malformed_template_is_refused_for_everybody),
		cmocka_unit_test(
		    every_prefix_of_a_template_is_whole_or_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
