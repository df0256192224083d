/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * conf: configuration files (INI, split by inih) read through a table of keys. Called by
 * every program at its start. The first error ends the reading and is said with
 * file, line, key, value and what is allowed; nothing is silently ignored or cut.
 *
 * inih splits lines; it gives no line numbers, cuts long lines and names, and does not tell of
 * sections without keys. So the lines pass through feed_line(), which sees to all that.
 */
#include "conf.h"
#include "util.h"

#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>

#define CONF_FILE_MAX (1u << 20)
#define CONF_LINE_MAX 190u /* inih: 200 with line end and NUL */
#define CONF_NAME_MAX 48u  /* inih cuts sections and keys at 50 */
#define CONF_SECTIONS_MAX 256u
#define CONF_KEYS_MAX 64u /* of one kind: a bit each in loader.given */

struct loader {
	const struct conf_schema *schema;
	void *config;
	const char *name; /* of the file */
	const char *next; /* what inih has not seen */
	unsigned line;
	char *seen[CONF_SECTIONS_MAX];
	unsigned seen_count;
	char kind[CONF_NAME_MAX + 2];
	void *target;	/* struct of the current section */
	uint64_t given; /* keys met in it, by their place in the kind's list */
	int result;
	char *error;
	size_t error_bytes;
};

static int fail(struct loader *loader, int result, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

static int fail(struct loader *loader, int result, const char *format, ...)
{
	va_list arguments;
	int bytes;

	if (loader->result)
		return loader->result; /* the first error is the one to mend */
	loader->result = result;
	if (loader->line)
		bytes = snprintf(loader->error, loader->error_bytes, "%s:%u: ", loader->name,
				 loader->line);
	else
		bytes = snprintf(loader->error, loader->error_bytes, "%s: ", loader->name);
	if (bytes < 0 || (size_t)bytes >= loader->error_bytes)
		return result;
	va_start(arguments, format);
	vsnprintf(loader->error + bytes, loader->error_bytes - (size_t)bytes, format, arguments);
	va_end(arguments);
	return result;
}

/* Values. */

static int parse_number(const char *text, uint64_t *number, const char **rest)
{
	char *end;

	/* strtoull takes signs and blanks; a size has none */
	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	errno = 0;
	*number = strtoull(text, &end, 10);
	if (errno)
		return -EINVAL;
	*rest = end;
	return 0;
}

static int scale(uint64_t *number, uint64_t factor)
{
	return __builtin_mul_overflow(*number, factor, number) ? -EINVAL : 0;
}

/** conf_parse_bytes - "4096", "64K", "1 GiB"; K, M, G, T are powers of 1024; no fractions */
int conf_parse_bytes(const char *text, uint64_t *bytes)
{
	static const char units[] = "KMGT";
	const char *rest, *unit;
	uint64_t number, factor = 1;

	if (parse_number(text, &number, &rest))
		return -EINVAL;
	while (*rest == ' ')
		rest++;
	unit = *rest ? strchr(units, toupper((unsigned char)*rest)) : NULL;
	if (unit) {
		factor = 1ull << (10 * (unit - units + 1));
		rest++;
		if (!strcasecmp(rest, "iB"))
			rest += 2;
	}
	if (*rest || scale(&number, factor))
		return -EINVAL;
	*bytes = number;
	return 0;
}

/** conf_parse_ms - "300ms", "5s", "10min", "1h", "2d"; a bare number is seconds */
int conf_parse_ms(const char *text, uint64_t *ms)
{
	static const struct {
		const char *name;
		uint64_t ms;
	} units[] = {
		{ "", 1000 },	   { "ms", 1 },	     { "s", 1000 },
		{ "min", 60000 },  { "h", 3600000 }, { "d", 86400000 },
	};
	const char *rest;
	uint64_t number;

	if (parse_number(text, &number, &rest))
		return -EINVAL;
	while (*rest == ' ')
		rest++;
	for (size_t i = 0; i < ARRAY_LENGTH(units); i++) {
		if (strcmp(rest, units[i].name))
			continue;
		if (scale(&number, units[i].ms))
			return -EINVAL;
		*ms = number;
		return 0;
	}
	return -EINVAL;
}

const char *conf_format_bytes(uint64_t bytes, char *out, size_t out_bytes)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	uint64_t divisor = 1;
	size_t unit = 0;

	while (unit + 1 < ARRAY_LENGTH(units) && bytes / divisor >= 1024) {
		divisor *= 1024;
		unit++;
	}
	if (bytes % divisor)
		snprintf(out, out_bytes, "%.1f %s", (double)bytes / (double)divisor, units[unit]);
	else
		snprintf(out, out_bytes, "%" PRIu64 " %s", bytes / divisor, units[unit]);
	return out;
}

