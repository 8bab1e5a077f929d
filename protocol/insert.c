#include "protocol/insert.h"

#include <assert.h>
#include <jansson.h>
#include <pg_query.h>
#include <stdio.h>
#include <stdlib.h>

#include "protocol/sql.h"

enum { NAMES_MAX = 16 }; /* of children or facts of a node */

/* What they do is done with their arguments, a clock, a sequence, or chance.
 * Operators with these names are those of pg_catalog or mean to be. */
static const char *const functions[] = {
	"abs",
	"array_append",
	"array_cat",
	"ceil",
	"clock_timestamp",
	"concat",
	"concat_ws",
	"convert_from",
	"convert_to",
	"current_setting",
	"date_part",
	"date_trunc",
	"decode",
	"encode",
	"extract",
	"floor",
	"format",
	"gen_random_uuid",
	"json_build_array",
	"json_build_object",
	"jsonb_build_array",
	"jsonb_build_object",
	"jsonb_set",
	"jsonb_strip_nulls",
	"left",
	"length",
	"lower",
	"md5",
	"nextval",
	"now",
	"octet_length",
	"replace",
	"right",
	"round",
	"sha256",
	"statement_timestamp",
	"substr",
	"substring",
	"timezone",
	"to_char",
	"to_json",
	"to_jsonb",
	"to_timestamp",
	"transaction_timestamp",
	"btrim",
	"upper",
	"uuid_generate_v1",
	"uuid_generate_v1mc",
	"uuid_generate_v4",
	"uuid_generate_v5",
	"uuidv4",
	"uuidv7",
};

static const char *const operators[] = {
	"+",   "-",  "*",  "/",  "%",  "^",  "||", "=",  "<>",  "<",
	">",   "<=", ">=", "->", "#>", "@>", "<@", "?",  "?|",  "?&",
	"->>", "&&", "#-", "~~", "&",  "|",  "#",  "<<", "#>>", ">>",
};

/*
 * The expressions that are allowed.  Each member of a node is one of three:
 * walked into, a fact of no consequence, or the end: the text is refused.
 */
static const struct node {
	const char *type;
	const char *walked[NAMES_MAX];
	const char *facts[NAMES_MAX];
} nodes[] = {
	{ "ParamRef", { NULL }, { "number", "location" } },
	{ "A_Const",
	  { NULL },
	  { "ival", "fval", "boolval", "sval", "bsval", "isnull",
	    "location" } },
	{ "ColumnRef", { NULL }, { "fields", "location" } },
	{ "TypeCast", { "arg" }, { "typeName", "location" } },
	{ "FuncCall", { "args" }, { "funcname", "funcformat", "location" } },
	{ "A_Expr", { "lexpr", "rexpr" }, { "kind", "name", "location" } },
	{ "BoolExpr", { "args" }, { "boolop", "location" } },
	{ "NullTest", { "arg" }, { "nulltesttype", "argisrow", "location" } },
	{ "BooleanTest", { "arg" }, { "booltesttype", "location" } },
	{ "CaseExpr", { "arg", "args", "defresult" }, { "location" } },
	{ "CaseWhen", { "expr", "result" }, { "location" } },
	{ "CoalesceExpr", { "args" }, { "location" } },
	{ "MinMaxExpr", { "args" }, { "op", "location" } },
	{ "SQLValueFunction", { NULL }, { "op", "typmod", "location" } },
	{ "A_ArrayExpr", { "elements" }, { "location" } },
	{ "RowExpr", { "args" }, { "row_format", "location" } },
	{ "List", { "items" }, { NULL } },
	{ "CollateClause", { "arg" }, { "collname", "location" } },
	{ "A_Indirection", { "arg", "indirection" }, { NULL } },
	{ "A_Indices", { "lidx", "uidx" }, { "is_slice" } },
	{ "A_Star", { NULL }, { NULL } },
	{ "String", { NULL }, { "sval" } },
	{ "SetToDefault", { NULL }, { "location", "typeMod" } },
	{ "ResTarget", { "val", "indirection" }, { "name", "location" } },
	{ "MultiAssignRef", { "source" }, { "colno", "ncolumns" } },
	{ "IndexElem",
	  { "expr" },
	  { "name", "indexcolname", "collation", "opclass", "ordering",
	    "nulls_ordering" } },
};

