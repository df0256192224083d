// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * merge: see merge.h. Finds the layers, makes one map of their records (undo_map.h: the oldest counts), and copies what
 * the map shows, in the order of the disks: merge_read.c brings it, merge_write.c takes it.
 */
#include "merge.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "merge_read.h"
#include "merge_write.h"
#include "undo_file.h"
#include "util.h"

#define TEMPORARY_BYTES (UNDO_NAME_BYTES + 8u)

struct merge {
	int dir;
	const uint8_t *log;
	struct undo_span whole;
	struct undo_span *spans; /* all behind its beginning, then those of the chain */
	size_t span_count;
	struct undo_layer *layers; /* of the chain, oldest first */
	size_t layer_count;
	struct undo_map map;
	char *error;
	size_t error_bytes;
};

static int fail(const struct merge *merge, int error, const char *format, ...) __attribute__((format(printf, 3, 4)));

static int fail(const struct merge *merge, int error, const char *format, ...)
{
	char name[UNDO_NAME_BYTES], cause[320];
	va_list list;

	va_start(list, format);
	vsnprintf(cause, sizeof(cause), format, list);
	va_end(list);
	undo_layer_name(name, merge->whole.base, merge->whole.last);
	snprintf(merge->error, merge->error_bytes, "layer %s: cannot be made: %s: %s (%s; nothing is lost)", name, cause,
		 strerror(-error),
		 error == -ENOSPC  ? "enlarge the retention volume or keep less" :
		 error == -ENOMEM  ? "free memory on this machine" :
		 error == -EBADMSG ? "check the disk of the retention volume: dmesg, smartctl" :
				     "check the retention volume: dmesg");
	return error;
}

static void temporary_name(const struct merge *merge, char out[TEMPORARY_BYTES])
{
	char name[UNDO_NAME_BYTES];

	undo_layer_name(name, merge->whole.base, merge->whole.last);
	snprintf(out, TEMPORARY_BYTES, "%s.tmp", name);
}

/* ---- which layers ------------------------------------------------------------- */

/* By base; of one base the longest first. */
static int span_order(const void *a, const void *b)
{
	const struct undo_span *one = a, *other = b;

	if (one->base != other->base)
		return one->base < other->base ? -1 : 1;
	return (one->last < other->last) - (one->last > other->last);
}

/* Keep those that lead from one end to the other. */
static int choose_chain(struct merge *merge)
{
	const struct undo_span *whole = &merge->whole;
	uint64_t at = whole->base;
	size_t count = 0;

	if (merge->span_count)
		qsort(merge->spans, merge->span_count, sizeof(*merge->spans), span_order);
	for (size_t i = 0; i < merge->span_count && at != whole->last; i++) {
		const struct undo_span span = merge->spans[i];

		if (span.base != at || span.last > whole->last || (at == whole->base && span.last == whole->last))
			continue;
		merge->spans[count++] = span;
		at = span.last;
	}
	merge->span_count = count;
	if (count < 2 || at != whole->last)
		return fail(merge, -ENOENT, "no layer leads on from state %" PRIu64, at);
	if (count > UNDO_MAP_LAYERS_MAX)
		return fail(merge, -E2BIG, "%zu layers are too many at once", count);
	return 0;
}

static int open_chain(struct merge *merge)
{
	merge->layers = calloc(merge->span_count, sizeof(*merge->layers));
	if (!merge->layers)
		return fail(merge, -ENOMEM, "%zu layers", merge->span_count);
	for (size_t i = 0; i < merge->span_count; i++) {
		struct undo_layer *layer = &merge->layers[i];
		char name[UNDO_NAME_BYTES], why[200] = "";
		int r;

		undo_layer_name(name, merge->spans[i].base, merge->spans[i].last);
		r = undo_layer_open(layer, merge->dir, name, merge->log, why, sizeof(why));
		if (r)
			return fail(merge, r, "%s", *why ? why : name);
		merge->layer_count++;
		if (!layer->sealed || layer->head.base != merge->spans[i].base || layer->head.last != merge->spans[i].last)
			return fail(merge, -EBADMSG, "%s is not complete, or another one", name);
	}
	return 0;
}

static const char *layer_name(const struct merge *merge, size_t layer, char name[UNDO_NAME_BYTES])
{
	undo_layer_name(name, merge->spans[layer].base, merge->spans[layer].last);
	return name;
}