static int parse_bool(const char *text, bool *value)
{
	static const char *const yes[] = { "yes", "true", "on", "1" };
	static const char *const no[] = { "no", "false", "off", "0" };

	for (size_t i = 0; i < ARRAY_LENGTH(yes); i++) {
		if (!strcasecmp(text, yes[i]) || !strcasecmp(text, no[i])) {
			*value = !strcasecmp(text, yes[i]);
			return 0;
		}
	}
	return -EINVAL;
}

static const char *allowed(const struct conf_key *key, char *out, size_t out_bytes)
{
	size_t used = 0;

	out[0] = '\0';
	switch (key->type) {
	case CONF_STRING:
		snprintf(out, out_bytes, "a text");
		break;
	case CONF_BYTES:
		snprintf(out, out_bytes, "a size such as 65536, 64K, 256M or 4G");
		break;
	case CONF_MS:
		snprintf(out, out_bytes, "a time such as 300ms, 5s, 10min or 1h");
		break;
	case CONF_NUMBER:
		snprintf(out, out_bytes, "a whole number");
		break;
	case CONF_BOOL:
		snprintf(out, out_bytes, "yes or no");
		break;
	case CONF_CHOICE:
		for (size_t i = 0; key->choices[i] && used < out_bytes; i++) {
			int put = snprintf(out + used, out_bytes - used, "%s%s",
					   i ? ", " : "one of ", key->choices[i]);

			used += put > 0 ? (size_t)put : 0;
		}
		break;
	}
	return out;
}

static void format_bound(const struct conf_key *key, uint64_t value, char *out, size_t out_bytes)
{
	if (key->type == CONF_BYTES)
		conf_format_bytes(value, out, out_bytes);
	else if (key->type == CONF_MS && value % 1000)
		snprintf(out, out_bytes, "%" PRIu64 "ms", value);
	else if (key->type == CONF_MS)
		snprintf(out, out_bytes, "%" PRIu64 "s", value / 1000);
	else
		snprintf(out, out_bytes, "%" PRIu64, value);
}

static void set_string(void *field, char *text)
{
	char *old;

	/* Through memcpy: @field is a char * somewhere in the owner's struct. */
	memcpy(&old, field, sizeof(old));
	free(old);
	memcpy(field, &text, sizeof(text));
}

/* Return: 0; -EINVAL does not parse; -ERANGE outside the bounds; -ENOMEM */
static int set_value(const struct conf_key *key, const char *text, void *target)
{
	void *field = (char *)target + key->offset;
	uint64_t number = 0;
	bool flag;
	char *copy;

	switch (key->type) {
	case CONF_STRING:
		copy = strdup(text);
		if (!copy)
			return -ENOMEM;
		set_string(field, copy);
		return 0;
	case CONF_BOOL:
		if (parse_bool(text, &flag))
			return -EINVAL;
		memcpy(field, &flag, sizeof(flag));
		return 0;
	case CONF_CHOICE:
		for (int i = 0; key->choices[i]; i++) {
			if (!strcasecmp(text, key->choices[i])) {
				memcpy(field, &i, sizeof(i));
				return 0;
			}
		}
		return -EINVAL;
	case CONF_BYTES:
		if (conf_parse_bytes(text, &number))
			return -EINVAL;
		break;
	case CONF_MS:
		if (conf_parse_ms(text, &number))
			return -EINVAL;
		break;
	case CONF_NUMBER: {
		const char *rest;

		if (parse_number(text, &number, &rest) || *rest)
			return -EINVAL;
		break;
	}
	}
	if ((key->min || key->max) && (number < key->min || number > key->max))
		return -ERANGE;
	memcpy(field, &number, sizeof(number));
	return 0;
}

static void set_default(const struct conf_key *key, void *target)
{
	void *field = (char *)target + key->offset;

	/* The bounds are for the file: a default outside them can mean "not set". */
	if (key->type == CONF_STRING) {
		set_string(field, key->text ? strdup(key->text) : NULL);
	} else if (key->type == CONF_BOOL) {
		memset(field, 0, sizeof(bool));
	} else if (key->type == CONF_CHOICE) {
		memset(field, 0, sizeof(int));
	} else {
		memset(field, 0, sizeof(uint64_t));
	}
	if (key->text && key->type != CONF_STRING) {
		struct conf_key unbounded = *key;

		unbounded.min = unbounded.max = 0;
		if (set_value(&unbounded, key->text, target))
			abort(); /* a mistake in the program's table */
	}
}

