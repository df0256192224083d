/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * conf: a program's configuration, one commented INI file, read through a table that
 * names every key. Unknown sections and keys, values that do not parse or lie outside
 * their bounds are errors that name file, line, key, value, and what is allowed.
 *
 * Sections with instances are written [kind name], e.g. [disk root]: the program's
 * @section callback gets kind and name and returns the struct that the keys fill.
 */
#ifndef REPROTECT_CONF_H
#define REPROTECT_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum conf_type {
	CONF_STRING, /* char *, allocated */
	CONF_BYTES,  /* uint64_t; suffixes K M G T (1024) */
	CONF_MS,     /* uint64_t milliseconds; "5s", "300ms", "10min", "1h"; bare numbers are seconds */
	CONF_NUMBER, /* uint64_t */
	CONF_BOOL,   /* bool; yes/no/true/false/on/off */
	CONF_CHOICE  /* int, index into a NULL-terminated list */
};

/**
 * struct conf_key - one key
 * @section: its section's kind
 * @key: its name
 * @type, @offset: how, and where in the struct of the section
 * @text: the default, parsed like a value (NULL: 0, false, NULL)
 * @min, @max: bounds of numbers (both 0: none)
 * @choices: for CONF_CHOICE
 * @help: one line for --help-config and the sample file
 */
struct conf_key {
	const char *section;
	const char *key;
	enum conf_type type;
	size_t offset;
	const char *text;
	uint64_t min, max;
	const char *const *choices;
	const char *help;
};

struct conf_schema {
	const struct conf_key *keys; /* ends with a NULL section */
	/* the struct to fill for [kind] (name NULL) or [kind name]; NULL: no such section */
	void *(*section)(void *config, const char *kind, const char *name);
};

/**
 * conf_defaults - set the defaults of section @kind in @target (also done by
 * conf_load for each section it meets first; call it for sections that may be missing).
 * @target is zeroed or was set before: old strings are freed.
 */
void conf_defaults(const struct conf_schema *schema, const char *kind, void *target);
/** conf_load - read @path into @config. Return 0, or negative errno with the message in @error. */
int conf_load(const struct conf_schema *schema, const char *path, void *config, char *error, size_t error_bytes);
/** conf_load_text - the same from memory (tests, fuzzing); @name stands in messages */
int conf_load_text(const struct conf_schema *schema, const char *name, const char *text, void *config, char *error, size_t error_bytes);
/**
 * conf_instance - for a section callback: the entry @name of @entries
 *
 * Each of the @max entries has @entry_bytes and begins with a char *, its name; @count are in use.
 * Return: the entry, added when there was none; NULL: no room, or out of memory.
 */
void *conf_instance(void *entries, size_t entry_bytes, size_t max, size_t *count, const char *name);
/** conf_free - free the strings of section @kind in @target */
void conf_free(const struct conf_schema *schema, const char *kind, void *target);

/* Shared by the command lines. Return 0 or -EINVAL. */
int conf_parse_bytes(const char *text, uint64_t *bytes);
int conf_parse_ms(const char *text, uint64_t *ms);
/** conf_format_bytes - "1.5 GiB" */
const char *conf_format_bytes(uint64_t bytes, char *out, size_t out_bytes);

#endif