/* The same of what stands in one place only, without its type's name. */
static const struct node insert_node = {
	"InsertStmt",
	{ "returningList" },
	{ "relation", "cols", "selectStmt", "onConflictClause", "override" },
};
static const struct node relation_node = {
	"RangeVar",
	{ NULL },
	{ "schemaname", "relname", "inh", "relpersistence", "alias",
	  "location" },
};
static const struct node select_node = {
	"SelectStmt",
	{ NULL },
	{ "valuesLists", "limitOption", "op" },
};
static const struct node conflict_node = {
	"OnConflictClause",
	{ "targetList", "whereClause" },
	{ "action", "infer", "location" },
};
static const struct node infer_node = {
	"InferClause",
	{ "indexElems", "whereClause" },
	{ "conname", "location" },
};
static const struct node type_node = {
	"TypeName",
	{ NULL },
	{ "names", "typmods", "typemod", "arrayBounds", "location" },
};
static const struct node block_node = {
	"TransactionStmt",
	{ NULL },
	{ "kind" },
};

static bool is_allowed(struct insert *, const json_t *, unsigned depth);

static bool
is_in(const char *const *names, const char *name)
{
	for (size_t i = 0; i < NAMES_MAX && names[i] != NULL; i++)
		if (strcmp(names[i], name) == 0)
			return true;
	return false;
}

/* Members only; children are somebody else's business. */
static bool
is_node(const struct node *node, const json_t *members)
{
	const char *name;
	json_t *value;

	if (!json_is_object(members))
		return false;
	json_object_foreach((json_t *)members, name, value)
	{
		if (!is_in(node->facts, name) && !is_in(node->walked, name))
			return false;
	}
	return true;
}

static const char *
text_of(const json_t *object, const char *name)
{
	const char *s = json_string_value(json_object_get(object, name));

	return s && s[0] ? s : NULL;
}

static char *
copy(const char *s)
{
	char *c = s ? strdup(s) : NULL;

	if (s != NULL && c == NULL)
		abort();
	return c;
}

/* The i-th of a list of String; NULL: there is none. */
static const char *
part_of(const json_t *list, size_t i)
{
	return text_of(json_object_get(json_array_get(list, i), "String"),
		       "sval");
}

/* One word, or one of pg_catalog: NULL is what has another schema. */
static const char *
plain_name(const json_t *list)
{
	const char *first = part_of(list, 0);

	if (json_array_size(list) == 1)
		return first;
	if (json_array_size(list) == 2 && first != NULL &&
	    strcmp(first, "pg_catalog") == 0)
		return part_of(list, 1);
	return NULL;
}

/* ---- expressions ------------------------------------------------------ */

static bool
add_param(struct insert *in, const json_t *param)
{
	json_int_t n = json_integer_value(json_object_get(param, "number"));

	if (n < 1 || n > UINT16_MAX)
		return false;
	if (n > in->params)
		in->params = (unsigned)n;
	return true;
}

static bool
add_function(struct insert *in, const json_t *call)
{
	const json_t *list = json_object_get(call, "funcname");
	const char *name = plain_name(list);
	char full[2 * 64 + 2] = "";

	if (name != NULL)
		snprintf(full, sizeof(full), "%s", name);
	else if (json_array_size(list) == 2 && part_of(list, 0) != NULL &&
		 part_of(list, 1) != NULL)
		snprintf(full, sizeof(full), "%s.%s", part_of(list, 0),
			 part_of(list, 1));
	for (size_t i = 0; i < in->function_n; i++)
		if (strcmp(in->function[i], full) == 0)
			return true;
	if (full[0] == '\0' || in->function_n == INSERT_FUNCTIONS_MAX)
		return false;
	in->function[in->function_n++] = copy(full);
	return true;
}

static bool
is_operator(const json_t *expr)
{
	const json_t *list = json_object_get(expr, "name");
	const char *name = part_of(list, 0);

	if (json_array_size(list) != 1 || name == NULL)
		return false;
	for (size_t i = 0; i < sizeof(operators) / sizeof(operators[0]); i++)
		if (strcmp(operators[i], name) == 0)
			return true;
	return false;
}

