// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * layers: adds recovery points to the undo log of a machine with one disk whose master target does not run, sooner
 * than epochs could be applied. Called by tests/bench/undo.
 *
 *	layers LOG_DIRECTORY STATE_FILE COUNT RECORDS
 *
 * COUNT layers of RECORDS records of 4 KiB at random, and the state file made to follow. What the older states had is
 * made up: it can be read, and is not what the disk ever had.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>

#include <jansson.h>

#include "../random.h"
#include "../unit/undo_build.h"
#include "util.h"

#define DISK 1u
#define RECORD 4096u

static int fail(const char *what, const char *why)
{
	fprintf(stderr, "layers: %s: %s\n", what, why);
	return 1;
}

static int compare(const void *a, const void *b)
{
	const struct build_record *x = a, *y = b;

	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* @count different blocks of the disk. */
static void choose(struct build_record *records, size_t count, uint64_t size_bytes, const uint8_t *content, uint64_t *random)
{
	for (size_t i = 0; i < count; i++)
		records[i] = (struct build_record){ .offset = next_random(random) % (size_bytes / RECORD) * RECORD,
						    .content = content, .disk = DISK, .length = RECORD };
	qsort(records, count, sizeof(*records), compare);
	for (size_t i = 1; i < count; i++)
		if (records[i].offset <= records[i - 1].offset)
			records[i].offset = records[i - 1].offset + RECORD;
}

int main(int argc, char **argv)
{
	uint64_t random = RANDOM_SEED, number, epoch, size_bytes;
	uint8_t log[UNDO_UUID_BYTES], content[RECORD];
	struct build_record *records;
	json_t *undo, *now;
	const char *text;
	size_t count, each;

	if (argc != 5)
		return fail("usage", "layers LOG_DIRECTORY STATE_FILE COUNT RECORDS");
	CLEANUP_JSON json_t *state = json_load_file(argv[2], 0, NULL);
	CLEANUP_FD int dir = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (!state || dir < 0)
		return fail(state ? argv[1] : argv[2], "cannot be read");
	count = strtoull(argv[3], NULL, 10);
	each = strtoull(argv[4], NULL, 10);
	undo = json_object_get(state, "undo");
	now = json_object_get(undo, "now");
	number = (uint64_t)json_integer_value(json_object_get(undo, "number"));
	epoch = (uint64_t)json_integer_value(json_object_get(state, "last_applied"));
	size_bytes = (uint64_t)json_integer_value(json_object_get(json_array_get(json_object_get(state, "disks"), 0), "source_bytes"));
	text = json_string_value(json_object_get(undo, "log"));
	if (!text || !undo_uuid_parse(text, log))
		return fail(argv[2], "names no log");
	records = calloc(each, sizeof(*records));
	if (!records || size_bytes < 4 * each * RECORD)
		return fail(argv[2], "a disk too small, or no memory");
	for (size_t i = 0; i < RECORD; i += 8)
		memcpy(content + i, &(uint64_t){ next_random(&random) }, 8);
	for (size_t i = 0; i < count; i++, number++) {
		CLEANUP_FREE char *meta = json_dumps(now, JSON_COMPACT);

		choose(records, each, size_bytes, content, &random);
		build_layer(dir, log, number, number + 1, meta, records, each, 0, true);
		json_object_set_new(now, "epoch", json_integer((json_int_t)++epoch));
	}
	free(records);
	json_object_set_new(undo, "number", json_integer((json_int_t)number));
	json_object_set_new(undo, "top", json_integer((json_int_t)number));
	json_object_set_new(state, "last_applied", json_integer((json_int_t)epoch));
	json_object_set_new(state, "max_epoch", json_integer((json_int_t)epoch));
	return json_dump_file(state, argv[2], JSON_INDENT(2)) ? fail(argv[2], "cannot be written") : 0;
}
