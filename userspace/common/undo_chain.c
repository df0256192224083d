/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * undo_chain: which layers of a directory make the chain that ends at the committed state (undo_layer.h). Names say where a layer
 * belongs; of those that the chain needs, and of those that are left over, head and foot are read.
 */
#include "io.h"
#include "undo_layer.h"
#include "undo_layer_internal.h"
#include "util.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/*
 * struct found - a file
 * @error: of looking into it; -EINPROGRESS: nobody did yet
 * @why: static text for @error
 * @used: part of the chain, or kept for another reason: not stray
 */
struct found {
	struct undo_entry entry;
	int error;
	const char *why;
	bool used;
};

struct loader {
	struct undo_chain *chain;
	const uint8_t *log;
	int dir;
	void *buffer;
	struct undo_span *spans;
	struct found *found; /* of each of @spans */
	size_t count;
};

static int add_stray(struct undo_chain *chain, const char *name)
{
	char (*more)[UNDO_NAME_BYTES];

	/* Room for 1, 2, 4, 8, ... */
	if (!(chain->stray_count & (chain->stray_count - 1))) {
		more = realloc(chain->stray, (chain->stray_count ? 2 * chain->stray_count : 1) * sizeof(*more));
		if (!more)
			return -ENOMEM;
		chain->stray = more;
	}
	snprintf(chain->stray[chain->stray_count++], UNDO_NAME_BYTES, "%s", name);
	return 0;
}

static bool ends_with(const char *name, const char *end)
{
	size_t bytes = strlen(name), end_bytes = strlen(end);

	return bytes > end_bytes && bytes < UNDO_NAME_BYTES && !strcmp(name + bytes - end_bytes, end);
}

/* What a merge has begun, or what a person has: nothing needs it. */
static int add_other(void *user, const char *name)
{
	return ends_with(name, ".undo.tmp") || ends_with(name, ".undo") ? add_stray(user, name) : 0;
}

static int list(struct loader *loader)
{
	int error = undo_span_list(loader->dir, 0, &loader->spans, &loader->count, add_other, loader->chain);

	if (error)
		return error;
	loader->found = calloc(loader->count ? loader->count : 1, sizeof(*loader->found));
	if (!loader->found) {
		loader->count = 0;
		return -ENOMEM;
	}
	for (size_t i = 0; i < loader->count; i++)
		loader->found[i] = (struct found){ .entry = { .base = loader->spans[i].base, .last = loader->spans[i].last },
						   .error = -EINPROGRESS, .why = "" };
	return 0;
}

/* Read head and foot. Returns an error only where it says nothing about the layer. */
static int look(struct loader *loader, struct found *found)
{
	char name[UNDO_NAME_BYTES];
	struct undo_layer layer;

	if (found->error != -EINPROGRESS)
		return 0;
	undo_layer_name(name, found->entry.base, found->entry.last);
	found->error = undo_layer_open_with(&layer, loader->dir, name, loader->log, loader->buffer, &found->why);
	switch (found->error) {
	case 0:
		found->entry.sealed = layer.sealed;
		found->entry.bytes = layer.bytes;
		found->entry.foot = layer.foot;
		found->entry.meta = json_incref(layer.meta);
		undo_layer_close(&layer);
		return 0;
	case -ENOENT:	/* removed since it was listed */
	case -ESTALE:	/* another log's */
	case -ENODATA:
	case -EBADMSG:
	case -EIO:
		return 0;
	default:
		snprintf(loader->chain->why, sizeof(loader->chain->why), "layer %s: %s: %s", name, found->why,
			 strerror(-found->error));
		return found->error;
	}
}

/* Its content cannot be had, and it is not just another log's or gone. */
static bool damaged(const struct found *found)
{
	return found->error && found->error != -ENOENT && found->error != -ESTALE;
}

/* The widest sealed layer that ends at @last, or NULL. @broken: one that would have been it but for damage */
static int find(struct loader *loader, uint64_t last, struct found **found, struct found **broken)
{
	*found = NULL;
	*broken = NULL;
	for (size_t i = undo_span_find(loader->spans, loader->count, last);
	     i < loader->count && loader->spans[i].last == last; i++) {
		struct found *it = &loader->found[i];
		int error = look(loader, it);

		if (error)
			return error;
		if (!it->error && it->entry.sealed) {
			*found = it;
			return 0;
		}
		if (!it->error || damaged(it))
			*broken = it;
	}
	return 0;
}