static bool
is_type(const json_t *type)
{
	return is_node(&type_node, type) &&
	       json_array_size(json_object_get(type, "names")) >= 1;
}

/* What the table of nodes cannot say. */
static bool
is_harmless(struct insert *in, const char *type, const json_t *members)
{
	if (strcmp(type, "ParamRef") == 0)
		return add_param(in, members);
	if (strcmp(type, "FuncCall") == 0)
		return add_function(in, members);
	if (strcmp(type, "A_Expr") == 0)
		return is_operator(members);
	if (strcmp(type, "TypeCast") == 0)
		return is_type(json_object_get(members, "typeName"));
	return true;
}

static bool
are_allowed(struct insert *in, const struct node *node, const json_t *members,
	    unsigned depth)
{
	if (!is_node(node, members))
		return false;
	for (size_t i = 0; i < NAMES_MAX && node->walked[i] != NULL; i++) {
		const json_t *child = json_object_get(members, node->walked[i]);

		if (child != NULL && !is_allowed(in, child, depth))
			return false;
	}
	return true;
}

/* A node, or a list of nodes. */
static bool
is_allowed(struct insert *in, const json_t *expr, unsigned depth)
{
	const json_t *members;
	const char *type;

	if (depth == INSERT_DEPTH_MAX)
		return false;
	if (json_is_array(expr)) {
		for (size_t i = 0; i < json_array_size(expr); i++)
			if (!is_allowed(in, json_array_get(expr, i), depth + 1))
				return false;
		return true;
	}
	if (json_object_size(expr) != 1)
		return false;
	type = json_object_iter_key(json_object_iter((json_t *)expr));
	members = json_object_get(expr, type);
	for (size_t i = 0; i < sizeof(nodes) / sizeof(nodes[0]); i++)
		if (strcmp(nodes[i].type, type) == 0)
			return is_harmless(in, type, members) &&
			       are_allowed(in, &nodes[i], members, depth + 1);
	return false;
}

/* ---- the row ---------------------------------------------------------- */

/* What libpg_query writes for 0 it writes for every negative integer too. */
static char *
text_of_integer(const json_t *value)
{
	json_int_t n = json_integer_value(json_object_get(value, "ival"));
	char text[32];

	snprintf(text, sizeof(text), "%lld", (long long)n);
	return n > 0 ? copy(text) : NULL;
}

/* One that is stored as another if the column is of integers is none. */
static char *
text_of_number(const json_t *value)
{
	const char *s = text_of(value, "fval");

	return s && s[strspn(s, "-0123456789")] == '\0' ? copy(s) : NULL;
}

/* As it stands in the text, but for spaces behind a sign. */
static char *
number_at(struct slice text, json_int_t at)
{
	const uint8_t *p = text.p + at, *end = text.p + text.n, *from;
	bool minus;
	char *c;

	if (at <= 0 || (size_t)at >= text.n)
		return NULL;
	if ((minus = *p == '-'))
		p++;
	for (; p < end && (*p == ' ' || (*p >= '\t' && *p <= '\r')); p++)
		;
	for (from = p; p < end; p++)
		if (!(*p >= '0' && *p <= '9') && !(*p >= 'a' && *p <= 'z') &&
		    !(*p >= 'A' && *p <= 'Z') && *p != '.' &&
		    !((*p == '-' || *p == '+') && (p[-1] | 32) == 'e'))
			break;
	if (asprintf(&c, "%s%.*s", minus ? "-" : "", (int)(p - from), from) < 0)
		abort();
	return c;
}

static void
read_const(struct insert_column *c, const json_t *value, struct slice text)
{
	const json_t *v;

	if ((v = json_object_get(value, "sval")) != NULL)
		c->text = copy(text_of(v, "sval") ? text_of(v, "sval") : "");
	else if ((v = json_object_get(value, "ival")) != NULL)
		c->text = text_of_integer(v);
	else if ((v = json_object_get(value, "fval")) != NULL)
		c->text = text_of_number(v);
	if (c->text != NULL || json_is_true(json_object_get(value, "isnull")))
		c->kind = INSERT_CONST;
	else if (json_object_get(value, "ival") ||
		 json_object_get(value, "fval") ||
		 json_object_get(value, "boolval"))
		c->number = number_at(text, json_integer_value(json_object_get(
						value, "location")));
}