void conf_defaults(const struct conf_schema *schema, const char *kind, void *target)
{
	for (const struct conf_key *key = schema->keys; key->section; key++) {
		if (!strcmp(key->section, kind))
			set_default(key, target);
	}
}

void *conf_instance(void *entries, size_t entry_bytes, size_t max, size_t *count, const char *name)
{
	char **entry = entries;

	for (size_t i = 0; i < *count; i++) {
		if (!strcmp(*entry, name))
			return entry;
		entry = (char **)((char *)entry + entry_bytes);
	}
	if (*count == max)
		return NULL;
	*entry = strdup(name);
	if (!*entry)
		return NULL;
	++*count;
	return entry;
}

void conf_free(const struct conf_schema *schema, const char *kind, void *target)
{
	for (const struct conf_key *key = schema->keys; key->section; key++) {
		if (!strcmp(key->section, kind) && key->type == CONF_STRING)
			set_string((char *)target + key->offset, NULL);
	}
}

/* Sections. */

static int remember_section(struct loader *loader, const char *header)
{
	for (unsigned i = 0; i < loader->seen_count; i++) {
		if (!strcmp(loader->seen[i], header))
			return fail(loader, -EINVAL, "section [%s] is there twice: put its keys "
				    "under one heading", header);
	}
	if (loader->seen_count == CONF_SECTIONS_MAX)
		return fail(loader, -E2BIG, "more than %u sections", CONF_SECTIONS_MAX);
	loader->seen[loader->seen_count] = strdup(header);
	if (!loader->seen[loader->seen_count])
		return fail(loader, -ENOMEM, "out of memory");
	loader->seen_count++;
	return 0;
}

static bool kind_known(const struct conf_schema *schema, const char *kind)
{
	for (const struct conf_key *key = schema->keys; key->section; key++) {
		if (!strcmp(key->section, kind))
			return true;
	}
	return false;
}

/* @line begins at the '['. */
static int open_section(struct loader *loader, const char *line)
{
	char header[CONF_NAME_MAX + 2];
	const char *end = strchr(line, ']');
	size_t length;
	char *name;
	bool known;

	if (!end)
		return fail(loader, -EINVAL, "section heading without ']': %s", line);
	for (const char *rest = end + 1; *rest && *rest != ';' && *rest != '#'; rest++) {
		if (!isspace((unsigned char)*rest))
			return fail(loader, -EINVAL, "text after the section heading: %s", rest);
	}
	length = (size_t)(end - line) - 1;
	if (length > CONF_NAME_MAX)
		return fail(loader, -EINVAL, "section heading is longer than %u characters",
			    CONF_NAME_MAX);
	snprintf(header, sizeof(header), "%.*s", (int)length, line + 1);
	if (remember_section(loader, header))
		return loader->result;

	name = strpbrk(header, " \t");
	if (name) {
		*name++ = '\0';
		name += strspn(name, " \t");
	}
	snprintf(loader->kind, sizeof(loader->kind), "%s", header);
	if (!*header || (name && !*name))
		return fail(loader, -EINVAL, "section heading without a name: %s", line);
	known = kind_known(loader->schema, header);
	loader->target = known ? loader->schema->section(loader->config, header, name) : NULL;
	if (!loader->target) {
		const char *why = "in this program's configuration";

		if (known && name)
			why = "(it takes no name, or there are too many of them)";
		else if (known)
			why = "(it needs a name: [kind name])";
		return fail(loader, -EINVAL, "there is no section [%s%s%s] %s", header,
			    name ? " " : "", name ? name : "", why);
	}
	loader->given = 0;
	conf_defaults(loader->schema, header, loader->target);
	return 0;
}

/* inih's fgets: hands over a line after a look at it; NULL at the end, or after an error. */
static char *feed_line(char *out, int out_bytes, void *user)
{
	struct loader *loader = user;
	const char *start = loader->next;
	const char *end;
	size_t length;

	if (!*start || loader->result)
		return NULL;
	end = strchrnul(start, '\n');
	length = (size_t)(end - start);
	loader->next = *end ? end + 1 : end;
	loader->line++;
	if (length > CONF_LINE_MAX || length + 2 > (size_t)out_bytes) {
		fail(loader, -EINVAL, "line is longer than %u characters", CONF_LINE_MAX);
		return NULL;
	}
	memcpy(out, start, length);
	out[length] = '\0';
	if (isspace((unsigned char)*out) && out[strspn(out, " \t\r")] != '\0' &&
	    !strchr(";#", out[strspn(out, " \t\r")])) {
		/* inih would take it for more of the value above */
		fail(loader, -EINVAL, "line begins with a blank: %s", out + strspn(out, " \t\r"));
		return NULL;
	}
	if (loader->line == 1 && !strncmp(out, "\xef\xbb\xbf[", 4))
		memmove(out, out + 3, length - 2);
	if (*out == '[' && open_section(loader, out))
		return NULL;
	return out;
}