/* Backwards from the committed state; what is found first stands last. */
static int build(struct loader *loader, uint64_t committed, uint64_t *oldest, struct found **broken)
{
	struct undo_chain *chain = loader->chain;
	struct found *found;

	chain->entries = calloc(loader->count ? loader->count : 1, sizeof(*chain->entries));
	if (!chain->entries)
		return -ENOMEM;
	for (*oldest = committed;; *oldest = found->entry.base) {
		int error = find(loader, *oldest, &found, broken);

		if (error)
			return error;
		if (!found)
			break;
		found->used = true;
		chain->entries[chain->count++] = found->entry;
		found->entry.meta = NULL;
	}
	for (size_t i = 0; i < chain->count / 2; i++) {
		struct undo_entry entry = chain->entries[i];

		chain->entries[i] = chain->entries[chain->count - 1 - i];
		chain->entries[chain->count - 1 - i] = entry;
	}
	return 0;
}

/* The one behind the committed state: of several the last one that was begun. */
static int find_open(struct loader *loader, uint64_t committed)
{
	struct undo_chain *chain = loader->chain;

	for (size_t i = loader->count; i--;) {
		struct found *found = &loader->found[i];
		int error;

		if (found->entry.base != committed)
			continue;
		error = look(loader, found);
		if (error)
			return error;
		if (damaged(found)) {
			found->used = true;
			if (!chain->open_damaged)
				chain->open_damaged = found->entry.last;
		} else if (!found->error && !chain->open.last) {
			found->used = true;
			chain->open = found->entry;
			found->entry.meta = NULL;
		}
	}
	return 0;
}

static int explain_gap(struct loader *loader, uint64_t oldest, const struct found *broken)
{
	struct undo_chain *chain = loader->chain;
	char name[UNDO_NAME_BYTES];

	if (broken) {
		undo_layer_name(name, broken->entry.base, broken->entry.last);
		chain->gap = true;
		snprintf(chain->why, sizeof(chain->why), "layer %s: %s; states before %" PRIu64 " cannot be had", name,
			 broken->error ? broken->why : "it is not complete", oldest);
		return 0;
	}
	for (size_t i = 0; i < loader->count; i++) {
		struct found *found = &loader->found[i];
		int error;

		if (found->used || found->entry.base >= oldest)
			continue;
		error = look(loader, found);
		if (error)
			return error;
		if (found->error || !found->entry.sealed)
			continue;
		chain->gap = true;
		snprintf(chain->why, sizeof(chain->why), "the layer that ends at state %" PRIu64 " is missing; states before it "
			 "cannot be had", oldest);
		return 0;
	}
	return 0;
}

static int load(struct loader *loader, uint64_t committed)
{
	struct found *broken;
	char name[UNDO_NAME_BYTES];
	uint64_t oldest;
	int error = list(loader);

	if (!error)
		error = build(loader, committed, &oldest, &broken);
	if (!error)
		error = find_open(loader, committed);
	if (!error)
		error = explain_gap(loader, oldest, broken);
	for (size_t i = 0; !error && i < loader->count; i++)
		if (!loader->found[i].used && loader->found[i].error != -ENOENT) {
			undo_layer_name(name, loader->found[i].entry.base, loader->found[i].entry.last);
			error = add_stray(loader->chain, name);
		}
	return error;
}

int undo_chain_load(struct undo_chain *chain, int dir, const uint8_t log[UNDO_UUID_BYTES], uint64_t committed)
{
	struct loader loader = { .chain = chain, .log = log, .dir = dir, .buffer = io_buffer_alloc(UNDO_RECORD_MAX) };
	int error = loader.buffer ? 0 : -ENOMEM;

	*chain = (struct undo_chain){ 0 };
	if (!error)
		error = load(&loader, committed);
	for (size_t i = 0; i < loader.count; i++)
		json_decref(loader.found[i].entry.meta);
	free(loader.found);
	free(loader.spans);
	free(loader.buffer);
	if (error) {
		char why[sizeof(chain->why)];

		memcpy(why, chain->why, sizeof(why));
		undo_chain_clear(chain);
		memcpy(chain->why, why, sizeof(why));
	}
	return error;
}

void undo_chain_clear(struct undo_chain *chain)
{
	for (size_t i = 0; i < chain->count; i++)
		json_decref(chain->entries[i].meta);
	json_decref(chain->open.meta);
	free(chain->entries);
	free(chain->stray);
	*chain = (struct undo_chain){ 0 };
}