static int make_map(struct merge *merge)
{
	char name[UNDO_NAME_BYTES];
	int r;

	for (size_t i = 0; i < merge->layer_count; i++) {
		CLEANUP_FREE struct undo_record *records = NULL;
		size_t count = 0;

		r = undo_layer_records(&merge->layers[i], &records, &count);
		if (r)
			return fail(merge, r, "records of %s", layer_name(merge, i, name));
		r = undo_map_add(&merge->map, records, count, (uint16_t)i);
		if (r)
			return fail(merge, r, "records of %s", layer_name(merge, i, name));
	}
	r = undo_map_join(&merge->map);
	return r ? fail(merge, r, "a map of %zu layers", merge->layer_count) : 0;
}

/* ---- copying -------------------------------------------------------------------- */

static int fail_piece(const struct merge *merge, int error, const struct undo_piece *piece)
{
	char name[UNDO_NAME_BYTES];

	return fail(merge, error, "%s: content of disk %u at %" PRIu64 ", in the file at %" PRIu64,
		    layer_name(merge, piece->layer, name), piece->disk, piece->offset, piece->place);
}

static int copy(struct merge *merge, struct merge_reader *reader, struct merge_writer *writer)
{
	const struct undo_run *run = merge->map.runs;
	size_t taken, failed = 0;
	int r;

	for (size_t done = 0; merge->map.count && done < run->count; done += taken) {
		const struct undo_piece *pieces = run->pieces + done;

		r = merge_read(reader, pieces, run->count - done, &taken, &failed);
		if (r)
			return fail_piece(merge, r, &pieces[failed]);
		for (size_t i = 0; i < taken; i++) {
			r = merge_write(writer, pieces[i].disk, pieces[i].offset, pieces[i].length, merge_read_data(reader, i));
			if (r)
				return fail(merge, r, "write");
		}
	}
	return 0;
}

static int write_layer(struct merge *merge, struct merge_reader *reader, struct undo_entry *entry)
{
	struct undo_head head = { .base = merge->whole.base, .last = merge->whole.last };
	CLEANUP_FREE char *meta = json_dumps(merge->layers[0].meta, JSON_COMPACT);
	char temporary[TEMPORARY_BYTES];
	struct merge_writer *writer = NULL;
	int r;

	if (!meta || !reader)
		return fail(merge, -ENOMEM, "buffers");
	if (strlen(meta) > UNDO_META_MAX)
		return fail(merge, -E2BIG, "what state %" PRIu64 " is", head.base);
	head.meta_bytes = (uint32_t)strlen(meta);
	memcpy(head.log, merge->log, sizeof(head.log));
	temporary_name(merge, temporary);
	r = merge_writer_new(&writer, merge->dir, temporary, &head, meta);
	if (r)
		return fail(merge, r, "begin %s", temporary);
	r = copy(merge, reader, writer);
	if (!r) {
		undo_map_clear(&merge->map); /* the index needs as much again */
		r = merge_writer_end(writer, &entry->foot, &entry->bytes);
		if (r)
			fail(merge, r, "end %s", temporary);
	}
	merge_writer_free(writer);
	if (r)
		return r;
	entry->base = head.base;
	entry->last = head.last;
	entry->sealed = true;
	entry->meta = json_incref(merge->layers[0].meta);
	return 0;
}

static int merge_chain(struct merge *merge, struct undo_entry *entry)
{
	const struct undo_run none = { .count = 0 }, *run;
	struct merge_reader *reader;
	int r = undo_span_list(merge->dir, merge->whole.base, &merge->spans, &merge->span_count, NULL, NULL);

	if (r)
		return fail(merge, r, "look into the undo log");
	r = choose_chain(merge);
	if (!r)
		r = open_chain(merge);
	if (!r)
		r = make_map(merge);
	if (r)
		return r;
	run = merge->map.count ? &merge->map.runs[0] : &none;
	reader = merge_reader_new(merge->layers, run->pieces, run->count);
	r = write_layer(merge, reader, entry);
	merge_reader_free(reader);
	return r;
}

int merge_layers(int dir, const uint8_t log[UNDO_UUID_BYTES], uint64_t base, uint64_t last, struct undo_entry *entry,
		 char *error, size_t error_bytes)
{
	struct merge merge = { .dir = dir, .log = log, .whole = { base, last }, .error = error,
			       .error_bytes = error_bytes };
	struct undo_entry made = { .base = 0 };
	char temporary[TEMPORARY_BYTES];
	int r;

	r = base < last ? merge_chain(&merge, &made) : fail(&merge, -EINVAL, "state %" PRIu64 " is not before it", base);
	if (r) { /* also what an earlier attempt has left */
		temporary_name(&merge, temporary);
		undo_unlink(dir, temporary);
	}
	for (size_t i = 0; i < merge.layer_count; i++)
		undo_layer_close(&merge.layers[i]);
	free(merge.layers);
	free(merge.spans);
	undo_map_clear(&merge.map);
	if (!r && entry)
		*entry = made;
	else
		json_decref(made.meta);
	return r;
}