/* Return: 0, or the error that fail() took down. */
static int take_key(struct loader *loader, const char *name, const char *value)
{
	const struct conf_key *key;
	char text[256], min[32], max[32];
	unsigned place = 0;
	int error;

	if (!loader->target)
		return fail(loader, -EINVAL, "key %s stands before any section", name);
	for (key = loader->schema->keys; key->section; key++) {
		if (strcmp(key->section, loader->kind))
			continue;
		if (!strcmp(key->key, name))
			break;
		place++;
	}
	if (!key->section)
		return fail(loader, -EINVAL, "there is no key %s in section [%s]", name,
			    loader->kind);
	if (place < CONF_KEYS_MAX) {
		if (loader->given & (1ull << place))
			return fail(loader, -EINVAL, "key %s is there twice", name);
		loader->given |= 1ull << place;
	}
	if (strstr(value, " #"))
		return fail(loader, -EINVAL, "%s = %s: a comment behind a value begins with ' ;', "
			    "not with '#'", name, value);
	error = set_value(key, value, loader->target);
	switch (error) {
	case 0:
		return 0;
	case -EINVAL:
		return fail(loader, error, "%s = %s: must be %s", name, value,
			    allowed(key, text, sizeof(text)));
	case -ERANGE:
		format_bound(key, key->min, min, sizeof(min));
		format_bound(key, key->max, max, sizeof(max));
		return fail(loader, error, "%s = %s: must lie between %s and %s", name, value, min,
			    max);
	default:
		return fail(loader, error, "%s: %s", name, strerror(-error));
	}
}

/* inih's handler: 1 good, 0 not. It cuts @section at 50 characters; open_section() does not. */
static int on_key(void *user, const char *section, const char *name, const char *value)
{
	struct loader *loader = user;

	(void)section;
	return !loader->result && !take_key(loader, name, value);
}

int conf_load_text(const struct conf_schema *schema, const char *name, const char *text,
		   void *config, char *error, size_t error_bytes)
{
	struct loader loader = {
		.schema = schema,
		.config = config,
		.name = name,
		.next = text,
		.error = error,
		.error_bytes = error_bytes,
	};
	int bad;

	if (error_bytes)
		error[0] = '\0';
	bad = ini_parse_stream(feed_line, &loader, on_key, &loader);
	if (bad > 0 && !loader.result) {
		loader.line = (unsigned)bad;
		fail(&loader, -EINVAL, "neither a [section] nor key = value");
	} else if (bad < 0) {
		fail(&loader, -ENOMEM, "out of memory");
	}
	for (unsigned i = 0; i < loader.seen_count; i++)
		free(loader.seen[i]);
	return loader.result;
}

static int read_text(const char *path, char **text)
{
	CLEANUP_FILE FILE *file = fopen(path, "re");
	struct stat status;
	size_t length;

	if (!file)
		return -errno;
	if (fstat(fileno(file), &status))
		return -errno;
	if (S_ISDIR(status.st_mode))
		return -EISDIR;
	*text = malloc(CONF_FILE_MAX + 1);
	if (!*text)
		return -ENOMEM;
	length = fread(*text, 1, CONF_FILE_MAX + 1, file);
	if (ferror(file))
		return -EIO;
	if (length > CONF_FILE_MAX)
		return -EFBIG;
	(*text)[length] = '\0';
	return strlen(*text) == length ? 0 : -EILSEQ; /* a NUL: not a text */
}

int conf_load(const struct conf_schema *schema, const char *path, void *config, char *error,
	      size_t error_bytes)
{
	CLEANUP_FREE char *text = NULL;
	int result = read_text(path, &text);

	if (result) {
		snprintf(error, error_bytes, "%s: cannot read the configuration: %s%s", path,
			 strerror(-result),
			 result == -EILSEQ ? " (there is a NUL byte in it: not a text file)" : "");
		return result;
	}
	return conf_load_text(schema, path, text, config, error, error_bytes);
}