static void
read_value(struct insert_column *c, const json_t *value, struct slice text)
{
	const json_t *cast = json_object_get(value, "TypeCast");
	const json_t *type = json_object_get(cast, "typeName");
	const char *name = plain_name(json_object_get(type, "names"));
	const json_t *v;

	c->kind = INSERT_OTHER;
	if (cast != NULL && (name == NULL || json_object_get(type, "typmods") ||
			     json_object_get(type, "arrayBounds")))
		return;
	if (cast != NULL)
		value = json_object_get(cast, "arg");
	if ((v = json_object_get(value, "ParamRef")) != NULL) {
		c->kind = INSERT_PARAM;
		c->param =
		    (unsigned)json_integer_value(json_object_get(v, "number"));
	} else if ((v = json_object_get(value, "A_Const")) != NULL) {
		read_const(c, v, text);
	} else if (json_object_get(value, "SetToDefault") && cast == NULL) {
		c->kind = INSERT_DEFAULT;
	}
	if (c->kind != INSERT_OTHER)
		c->cast = copy(name);
}

/* The one list of VALUES. */
static const json_t *
one_row(const json_t *select)
{
	const json_t *body = json_object_get(select, "SelectStmt");
	const json_t *lists = json_object_get(body, "valuesLists");

	if (!is_node(&select_node, body) || json_array_size(lists) != 1)
		return NULL;
	return json_object_get(
	    json_object_get(json_array_get(lists, 0), "List"), "items");
}

static bool
read_row(struct insert *in, const json_t *insert, struct slice text)
{
	const json_t *cols = json_object_get(insert, "cols");
	const json_t *row = one_row(json_object_get(insert, "selectStmt"));
	size_t n = json_array_size(row);

	if (n == 0 || !is_allowed(in, row, 0) ||
	    (cols != NULL && json_array_size(cols) != n))
		return false;
	if ((in->column = calloc(n, sizeof(*in->column))) == NULL)
		abort();
	in->column_n = n;
	in->plain = cols != NULL;
	for (size_t i = 0; i < n; i++) {
		struct insert_column *c = &in->column[i];
		const json_t *col =
		    json_object_get(json_array_get(cols, i), "ResTarget");

		c->name = copy(text_of(col, "name"));
		if (cols != NULL &&
		    (c->name == NULL || json_object_get(col, "indirection")))
			return false;
		read_value(c, json_array_get(row, i), text);
		in->plain =
		    in->plain && c->kind == INSERT_PARAM && c->param == i + 1;
	}
	return true;
}

static bool
read_conflict(struct insert *in, const json_t *conflict)
{
	const json_t *infer = json_object_get(conflict, "infer");
	const char *action = text_of(conflict, "action");

	in->conflict = true;
	in->updates = action && strcmp(action, "ONCONFLICT_UPDATE") == 0;
	return are_allowed(in, &conflict_node, conflict, 0) &&
	       (infer == NULL || are_allowed(in, &infer_node, infer, 0));
}

static bool
read_insert(struct insert *in, const json_t *insert, struct slice text)
{
	const json_t *relation = json_object_get(insert, "relation");
	const json_t *conflict = json_object_get(insert, "onConflictClause");
	const char *override = text_of(insert, "override");

	if (!is_node(&relation_node, relation) ||
	    (override != NULL && strcmp(override, "OVERRIDING_NOT_SET") != 0))
		return false;
	in->schema = copy(text_of(relation, "schemaname"));
	in->table = copy(text_of(relation, "relname"));
	in->returning = json_object_get(insert, "returningList") != NULL;
	return in->table != NULL && are_allowed(in, &insert_node, insert, 0) &&
	       read_row(in, insert, text) &&
	       (conflict == NULL || read_conflict(in, conflict));
}

/* ---- the text --------------------------------------------------------- */

static bool
is_block_end(const json_t *stmt, const char *kind)
{
	const json_t *t =
	    json_object_get(json_object_get(stmt, "stmt"), "TransactionStmt");
	const char *is = text_of(t, "kind");

	return is_node(&block_node, t) && is != NULL && strcmp(is, kind) == 0;
}

static bool
is_block(const json_t *stmts)
{
	const json_t *first = json_array_get(stmts, 0);

	return json_array_size(stmts) == 3 &&
	       (is_block_end(first, "TRANS_STMT_BEGIN") ||
		is_block_end(first, "TRANS_STMT_START")) &&
	       is_block_end(json_array_get(stmts, 2), "TRANS_STMT_COMMIT");
}

static bool
read_tree(struct insert *in, const json_t *tree, struct slice text)
{
	const json_t *stmts = json_object_get(tree, "stmts"), *stmt, *insert;
	json_int_t at, len;

	in->block = is_block(stmts);
	if (json_array_size(stmts) != 1 && !in->block)
		return false;
	stmt = json_array_get(stmts, in->block ? 1 : 0);
	at = json_integer_value(json_object_get(stmt, "stmt_location"));
	len = json_integer_value(json_object_get(stmt, "stmt_len"));
	if (at < 0 || (size_t)at > text.n || len < 0 ||
	    (size_t)len > text.n - (size_t)at)
		return false;
	in->at = (size_t)at;
	in->n = len > 0 ? (size_t)len : text.n - in->at;
	insert = json_object_get(json_object_get(stmt, "stmt"), "InsertStmt");
	return insert != NULL && read_insert(in, insert, text);
}

/* Cheap for what is something else. */
static bool
may_be(struct slice text)
{
	if (!sql_begins(text, "insert") &&
	    !((sql_begins(text, "begin") || sql_begins(text, "start")) &&
	      sql_mentions(text, "insert")))
		return false;
	return text.n <= INSERT_TEXT_MAX && memchr(text.p, 0, text.n) == NULL &&
	       memmem(text.p, text.n, "\\'", 2) == NULL &&
	       sql_tokens(text, INSERT_TOKENS_MAX) <= INSERT_TOKENS_MAX;
}

static json_t *
parse(struct slice text)
{
	char *copied = malloc(text.n + 1);
	PgQueryParseResult result;
	json_t *tree = NULL;

	if (copied == NULL)
		abort();
	memcpy(copied, text.p, text.n);
	copied[text.n] = '\0';
	result = pg_query_parse(copied);
	if (result.error == NULL && result.parse_tree != NULL)
		tree =
		    json_loads(result.parse_tree, JSON_REJECT_DUPLICATES, NULL);
	pg_query_free_parse_result(result);
	free(copied);
	return tree;
}

struct insert *
insert_load(struct slice text)
{
	struct insert *in;
	json_t *tree;

	if (!may_be(text) || (tree = parse(text)) == NULL)
		return NULL;
	if ((in = calloc(1, sizeof(*in))) == NULL)
		abort();
	if (!read_tree(in, tree, text))
		insert_free(&in);
	json_decref(tree);
	return in;
}

void
insert_free(struct insert **p)
{
	struct insert *in = *p;

	if (in == NULL)
		return;
	for (size_t i = 0; i < in->column_n; i++) {
		free(in->column[i].name);
		free(in->column[i].text);
		free(in->column[i].number);
		free(in->column[i].cast);
	}
	for (size_t i = 0; i < in->function_n; i++)
		free(in->function[i]);
	free(in->column);
	free(in->schema);
	free(in->table);
	free(in);
	*p = NULL;
}

static bool
is_known(const char *name)
{
	for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++)
		if (strcmp(functions[i], name) == 0)
			return true;
	return false;
}

bool
insert_calls_only(const struct insert *in, char *const *also, size_t also_n)
{
	for (size_t i = 0; i < in->function_n; i++) {
		bool good = is_known(in->function[i]);

		for (size_t k = 0; !good && k < also_n; k++)
			good = strcmp(also[k], in->function[i]) == 0;
		if (!good)
			return false;
	}
	return true;
}

const struct insert_column *
insert_column(const struct insert *in, const char *name)
{
	for (size_t i = 0; i < in->column_n; i++)
		if (in->column[i].name != NULL &&
		    strcmp(in->column[i].name, name) == 0)
			return &in->column[i];
	return NULL;
}
